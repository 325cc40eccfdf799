"""What the store remembers, in memory and in a file, across reopening."""

import os
import stat
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh.errors import SecAggError
from fedmesh.secagg.store import Store

SID, SET, OTHER = b"s" * 32, b"d" * 32, b"e" * 32


def refused(code, match=None):
    return pytest.raises(SecAggError, match=match, check=lambda error: error.code == code)


def never():
    raise AssertionError("signed twice")


@pytest.fixture(params=["memory", "file", "reopened"])
def stores(request, tmp_path):
    """Gives the store before each call: one in memory, one file held open, or one opened anew for every call."""
    path = None if request.param == "memory" else tmp_path / "device.secagg"
    held = [Store(path)]

    def current():
        if request.param == "reopened":
            held.pop().close()
            held.append(Store(path))
        return held[0]

    yield current
    held[0].close()


def test_a_session_from_beginning_to_end(stores):
    stores().begin("task", 3, 1, SID)
    stores().mask_once("task", 3, 1)
    assert stores().sign_once("task", 3, 1, SET, lambda: b"signature") == b"signature"
    assert stores().sign_once("task", 3, 1, SET, never) == b"signature"
    stores().release_once("task", 3, 1)
    assert stores().sign_once("task", 3, 1, SET, never) == b"signature"
    with refused("replay", "they leave once"):
        stores().release_once("task", 3, 1)


def test_a_second_set_is_refused(stores):
    stores().begin("task", 3, 1, SID)
    stores().mask_once("task", 3, 1)
    stores().sign_once("task", 3, 1, SET, lambda: b"signature")
    with refused("consistency", "a second survivor set"):
        stores().sign_once("task", 3, 1, OTHER, never)
    stores().release_once("task", 3, 1)
    with refused("consistency"):
        stores().sign_once("task", 3, 1, OTHER, never)


def test_rounds_only_go_up(stores):
    for number in (5, 6, 7):
        stores().begin("task", number, 1, SID)
        stores().mask_once("task", number, 1)
    for number in (0, 4):
        with refused("replay", "round 7 was begun: only a later round can begin"):
            stores().begin("task", number, 9, SID)
    stores().begin("task", 6, 2, SID)  # another attempt at a round that is under way
    stores().sign_once("task", 5, 1, SET, lambda: b"five")  # while 6 and 7 are under way
    for number in (0, 4, 5):
        with refused("replay", "round 5 is over"):
            stores().begin("task", number, 9, SID)
    stores().begin("task", 6, 3, SID)
    stores().sign_once("task", 7, 1, SET, lambda: b"seven")
    for number in (5, 6, 7):
        with refused("replay", "round 7 is over"):
            stores().begin("task", number, 9, SID)
    with refused("replay", "is over"):
        stores().sign_once("task", 6, 3, SET, never)
    with refused("replay", "is over"):
        stores().sign_once("task", 5, 1, SET, never)
    with refused("replay", "is over"):
        stores().release_once("task", 5, 1)
    with refused("replay", "is over"):
        stores().mask_once("task", 6, 3)
    stores().release_once("task", 7, 1)
    stores().begin("other task", 0, 1, SID)


def test_attempts_only_go_up(stores):
    stores().begin("task", 1, 2, SID)
    for attempt in (0, 1, 2):
        with refused("replay", "attempt 2 was begun"):
            stores().begin("task", 1, attempt, SID)
    stores().begin("task", 1, 3, SID)
    with refused("replay", "attempt 3 was begun last"):
        stores().sign_once("task", 1, 2, SET, never)
    with refused("replay", "attempt 3 was begun last"):
        stores().mask_once("task", 1, 2)
    stores().mask_once("task", 1, 3)
    stores().sign_once("task", 1, 3, SET, lambda: b"three")
    with refused("replay"):
        stores().begin("task", 1, 4, SID)
    for attempt in (2, 4):
        with refused("replay"):
            stores().release_once("task", 1, attempt)


def test_nothing_leaves_before_its_turn(stores):
    with refused("session", "never begun"):
        stores().mask_once("task", 1, 1)
    with refused("session", "never begun"):
        stores().release_once("task", 1, 1)
    with refused("session", "never begun"):
        stores().sign_once("task", 1, 1, SET, never)
    stores().begin("task", 1, 1, SID)
    with refused("turn", "before its masked input left"):
        stores().sign_once("task", 1, 1, SET, never)
    stores().mask_once("task", 1, 1)
    with refused("turn", "before a survivor set was signed"):
        stores().release_once("task", 1, 1)


