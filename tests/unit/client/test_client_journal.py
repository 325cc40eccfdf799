"""What a device remembers of its runs: each message answered once, together with the state after it."""

import stat

import pytest

from fedmesh.client import journal as module
from fedmesh.client.journal import DeviceJournal, KeptRun, Waiting
from fedmesh.errors import ConfigError, PeerError

RUN = KeptRun(5, "coordinator", b"offer", b"task", b"features")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "device.sqlite"


@pytest.fixture
def journal(path):
    made = DeviceJournal(path)
    made.keep(RUN)
    yield made
    made.close()


def message(name="m-1", *, expires=100.0, run=5, what="train"):
    return Waiting(run, name, what, 2, expires, (b"meta", b"", b"x" * 1000))


def test_a_message_from_its_arrival_to_its_end(journal):
    assert journal.receive(message())
    assert journal.waiting(5) == message()
    journal.begin(5, "m-1")
    assert journal.waiting(5) is None
    assert journal.outstanding(5) == ["m-1"]
    journal.answer(5, "m-1", reply=(b"meta", memoryview(b"data")), state=b"state")
    assert journal.state(5) == b"state"
    (answered,) = journal.unposted()
    assert (answered.reply, answered.error, answered.expires) == ((b"meta", b"data"), "", 100.0)
    journal.posted(5, "m-1")
    assert journal.unposted() == []
    assert journal.answered(5, "m-1") == answered
    assert journal.outstanding(5) == []


def test_messages_are_run_in_the_order_in_which_they_came(journal):
    for name in ("b", "a", "c"):
        journal.receive(message(name))
    order = []
    while item := journal.waiting(5):
        order.append(item.message)
        journal.answer(5, item.message)
    assert order == ["b", "a", "c"]


def test_a_message_is_taken_on_once_and_answered_once(journal):
    assert journal.receive(message())
    assert not journal.receive(message())
    journal.answer(5, "m-1", error="limits")
    assert not journal.receive(message())
    journal.answer(5, "m-1", reply=(b"another",))
    assert journal.answered(5, "m-1").error == "limits"
    assert journal.answered(5, "m-1").reply == ()


def test_after_a_restart_what_was_begun_is_not_begun_again(journal, path):
    journal.receive(message("begun"))
    journal.receive(message("waiting", what="query.secagg"))
    journal.begin(5, "begun")
    journal.close()
    again = DeviceJournal(path)
    again.recover()
    assert [(item.message, item.error, item.reply) for item in again.unposted()] == [("begun", "restarted", ())]
    assert again.waiting(5).message == "waiting"
    assert not again.receive(message("begun"))
    assert again.runs() == [RUN]
    again.close()


def test_what_is_abandoned_is_neither_run_nor_answered(journal):
    for name in ("a", "b", "c"):
        journal.receive(message(name))
    journal.begin(5, "a")
    journal.abandon(5, ["a", "b", "unknown"])
    assert journal.waiting(5).message == "c"
    journal.answer(5, "a", reply=(b"too late",), state=b"but so it is")
    assert journal.answered(5, "a") is None
    assert journal.state(5) == b"but so it is"
    assert not journal.receive(message("b"))


def test_what_has_expired_is_dropped_but_not_forgotten(journal):
    journal.receive(message("answered"))
    journal.answer(5, "answered", reply=(b"reply",))
    journal.receive(message("waiting"))
    journal.receive(message("later", expires=200.0))
    journal.expire(100.0)
    assert journal.answered(5, "answered") is None
    assert journal.unposted() == []
    assert journal.waiting(5).message == "later"
    assert not journal.receive(message("answered"))  # its packet has expired as well; clocks go back, too


def test_a_run_that_is_over_leaves_nothing(journal, path):
    journal.receive(message())
    journal.answer(5, "m-1", reply=(b"a secret of the device",), state=b"another")
    journal.forget(5)
    assert journal.run(5) is None
    assert journal.state(5) == b""
    assert journal.receive(message())  # of a run that begins anew


def test_a_run_is_of_one_coordinator(journal):
    with pytest.raises(PeerError, match="one of coordinator"):
        journal.keep(KeptRun(5, "another", b"", b"", b""))
    journal.answer(5, "m", state=b"kept")
    journal.keep(KeptRun(5, "coordinator", b"offer", b"new task", b""))
    assert journal.run(5).task == b"new task"
    assert journal.state(5) == b"kept"


def test_everything_has_a_bound(journal, monkeypatch):
    for number in range(module.MAX_MESSAGES):
        journal.receive(message(str(number)))
    with pytest.raises(PeerError, match="wait"):
        journal.receive(message("one more"))
    for number in range(module.MAX_RUNS - 1):
        journal.keep(KeptRun(100 + number, "coordinator", b"", b"", b""))
    with pytest.raises(PeerError, match="at most"):
        journal.keep(KeptRun(99, "coordinator", b"", b"", b""))
    journal.keep(RUN)


def test_runs_whose_last_message_is_long_over_are_found_oldest_first(journal):
    for run, expires in ((100, 20.0), (101, 10.0), (102, 90.0), (103, None)):
        journal.keep(KeptRun(run, "coordinator", b"", b"", b""))
        if expires is not None:
            journal.receive(message("first", expires=5.0, run=run))
            journal.receive(message("last", expires=expires, run=run))
    journal.expire(200.0)
    assert journal.stale(50.0) == [101, 100]


def test_the_file_is_its_owners_alone(journal, path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_no_journal_is_left_alone(path):
    path.write_bytes(b"not a database, but somebody's only copy of something" * 50)
    with pytest.raises(ConfigError, match="move it away"):
        DeviceJournal(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_transaction_that_fails_changes_nothing(journal):
    journal.receive(message())
    with pytest.raises(ConfigError):
        journal.answer(5, "m-1", reply=(b"reply",), state=object())  # type: ignore[arg-type]
    assert journal.answered(5, "m-1") is None
    assert journal.outstanding(5) == ["m-1"]
