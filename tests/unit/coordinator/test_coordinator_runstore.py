"""The store of many runs, on SQLite and on a real PostgreSQL."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from flwr.app import ArrayRecord
from journals import arrays, execute, fill
from postgres import PASSWORD, shared_server

from fedmesh.coordinator import DEFAULT_URL, RoundRecord, RunState, RunStore, StoredControl, Wish, journal_url
from fedmesh.coordinator.runlease import _lock_path
from fedmesh.errors import ConfigError
from fedmesh.testing import ManualClock


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.sqlite3'}" if request.param == "sqlite" else shared_server().database()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite3"


def test_runs_are_told_apart(url: str) -> None:
    times = iter(range(100))
    store = RunStore(url, now=lambda: float(next(times)))
    first, second = store.create("digits", {"seed": 1}, 5), store.create("har", {"seed": 2}, 7)
    with store.journal(first) as one, store.journal(second) as two:  # side by side
        fill(one)
        two.commit(RoundRecord(0, clients=5), arrays(5))
        assert (one.next_attempt(1), one.next_attempt(1), two.next_attempt(1)) == (1, 2, 1)
        two.tell({"classes": ["a"]})
        two.tell({"held_out": 3})
        assert [info.held for info in store.runs()] == [True, True]
    infos = {info.id: info for info in store.runs()}
    assert [info.id for info in store.runs()] == [second, first]  # the newest first
    assert (infos[first].name, infos[first].rounds, infos[first].committed) == ("digits", 5, 2)
    assert (infos[second].scenario, infos[second].committed) == ({"seed": 2}, 0)
    assert (infos[first].facts, infos[second].facts) == ({}, {"classes": ["a"], "held_out": 3})
    assert infos[second].updated > infos[second].created
    assert not any(info.held for info in infos.values())
    assert [len(store.records(run)) for run in (first, second)] == [3, 1]
    with store.journal(second) as journal:
        last = journal.last()
        assert last is not None
        assert last.arrays == arrays(5)


def test_a_run_is_found_by_name_or_by_the_beginning_of_its_id(url: str) -> None:
    store = RunStore(url, now=itertools.count(1.0).__next__)
    run = store.create("digits", {}, 1)
    assert store.find("digits").id == store.find(f"{run:016x}").id == store.find(f"{run:016X}"[:15]).id == run
    again = store.create("digits", {}, 1)
    assert store.find("digits").id == again, "the newest is meant"
    assert store.find(f"{run:016x}").id == run
    for nothing in ("", "nope", "z"):
        with pytest.raises(ConfigError, match=r"there is no run .*\(digits\)"):
            store.find(nothing)
    with pytest.raises(ConfigError, match="there is no run 0000000000000005"):
        store.journal(5)
    with pytest.raises(ConfigError, match="there is no run"):
        store.ask(5, Wish.STOP)


def test_what_a_run_says_and_what_is_asked_of_it(url: str) -> None:
    store, clock = RunStore(url), ManualClock()
    run = store.create("digits", {}, 3)
    assert store.info(run).condition == "created"
    with store.journal(run) as journal:
        control = StoredControl(store, journal, poll_s=1.0, clock=clock)
        control.report(RunState.RUNNING)
        assert (control.state(), store.info(run).condition) == (Wish.RUN, "running")
        RunStore(url).ask(run, Wish.PAUSE)  # another process
        assert (control.state(), store.info(run).condition) == (Wish.RUN, "pausing")  # asked once a second
        clock.advance(1.0)
        assert control.state() is Wish.PAUSE
        control.report(RunState.PAUSED)
        assert store.info(run).condition == "paused"
        store.ask(run, Wish.STOP_NOW)
        assert store.info(run).condition == "stopping"
    assert store.info(run).condition == "interrupted"
    with store.journal(run) as journal:
        control = StoredControl(store, journal)
        assert control.state() is Wish.STOP_NOW  # over a restart
        control.report(RunState.FAILED, "too few")
    assert (store.info(run).condition, store.info(run).reason) == ("failed", "too few")


def test_a_wish_that_cannot_be_read_stays_the_last_one(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, clock = RunStore(f"sqlite:///{file}"), ManualClock()
    with store.journal(store.create("x", {}, 1)) as journal:
        control = StoredControl(store, journal, clock=clock)
        store.ask(journal.run_id, Wish.PAUSE)
        assert control.state() is Wish.PAUSE
        execute(f"sqlite:///{file}", "ALTER TABLE fedmesh_wish RENAME TO elsewhere")
        clock.advance(5)
        assert control.state() is Wish.PAUSE
    assert "pause goes on" in caplog.text


def test_readers_read_while_a_commit_is_under_way(url: str) -> None:
    store = RunStore(url)
    run = store.create("x", {}, 1)
    with store.journal(run) as journal:
        fill(journal)
        with store._database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM fedmesh_round")
            seen = list[int]()
            reader = threading.Thread(target=lambda: seen.append(len(RunStore(url, create=False).records(run))))
            reader.start()
            reader.join(120)
            assert seen == [3]
            connection.rollback()


def test_a_run_that_was_taken_over_is_not_committed_by_the_first(url: str) -> None:
    """A lock can be lost without its holder knowing: the count of takers is what decides."""
    store = RunStore(url)
    run = store.create("x", {}, 9)
    first = fill(store.journal(run))
    execute(url, "UPDATE fedmesh_run SET lease = lease + 1")  # as a second taker does
    for work in (lambda: first.commit(RoundRecord(3), arrays()), lambda: first.next_attempt(3)):
        with pytest.raises(ConfigError, match="another coordinator's by now"):
            work()
    assert len(store.records(run)) == 3
    first.close()


def test_settings_of_durability(file: Path) -> None:
    lite = RunStore(f"sqlite:///{file}")
    with lite._database.reading() as connection:
        read = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert read == ["wal", 3]
    store = RunStore(shared_server().database())
    with store._database.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
    with store._database.reading() as connection:
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "repeatable read"
        assert connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"


def test_a_server_that_comes_back_costs_nothing(tmp_path: Path) -> None:
    """Killed as by a crash while a run is under way: the next commit waits for it, and takes its lock again."""
    server = shared_server()
    url = server.database()
    store = RunStore(url, patience_s=60)
    run = store.create("x", {}, 9)
    with store.journal(run) as journal:
        fill(journal)
        server.stop(signal.SIGQUIT)
        restart = threading.Timer(0.5, server.start)
        restart.start()
        journal.commit(RoundRecord(3, clients=4), arrays(4))
        restart.join()
        with pytest.raises(ConfigError, match="another coordinator runs it"):
            RunStore(url).journal(run)
        assert journal.next_attempt(4) == 1
        assert [record.round for record in store.records(run)] == [0, 1, 2, 3]
        # The answer to a commit can be lost: saying it again is no other round.
        journal.commit(RoundRecord(3, clients=4), arrays(4))
        assert len(store.records(run)) == 4
        server.stop(signal.SIGQUIT)
        journal._patience_s = 0.0
        with pytest.raises(ConfigError, match="See that the server runs"):
            journal.commit(RoundRecord(4), arrays())
        server.start()


def test_another_takes_the_run_when_the_server_has_dropped_the_first(tmp_path: Path) -> None:
    url = shared_server().database()
    store = RunStore(url)
    run = store.create("x", {}, 9)
    first = fill(store.journal(run))
    execute(url, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1")
    second = store.journal(run)
    with pytest.raises(ConfigError, match="another coordinator runs it"):
        first.commit(RoundRecord(3), arrays())
    second.commit(RoundRecord(3), arrays())
    second.close()
    with pytest.raises(ConfigError, match="another coordinator's by now"):
        first.commit(RoundRecord(4), arrays())
    first.close()


def test_no_password_in_any_message(caplog: pytest.LogCaptureFixture) -> None:
    url = shared_server().database()
    store = RunStore(url)
    journal = store.journal(store.create("x", {}, 1))
    texts = [repr(store), store.name, repr(journal), repr(store._database), repr(store._database.engine)]
    wrong = url.replace(PASSWORD, "hunter2-wrong")
    for bad in (wrong, url.replace("127.0.0.1", "127.0.0.1:1:x"), f"postgresql+asyncpg://u:{PASSWORD}@h/d",
                f"oracle://u:{PASSWORD}@h/d", f"{PASSWORD}", f"postgresql://u:{PASSWORD}@127.0.0.1:1/d"):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            RunStore(bad)
        error: BaseException | None = caught.value
        while error is not None:
            texts.append(f"{error!r} {error}")
            error = error.__cause__
    journal.close()
    texts.append(store._database._discreet(f"what a later driver may quote: {PASSWORD}"))
    for text in [*texts, caplog.text]:
        assert PASSWORD not in text
        assert "hunter2" not in text


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://u@h/d", "'mysql'"),
        ("postgresql+psycopg2://u@h/d", "psycopg2"),
        ("nonsense", "cannot be read"),
        ("", "cannot be read"),
        ("sqlite:////no/such/folder/x.sqlite3", "No such file"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RunStore(url)


def test_a_relative_file_lies_beside_the_configuration(tmp_path: Path) -> None:
    assert journal_url(None, tmp_path) == f"sqlite:///{tmp_path}/{DEFAULT_URL.removeprefix('sqlite:///')}"
    assert journal_url("sqlite:////a/b.sqlite3", tmp_path) == "sqlite:////a/b.sqlite3"
    kept = "postgresql://me:secret@host/d"
    assert journal_url(kept, tmp_path) == kept


def test_a_file_is_its_owners_alone_and_has_to_be_there_for_a_reader(file: Path) -> None:
    with pytest.raises(ConfigError, match="there is no journal of runs"):
        RunStore(f"sqlite:///{file}", create=False)
    assert not file.exists()
    store = RunStore(f"sqlite:///{file}")
    with store.journal(store.create("x", {}, 1)) as journal:
        journal.commit(RoundRecord(0), ArrayRecord())
        modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.rglob("*")}
    assert set(modes.values()) == {0o600, 0o700}
    assert {name for name, mode in modes.items() if mode == 0o700} == {"runs.sqlite3.locks"}
    assert RunStore(f"sqlite:///{file}", create=False).runs()[0].name == "x"
    assert list((file.parent / "runs.sqlite3.locks").iterdir()) == []


def test_another_database_or_a_newer_one_is_refused(url: str, tmp_path: Path) -> None:
    RunStore(url).close()
    execute(url, "UPDATE fedmesh_schema SET version = 2")
    for create in (True, False):
        with pytest.raises(ConfigError, match=r"is of version 2, this fedmesh reads 1.*newer"):
            RunStore(url, create=create)
    other = tmp_path / "photos"
    with closing(sqlite3.connect(other)) as raw, raw:
        raw.execute("CREATE TABLE photos (id)")
    with pytest.raises(ConfigError, match="not a journal of runs"):
        RunStore(f"sqlite:///{other}")
    other.write_bytes(b"not a database, but long enough to be read as a header....." * 20)
    with pytest.raises(ConfigError, match="damaged or another program's"):
        RunStore(f"sqlite:///{other}")


def test_a_postgresql_database_may_hold_other_things() -> None:
    url = shared_server().database()
    execute(url, "CREATE TABLE photos (id integer)")
    with pytest.raises(ConfigError, match="holds no journal of runs"):
        RunStore(url, create=False)
    assert RunStore(url).runs() == []


def test_stores_that_are_made_at_once_make_one(url: str) -> None:
    failures = list[BaseException]()

    def make(number: int) -> None:
        try:
            RunStore(url).create(f"run-{number}", {}, 1)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert failures == []
    assert len(RunStore(url).runs()) == 4


def test_a_lock_file_that_a_killed_coordinator_left_is_taken(file: Path) -> None:
    store = RunStore(f"sqlite:///{file}")
    run = store.create("x", {}, 1)
    program = "import os, sys\nfrom fedmesh.coordinator import RunStore\n"
    program += "store = RunStore(sys.argv[1])\nstore.journal(int(sys.argv[2]))\nos.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program, f"sqlite:///{file}", str(run)], check=False)
    assert _lock_path(file, run).exists()
    assert not store.info(run).held
    with store.journal(run):
        assert store.info(run).held


def test_the_package_loads_neither_flower_nor_a_database(tmp_path: Path) -> None:
    program = "import fedmesh.coordinator, sys; assert not {'flwr', 'sqlalchemy', 'torch'} & set(sys.modules)\n"
    program += "import fedmesh.coordinator.runstore, fedmesh.federation.deployed\n"
    program += "assert not {'flwr', 'torch', 'psycopg'} & set(sys.modules), 'heavy'\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
