import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord

from fedmesh.coordinator import Journal, RoundRecord, SessionRecord, StageRecord
from fedmesh.errors import ConfigError, DecodeError


def arrays(value: float = 0.0) -> ArrayRecord:
    return ArrayRecord([np.full(1000, value, np.float32), np.arange(6, dtype=np.int8).reshape(2, 3)])


def filled(path: Path | None, rounds: int = 3) -> Journal:
    journal = Journal(path)
    for number in range(rounds):
        states = {2: b"two", 3: f"three {number}".encode()}
        journal.commit(RoundRecord(number, clients=number), arrays(number), strategy=b"s%d" % number, states=states)
    return journal


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    filled(tmp_path / "journal").close()
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


RECORD = RoundRecord(
    3,
    clients=10,
    survivors=8,
    metrics={"train.loss": [0.1, 0.2], "train.count": 7},
    evaluation={"accuracy": 0.1 + 0.2, "loss": float("inf"), "epsilon": None},
    bytes_up=1.5,
    bytes_down=2.5,
    seconds=0.25,
    failures=((4, "gone"), (5, "é\n")),
    failed="why",
    stages=(StageRecord("advertise", 10, 9, 1000, 2000, 0.125), StageRecord("share", 9, 8, 1, 2, 0.1)),
    sessions=(SessionRecord(0, 2, 5, 4), SessionRecord(1, 2, 5, 0, "threshold: too few")),
)


def test_a_record_survives_json_bit_for_bit() -> None:
    assert RoundRecord.from_json(RECORD.to_json()) == RECORD
    for text in ("", "[]", "{}", '{"round": 1, "failures": [], "what": 2}', '{"round": 1, "failures": [[1]]}'):
        with pytest.raises(DecodeError):
            RoundRecord.from_json(text)


def test_a_record_from_before_there_were_stages_is_read() -> None:
    plain = json.loads(RECORD.to_json())
    del plain["stages"], plain["sessions"]
    record = RoundRecord.from_json(json.dumps(plain))
    assert (record.stages, record.sessions) == ((), ())
    assert record.failures == RECORD.failures
    for wrong in ({"stages": [1]}, {"sessions": [{"group": 1}]}, {"stages": 3}):
        with pytest.raises(DecodeError):
            RoundRecord.from_json(json.dumps({**plain, **wrong}))


