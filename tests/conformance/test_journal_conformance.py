"""What every journal of rounds promises, over each there is: a file, the store on SQLite and on PostgreSQL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import ArrayRecord
from journals import KINDS, Place, arrays, fill, place
from postgres import shared_server

from fedmesh.coordinator import RoundRecord, SessionRecord, StageRecord
from fedmesh.errors import ConfigError

SUPPORT = Path(__file__).parents[1] / "support"

RECORD = RoundRecord(
    3,
    clients=10,
    survivors=8,
    metrics={"train.loss": [0.1, 0.2], "train.count": 7},
    evaluation={"accuracy": 0.1 + 0.2, "loss": float("inf"), "epsilon": None},
    failures=((4, "gone"), (5, "é\n\0")),
    failed="why",
    stages=(StageRecord("advertise", 10, 9, 1000, 2000, 0.125),),
    sessions=(SessionRecord(0, 2, 5, 4), SessionRecord(1, 2, 5, 0, "threshold: too few")),
)


@pytest.fixture(params=KINDS)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place(request.param, tmp_path, lambda: shared_server().database())


def another_process(place: Place, program: str) -> subprocess.CompletedProcess[str]:
    """What comes of `program` in a new interpreter, where `opened()` opens the journal."""
    start = "import os, sys\nimport journals\nfrom journals import *\nopened = lambda: journals.opened(sys.argv[1])\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])}
    command = [sys.executable, "-c", start + program, place.where]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)


def test_an_empty_journal_has_no_last_round(where: Place) -> None:
    journal = where.open()
    assert journal.last() is None
    assert journal.records() == []
    assert 1 <= journal.run_id <= 2**62
    journal.close()


def test_what_was_committed_is_found_again(where: Place) -> None:
    journal = fill(where.open())
    run_id = journal.run_id
    journal.commit(RECORD, arrays(9.5), strategy=b"last", states={3: b"x", 2**64 - 1: b"y"})
    journal.close()
    journal.close()  # idempotent
    journal = where.open()
    last = journal.last()
    assert last is not None
    assert (last.record, last.strategy, last.states) == (RECORD, b"last", {3: b"x", 2**64 - 1: b"y"})
    assert last.arrays == arrays(9.5)
    assert [record.round for record in journal.records()] == [0, 1, 2, 3]
    assert journal.run_id == run_id
    journal.commit(RoundRecord(4), arrays(1))  # a resumed run knows what is there of the nodes
    last = journal.last()
    assert last is not None
    assert last.states == {}
    journal.close()


def test_rounds_follow_one_another(where: Place) -> None:
    journal = fill(where.open())
    for number in (2, 4):
        with pytest.raises(ConfigError, match="wants round 3"):
            journal.commit(RoundRecord(number), arrays())
    assert [record.round for record in journal.records()] == [0, 1, 2]
    journal.close()


def test_attempts_are_numbered_upwards_and_never_the_same_twice(where: Place) -> None:
    journal = fill(where.open())
    assert [journal.next_attempt(3) for _ in range(3)] == [1, 2, 3]
    assert journal.next_attempt(4) == 1
    journal.close()
    journal = where.open()
    assert journal.next_attempt(3) == 4
    assert [journal.next_attempt(number) for number in (4, 5, 6)] == [2, 1, 1]
    assert journal.records()[-1].round == 2  # not a part of what was committed
    journal.close()


def test_what_is_returned_is_durable_under_kill_9(where: Place) -> None:
    fill(where.open()).close()
    killed = "journal = opened()\njournal.next_attempt(3)\nfrom fedmesh.coordinator import RoundRecord\n"
    killed += "journal.commit(RoundRecord(3, clients=7), arrays(8), states={9: b'nine'})\n"
    killed += "journal.next_attempt(4)\nos.kill(os.getpid(), 9)"
    died = another_process(where, killed)
    assert died.returncode == -9, died.stderr
    journal = where.open()  # the killed owner did not stay
    last = journal.last()
    assert last is not None
    assert (last.record.round, last.record.clients, last.states) == (3, 7, {9: b"nine"})
    assert last.arrays == arrays(8)
    assert (journal.next_attempt(3), journal.next_attempt(4)) == (2, 2)
    journal.close()


def test_a_second_owner_is_refused_until_the_first_is_gone(where: Place) -> None:
    journal = fill(where.open())
    with pytest.raises(ConfigError, match=r"Another process|another coordinator"):
        where.open()
    journal.commit(RoundRecord(3), arrays())  # the first goes on
    journal.close()
    journal = where.open()
    assert journal.records()[-1].round == 3
    journal.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {model} SET strategy = arrays",
        "DELETE FROM {model}",
        "UPDATE {node} SET state = (SELECT strategy FROM {model})",
        "DELETE FROM {node} WHERE id = '3'",
        "UPDATE {node} SET id = 'nobody' WHERE id = '3'",
        "UPDATE {node} SET id = '-3' WHERE id = '3'",
        "DELETE FROM {round} WHERE number = 1",
        "DELETE FROM {round} WHERE number = 2",
        "DELETE FROM {round} WHERE number = 0",
        "UPDATE {round} SET record = replace(record, '\"clients\": 1', '\"clients\": 9')",
        "UPDATE {round} SET record = '{{}}' WHERE number = 2",
        "UPDATE {round} SET digest = checkpoint WHERE number = 2",
    ],
)
def test_whatever_is_changed_behind_its_back_is_found(where: Place, statement: str) -> None:
    fill(where.open()).close()
    where.alter(statement)
    journal = where.open()
    with pytest.raises(ConfigError, match="damaged"):
        journal.last()
    journal.close()


def test_a_commit_that_fails_leaves_the_round_before(where: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops it on the way: here the last statement of the transaction cannot be done."""
    journal = fill(where.open())
    if where.kind == "postgresql":
        refuse = "CREATE FUNCTION no() RETURNS trigger AS $$ BEGIN RAISE 'disk full'; END $$ LANGUAGE plpgsql"
        where.alter(refuse)
        where.alter("CREATE TRIGGER no BEFORE INSERT ON {node} EXECUTE FUNCTION no()")
        heal = "DROP TRIGGER no ON {node}"
    elif where.kind == "sqlite":
        where.alter("CREATE TRIGGER no BEFORE INSERT ON {node} BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        heal = "DROP TRIGGER no"
    else:
        journal._db.execute("CREATE TEMP TRIGGER no BEFORE INSERT ON node BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        heal = ""
    with pytest.raises(ConfigError):
        journal.commit(RoundRecord(3), arrays(7), strategy=b"new", states={2: b"new"})
    last = journal.last()
    assert last is not None
    assert (last.record.round, last.strategy, last.arrays) == (2, b"s2", arrays(2))
    where.alter(heal) if heal else journal._db.execute("DROP TRIGGER no")
    journal.commit(RoundRecord(3), ArrayRecord(), strategy=b"again", states={2: b"new"})
    last = journal.last()
    assert last is not None
    assert (last.record.round, last.strategy, last.states) == (3, b"again", {2: b"new"})
    journal.close()


def test_the_same_round_is_not_committed_twice_with_other_content(where: Place) -> None:
    journal = fill(where.open())
    with pytest.raises(ConfigError, match="wants round 3"):
        journal.commit(RoundRecord(2, clients=99), arrays())
    journal.close()