def test_one_masked_input_leaves_a_session(stores):
    stores().begin("task", 1, 1, SID)
    stores().mask_once("task", 1, 1)
    with refused("replay", "a second masked input"):
        stores().mask_once("task", 1, 1)
    stores().sign_once("task", 1, 1, SET, lambda: b"signature")
    with refused("replay", "a second masked input"):
        stores().mask_once("task", 1, 1)


def test_a_new_attempt_masks_anew(stores):
    for attempt in (1, 2):
        stores().begin("task", 1, attempt, SID)
        stores().mask_once("task", 1, attempt)


def test_a_signature_that_failed_is_not_remembered(stores):
    stores().begin("task", 1, 1, SID)
    stores().mask_once("task", 1, 1)
    with pytest.raises(ZeroDivisionError):
        stores().sign_once("task", 1, 1, SET, lambda: b"%d" % (1 // 0))
    assert stores().sign_once("task", 1, 1, OTHER, lambda: b"signature") == b"signature"


@pytest.mark.parametrize("number", [-1, 1 << 63, 1.0, True, None, "1"])
def test_what_is_no_round(stores, number):
    with refused("malformed", "wanted a whole number"):
        stores().begin("task", number, 1, SID)
    with refused("malformed", "wanted a whole number"):
        stores().begin("task", 1, number, SID)


@pytest.mark.parametrize("task", ["", "x" * 1001, None, b"task"])
def test_what_is_no_task(stores, task):
    with refused("malformed", "1 to 1000 bytes"):
        stores().begin(task, 1, 1, SID)


def test_any_text_is_a_task(stores):
    for task in ("\x00", "a\x00b", "a", "'; DROP TABLE sessions", "任務", "\n"):
        stores().begin(task, 1, 1, SID)
        stores().mask_once(task, 1, 1)
        assert stores().sign_once(task, 1, 1, SET, task.encode) == task.encode()
    with refused("store"):
        stores().begin("\ud800", 1, 1, SID)


def test_an_aggregator_cannot_fill_the_disk_with_rounds(tmp_path):
    path = tmp_path / "store"
    with Store(path) as store:
        for number in range(1000, 1100):
            store.begin("task", number, 1, SID)
        with refused("replay", "round 1083 is over"):
            store.begin("task", 1083, 2, SID)  # closed for good, though never signed
        with refused("replay", "is over"):
            store.sign_once("task", 1020, 1, SET, never)
        store.begin("task", 1084, 2, SID)
        store.mask_once("task", 1090, 1)
        assert store.sign_once("task", 1090, 1, SET, lambda: b"x") == b"x"
        for number in range(1100, 1200):
            store.begin("task", number, 1, SID)
        store.release_once("task", 1090, 1)  # signed, so not among the ones that are closed
    assert path.stat().st_size <= 20 << 10


def test_many_rounds_leave_a_small_file(tmp_path):
    path = tmp_path / "store"
    with Store(path) as store:
        for number in range(40):
            store.begin("task", number, 1, SID)
            store.begin("task", number, 2, SID)
            store.mask_once("task", number, 2)
            store.sign_once("task", number, 2, SET, lambda: bytes(64))
            store.release_once("task", number, 2)
    assert path.stat().st_size <= 16 << 10


def test_the_number_of_tasks_is_bounded(monkeypatch):
    monkeypatch.setattr("fedmesh.secagg.store._TASKS", 3)
    with Store(None) as store:
        for task in "abc":
            store.begin(task, 1, 1, SID)
        with refused("store", "remembers 3 tasks"):
            store.begin("d", 1, 1, SID)
        store.begin("a", 2, 1, SID)


def test_only_the_owner_reads_it(tmp_path):
    mask = os.umask(0)
    try:
        with Store(tmp_path / "store") as store:
            store.begin("task", 1, 1, SID)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(mask)
    assert modes == {"store": 0o600, "store-journal": 0o600}


def test_it_holds_no_signature_callback_and_no_name_in_its_repr(tmp_path):
    with Store(tmp_path / "store") as store:
        assert repr(store) == f"Store('{tmp_path / 'store'}')"
    assert repr(Store(None)) == "Store('memory')"


def test_closing_is_idempotent_and_final(tmp_path):
    store = Store(str(tmp_path / "store"))
    store.close()
    store.close()
    with refused("store", "closed"):
        store.begin("task", 1, 1, SID)


def test_threads_get_one_signature(tmp_path):
    """Sixteen threads over four connections ask for two different sets: one of the sets is signed, once."""
    path = tmp_path / "store"
    stores = [Store(path) for _ in range(4)]
    stores[0].begin("task", 1, 1, SID)
    stores[0].mask_once("task", 1, 1)
    signed, given, refusals = [], [], []
    ready = threading.Barrier(16)

    def ask(which):
        ready.wait()
        digest = bytes([which % 2]) * 32
        try:
            given.append(stores[which % 4].sign_once("task", 1, 1, digest, lambda: signed.append(digest) or digest))
        except SecAggError as error:
            refusals.append(error.code)

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signed) == 1
    assert given == signed * 8
    assert refusals == ["consistency"] * 8
    for store in stores:
        store.close()


class Twin:
    """The store's rules over plain dictionaries that are never pruned: slow, and obvious."""

    def __init__(self):
        self.attempts, self.masked, self.signed, self.released = {}, set(), {}, set()

    def begin(self, number, attempt):
        if number <= max(self.signed, default=-1) or attempt <= self.attempts.get(number, -1):
            return "replay"
        if number not in self.attempts and number <= max(self.attempts, default=-1):
            return "replay"
        if number not in self.attempts and number <= max(self.attempts, default=-1):
            return "replay"
        self.attempts[number] = attempt
        self.masked.discard(number)
        return None

    def _current(self, number, attempt):
        if number < max(self.signed, default=-1):
            return "replay"
        if number not in self.attempts:
            return "session"
        return None if self.attempts[number] == attempt else "replay"

    def mask(self, number, attempt):
        if refusal := self._current(number, attempt):
            return refusal
        if number in self.masked:
            return "replay"
        self.masked.add(number)
        return None

    def sign(self, number, attempt, digest):
        if refusal := self._current(number, attempt):
            return refusal
        if number not in self.masked:
            return "turn"
        return None if self.signed.setdefault(number, digest) == digest else "consistency"

    def release(self, number, attempt):
        if refusal := self._current(number, attempt):
            return refusal
        if number not in self.signed:
            return "turn"
        if number in self.released:
            return "replay"
        self.released.add(number)
        return None


CALLS = st.tuples(
    st.sampled_from(["begin", "mask", "sign", "sign other", "release", "reopen"]), st.integers(0, 3), st.integers(1, 3)
)


def outcome(act, *arguments):
    try:
        act(*arguments)
    except SecAggError as error:
        return error.code
    return None


@given(st.lists(CALLS, max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_sequence_of_calls_is_answered_like_by_the_twin(tmp_path_factory, calls):
    path = tmp_path_factory.mktemp("store") / "store"
    twin, store = Twin(), Store(path)
    for call, number, attempt in calls:
        got = wanted = None
        match call:
            case "begin":
                got, wanted = outcome(store.begin, "t", number, attempt, SID), twin.begin(number, attempt)
            case "mask":
                got, wanted = outcome(store.mask_once, "t", number, attempt), twin.mask(number, attempt)
            case "sign" | "sign other":
                digest = SET if call == "sign" else OTHER
                got = outcome(store.sign_once, "t", number, attempt, digest, lambda: b"x")
                wanted = twin.sign(number, attempt, digest)
            case "release":
                got, wanted = outcome(store.release_once, "t", number, attempt), twin.release(number, attempt)
            case _:
                store.close()
                store = Store(path)
        assert got == wanted, (call, number, attempt)
    store.close()


def test_commits_reach_the_disk(tmp_path):
    """The settings that make a commit survive a power cut, which no test here can cause."""
    with Store(tmp_path / "store") as store:
        found = {
            setting: store._file._connection.execute(f"PRAGMA {setting}").fetchone()[0]
            for setting in ("journal_mode", "synchronous", "fullfsync")
        }
    assert found == {"journal_mode": "persist", "synchronous": 2, "fullfsync": 1}
