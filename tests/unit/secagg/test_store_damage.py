"""A store that is damaged, foreign, gone or locked is refused: it is never made anew, and never forgets in silence."""

import os
import shutil
import sqlite3
import threading

import pytest

from fedmesh.errors import SecAggError
from fedmesh.secagg.store import Store

SID, SET, OTHER = b"s" * 32, b"d" * 32, b"e" * 32


def refused(match):
    return pytest.raises(SecAggError, match=match, check=lambda error: error.code == "store")


def never():
    raise AssertionError("signed twice")


@pytest.fixture
def path(tmp_path):
    """A store with one signed session, one released, and one under way."""
    path = tmp_path / "store"
    with Store(path) as store:
        for task, number in (("task", 3), ("other task", 70000)):
            store.begin(task, number, 1, SID)
            store.mask_once(task, number, 1)
            store.sign_once(task, number, 1, SET, lambda: b"signature" * 7)
        store.begin("task", 4, 2, SID)
        store.mask_once("task", 4, 2)
        store.release_once("other task", 70000, 1)
    return path


def code_of(act, *arguments):
    try:
        act(*arguments)
    except SecAggError as error:
        return error.code
    return "done"


def still_holds(path):
    """Whether all that the file was told is refused a second time; False when the whole file is refused.

    It may refuse more than before, never less.
    """
    try:
        store = Store(path)
    except SecAggError as error:
        return error.code != "store"
    with store:
        found = [
            code_of(store.begin, "task", 3, 9, SID),
            code_of(store.begin, "task", 4, 2, SID),
            code_of(store.mask_once, "task", 4, 2),
            code_of(store.begin, "other task", 70000, 9, SID),
            code_of(store.sign_once, "task", 3, 1, OTHER, never),
            code_of(store.sign_once, "other task", 70000, 1, OTHER, never),
            code_of(store.release_once, "other task", 70000, 1),
            code_of(store.sign_once, "task", 3, 1, SET, never),
        ]
    assert found == ["replay"] * 4 + ["consistency"] * 2 + ["replay", "done"]
    return True


def test_an_undamaged_file(path):
    assert still_holds(path)


def test_every_byte_that_is_changed_is_noticed_or_harmless(path, tmp_path):
    """Every byte that is not zero, and some that are; the rest of the file is free space."""
    whole = path.read_bytes()
    damaged, refusals = tmp_path / "damaged", 0
    places = [place for place, byte in enumerate(whole) if byte or place % 97 == 0]
    for place in places:
        for change in (0x01, 0xFF) if place % 5 == 0 else (0x01,):
            damaged.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            refusals += not still_holds(damaged)
            (tmp_path / "damaged-journal").unlink(missing_ok=True)
    assert refusals > len(places)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 4096, 4097, 8192, 12287])
def test_a_file_that_was_cut_is_refused(path, size):
    os.truncate(path, size)
    with refused("(damaged|cannot be|is empty).*: put back a whole copy that is not older"):
        Store(path)
    assert path.stat().st_size == size  # left for whoever looks into it


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\x00", bytes(4096), b"\xff" * 12288])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "store"
    path.write_bytes(content)
    with refused("cannot be|is empty"):
        Store(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "store"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE sessions (task TEXT)")
    connection.commit()
    connection.close()
    with refused("file of another program"):
        Store(path)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE tasks",
        "ALTER TABLE sessions ADD COLUMN more TEXT",
        "CREATE TRIGGER forget AFTER INSERT ON sessions BEGIN DELETE FROM sessions; END",
        "CREATE INDEX more ON sessions (round)",
    ],
)
def test_a_changed_schema_is_refused(path, statement):
    _execute(path, statement)
    with refused("is damaged"):
        Store(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sessions SET digest = NULL, signature = NULL WHERE task = 'task'",
        "UPDATE sessions SET released = 0",
        "UPDATE sessions SET attempt = 7",
        "UPDATE sessions SET task = 'a third task' WHERE round = 3",
        "UPDATE tasks SET floor = 2",
    ],
)
def test_changed_rows_are_noticed(path, statement):
    _execute(path, statement)
    with refused("is damaged"):
        Store(path)


def test_another_version_is_refused(path):
    _execute(path, "PRAGMA user_version = 2")
    with refused("another program or release"):
        Store(path)


def _execute(path, statement):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_a_file_that_is_gone_is_not_made_anew_while_its_journal_is_there(path):
    path.unlink()
    for _ in range(2):
        with refused("is gone, but its journal is there"):
            Store(path)
    assert not path.exists()


def test_a_file_that_goes_away_while_it_is_open(path):
    with Store(path) as store:
        moved = path.rename(path.with_name("moved"))
        with refused("is gone"):
            store.begin("task", 9, 1, SID)
        shutil.copy(moved, path)
        with refused("was replaced"):
            store.begin("task", 9, 1, SID)


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("folder", "pipe", "link"):
        with refused("not a regular file"):
            Store(tmp_path / name)
    with refused("cannot be opened: .*No such file"):
        Store(tmp_path / "missing" / "store")
    assert not (tmp_path / "elsewhere").exists()


def test_a_name_that_looks_like_a_query_is_a_name(tmp_path):
    path = tmp_path / "a?mode=memory&b#c%20d ü"
    with Store(path) as store:
        store.begin("task", 1, 1, SID)
    assert path.stat().st_size > 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with refused("cannot be opened"):
        Store(tmp_path / "store")


def test_a_file_that_another_process_keeps_locked_is_refused_after_a_while(path, monkeypatch):
    monkeypatch.setattr("fedmesh.secagg.store_file._WAIT_S", 0.1)
    holder = sqlite3.connect(path, isolation_level=None)
    with Store(path) as store:
        holder.execute("BEGIN EXCLUSIVE")
        with refused("locked"):
            store.begin("task", 9, 1, SID)
        holder.execute("ROLLBACK")
        store.begin("task", 9, 1, SID)
    holder.close()


def test_many_that_make_the_file_at_once_share_one(tmp_path):
    path, ready, begun = tmp_path / "store", threading.Barrier(8), []

    def begin():
        ready.wait()
        with Store(path) as store:
            begun.append(code_of(store.begin, "task", 1, 1, SID))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(begun) == ["done"] + ["replay"] * 7
    assert {file.name for file in tmp_path.iterdir()} == {"store", "store-journal"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_use_its_parents_connection(path):
    with Store(path) as store:
        child = os.fork()
        if child == 0:
            try:
                store.begin("task", 9, 1, SID)
            except SecAggError as error:
                os._exit(7 if "carried over a fork" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        store.begin("task", 9, 1, SID)
