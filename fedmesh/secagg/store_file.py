"""The SQLite file of a `fedmesh.secagg.store.Store`: made whole or not at all, checked when opened, durable.

Knows nothing of what its rows mean. The journal is kept between transactions (``PERSIST``): a connection is opened
for almost every message of a device, and of SQLite's modes that one costs the least then (0.7 ms against WAL's 0.8
and DELETE's 1.2), being without an entry of the folder that comes and goes.
"""

import hashlib
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmesh.errors import SecAggError
from fedmesh.files import sync_folder
from fedmesh.wire import dumps

__all__ = ["StoreFile", "checksum"]

_APPLICATION = 0x464D5341  # "FMSA": in the header of the file
_VERSION = 1
_WAIT_S = 10.0
_REPAIR = "put back a whole copy that is not older, or enrol the device anew"
_TASKS = (
    "CREATE TABLE tasks (task TEXT NOT NULL PRIMARY KEY, floor INTEGER NOT NULL, checksum BLOB NOT NULL)"
    " STRICT, WITHOUT ROWID"
)
_SESSIONS = (
    "CREATE TABLE sessions (task TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, sid BLOB NOT NULL,"
    " masked INTEGER NOT NULL, digest BLOB, signature BLOB, released INTEGER NOT NULL, checksum BLOB NOT NULL,"
    " PRIMARY KEY (task, round)) STRICT, WITHOUT ROWID"
)
_TABLES = (_TASKS, _SESSIONS)
_SETTINGS = (
    "PRAGMA journal_mode = PERSIST",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # on macOS fsync leaves the data in the drive's own cache
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
)


def checksum(*values: str | int | bytes | None) -> bytes:
    """16 bytes that a row's values have in common with no other row's: finds damage, does not stop a forger."""
    return hashlib.sha256(dumps(values)).digest()[:16]


class StoreFile:
    """A connection to the file at `path`, made if there is none; to memory if None.

    Attributes:
        name: the path as text, for messages.

    Raises:
        SecAggError: ``store``: as every method.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.name = "memory" if path is None else str(path)
        self._process = os.getpid()
        try:
            self._connection = _connected(":memory:") if path is None else self._opened(path)
        except (OSError, sqlite3.Error, ValueError) as error:
            raise self.failed(f"cannot be opened: {_told(error)}") from error
        if path is None:
            _make_tables(self._connection)
            return
        try:
            self._inode = os.stat(path)  # noqa: PTH116  # beside os.path.samestat
            self._check_contents(path)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise self.failed(f"cannot be read: {_told(error)}") from error
        except SecAggError:
            self.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        if self._process == os.getpid():  # closing another process's connection would drop that one's locks
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is done inside is on the disk after it, all of it; or none of it, if it raises."""
        self._check_undisturbed()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.rollback()
                raise
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self.failed(f"cannot be used: {str(error).rstrip('.')}") from error

    def failed(self, what: str) -> SecAggError:
        """The error to raise."""
        return SecAggError(
            f"the secure aggregation store {self.name} {what}. Without it a device cannot know what it signed, so "
            "nothing leaves it",
            code="store",
        )

    def _opened(self, path: Path) -> sqlite3.Connection:
        try:
            kind = path.lstat().st_mode
        except FileNotFoundError:
            if path.with_name(path.name + "-journal").exists() and not path.exists():
                raise self.failed("is gone, but its journal is there: put it back, or enrol the device anew") from None
            _make(path)
            kind = path.lstat().st_mode
        if not stat.S_ISREG(kind):
            raise self.failed("is not a regular file")
        return _connected(path.absolute().as_uri() + "?mode=rw")  # SQLite itself must never make one

    def _check_contents(self, path: Path) -> None:
        """One of ours, whole; nobody writes meanwhile, since these reads are one transaction."""
        rows = self._connection.execute
        rows("BEGIN")
        found = (_number(rows("PRAGMA application_id")), _number(rows("PRAGMA user_version")))
        if found != (_APPLICATION, _VERSION):
            raise self.failed(f"is empty, or a file of another program or release: {_REPAIR}")
        size = _number(rows("PRAGMA page_size")) * _number(rows("PRAGMA page_count"))
        tables = {sql for (sql,) in rows("SELECT sql FROM sqlite_schema")}
        whole = path.stat().st_size == size and tables == set(_TABLES)
        if not whole or rows("PRAGMA quick_check(1)").fetchall() != [("ok",)] or not self._rows_hold():
            raise self.failed(f"is damaged: {_REPAIR}")
        rows("COMMIT")

    def _rows_hold(self) -> bool:
        """Every row has its checksum: SQLite's pages have none, and a row whose key is damaged would be forgotten."""
        rows = self._connection.execute
        return all(
            row[-1] == checksum(*row[:-1])
            for table in ("tasks", "sessions")
            for row in rows(f"SELECT * FROM {table}")  # noqa: S608  # the two names
        )

    def _check_undisturbed(self) -> None:
        """The path still names the file that was opened: what is written to an unlinked one is forgotten."""
        if self._process != os.getpid():
            raise self.failed("was carried over a fork: open it in the process that uses it")
        if self._path is None:
            return
        try:
            same = os.path.samestat(self._inode, self._path.lstat())
        except OSError as error:
            raise self.failed(f"is gone: {error.strerror}") from error
        if not same:
            raise self.failed("was replaced while it was open")


def _connected(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, timeout=_WAIT_S, isolation_level=None, check_same_thread=False, uri=True)
    try:
        for setting in _SETTINGS:
            connection.execute(setting).fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _told(error: Exception) -> str:
    """SQLite's words; with advice, where they mean that the file is damaged and not that it is busy or out of reach."""
    return f"{error}: {_REPAIR}" if type(error) is sqlite3.DatabaseError else str(error)


def _number(cursor: sqlite3.Cursor) -> int:
    return int(cursor.fetchone()[0])


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in ("BEGIN", *_TABLES, "COMMIT"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {_VERSION}")


def _make(path: Path) -> None:
    """Puts an empty store at `path`, durably, unless somebody else does first.

    Under another name until it is whole: a file of no bytes at `path` is then never a beginning, always damage.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = MEMORY").fetchall()
            connection.execute("PRAGMA fullfsync = ON")
            _make_tables(connection)
        finally:
            connection.close()
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # somebody else's is as good
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