def test_attempts_are_numbered_upwards_and_never_the_same_twice(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with filled(path) as journal:
        assert [journal.next_attempt(3) for _ in range(3)] == [1, 2, 3]
        assert journal.next_attempt(4) == 1
    with Journal(path) as journal:
        assert journal.next_attempt(3) == 4
        assert [journal.next_attempt(number) for number in (4, 5, 6)] == [2, 1, 1]
        assert journal._db.execute("SELECT COUNT(*) FROM attempt").fetchone() == (3,)
        assert journal.records()[-1].round == 2  # not a part of what was committed
        assert journal.last() is not None


def test_an_attempt_is_durable_before_it_is_given_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom fedmesh.coordinator import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\njournal.next_attempt(1)\njournal.next_attempt(1)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    with Journal(path) as journal:
        assert journal.next_attempt(1) == 3


def test_a_journal_from_before_there_were_attempts_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("DROP TABLE attempt")
    raw.close()
    with Journal(path) as journal:
        assert journal.records()[-1].round == 2
        assert journal.next_attempt(3) == 1
        journal.commit(RECORD, arrays(1))
    with Journal(path) as journal:
        assert journal.records()[-1] == RECORD
        assert journal.next_attempt(3) == 2


def test_what_was_committed_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with filled(path) as journal:
        run_id = journal.run_id
        journal.commit(RECORD, arrays(9.5), strategy=b"last", states={3: b"x", 2**64 - 1: b"y"})
    with Journal(path) as journal:
        last = journal.last()
        assert last is not None
        assert (last.record, last.strategy, last.states) == (RECORD, b"last", {3: b"x", 2**64 - 1: b"y"})
        assert [a.numpy().tolist() for a in last.arrays.values()] == [a.numpy().tolist() for a in arrays(9.5).values()]
        assert [record.round for record in journal.records()] == [0, 1, 2, 3]
        assert journal.run_id == run_id > 0


def test_an_empty_journal_has_no_last_round(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal, Journal() as other:
        assert journal.last() is None
        assert journal.records() == []
        assert journal.run_id != other.run_id


def test_rounds_follow_one_another() -> None:
    journal = filled(None)
    for number in (2, 4):
        with pytest.raises(ConfigError, match="wants round 3"):
            journal.commit(RoundRecord(number), arrays())


def test_a_commit_that_fails_leaves_the_round_before(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with filled(path) as journal:
        journal._db.execute("PRAGMA max_page_count = 1")  # no page more than it has: a full disk
        big = ArrayRecord([np.zeros(1_000_000, np.float32)])
        with pytest.raises(ConfigError, match=r"full.*Make room"):
            journal.commit(RoundRecord(3), big, strategy=b"new", states={2: b"new"})
        assert journal.records()[-1].round == 2
        journal._db.execute("PRAGMA max_page_count = 1000000")
        journal.commit(RoundRecord(3), arrays(7), strategy=b"again", states={2: b"new"})
    with Journal(path) as journal:
        last = journal.last()
        assert last is not None
        assert (last.record.round, last.strategy, last.states) == (3, b"again", {2: b"new"})


def test_the_file_does_not_grow_with_the_rounds(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path, 5).close()
    size = path.stat().st_size
    with Journal(path) as journal:
        for number in range(5, 40):
            journal.commit(RoundRecord(number), arrays(number))
    assert path.stat().st_size < size + 35 * 1000


def test_two_processes_do_not_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from fedmesh.coordinator import Journal\nfrom fedmesh.errors import ConfigError\n"
        "try: Journal(Path(sys.argv[1]))\nexcept ConfigError as error: print(error)"
    )
    with filled(path):
        run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert "Another process" in run.stdout


def test_a_missing_or_unwritable_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Name a directory"):
        Journal(tmp_path / "none" / "journal")
    path = tmp_path / "journal"
    path.mkdir()
    with pytest.raises(ConfigError, match=str(path)):
        Journal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="may write"):
        Journal(tmp_path / "journal")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE model SET arrays = zeroblob(4000)",
        "UPDATE model SET strategy = x'00'",
        "DELETE FROM model",
        "UPDATE model SET arrays = 5",
        "UPDATE node SET state = 'text' WHERE id = 2",
        "UPDATE round SET record = x'00' WHERE number = 0",
        "UPDATE node SET state = x'00' WHERE id = 2",
        "DELETE FROM node WHERE id = 3",
        "INSERT INTO node VALUES (9, x'00')",
        "INSERT INTO node VALUES ('nobody', x'00')",
        "UPDATE node SET id = '-3' WHERE id = '3'",
        "DELETE FROM round WHERE number = 1",
        "DELETE FROM round WHERE number = 2",
        "UPDATE round SET record = replace(record, '\"clients\": 1', '\"clients\": 9')",
        "UPDATE round SET record = '{}', digest = x'00' WHERE number = 2",
    ],
)
def test_whatever_is_changed_behind_its_back_is_found(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "journal"
    filled(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute(statement)
    raw.close()
    with Journal(path) as journal, pytest.raises(ConfigError, match="damaged"):
        journal.last()


def test_overwritten_pages_are_found(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path).close()
    whole = path.read_bytes()
    refused = 0
    for start in range(0, len(whole) - 512, 1024):
        path.write_bytes(whole[:start] + b"\xa5" * 512 + whole[start + 512 :])
        try:
            with Journal(path) as journal:
                last = journal.last()
        except ConfigError as error:
            assert "Traceback" not in str(error)  # noqa: PT017
            refused += 1
        else:  # a page that holds nothing
            assert last is not None
            assert (last.record.round, last.strategy, last.states[3]) == (2, b"s2", b"three 2")
            assert last.arrays == arrays(2)
    assert refused >= 8


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be read as a header....." * 20, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="journal"):
        Journal(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path).close()
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(ConfigError, match="damaged"), Journal(path) as journal:
        journal.last()


def test_another_database_or_another_format_is_refused(tmp_path: Path) -> None:
    other, later = tmp_path / "other", tmp_path / "later"
    with sqlite3.connect(other) as raw:
        raw.execute("CREATE TABLE photos (id)")
    raw.close()
    with pytest.raises(ConfigError, match="not a journal of fedmesh"):
        Journal(other)
    filled(later).close()
    with sqlite3.connect(later) as raw:
        raw.execute("UPDATE journal SET format = 99")
    raw.close()
    with pytest.raises(ConfigError, match="format 99"):
        Journal(later)
