"""One coordinator a run: a lock that ends with its process, and a number that outlives it.

SQLite: ``flock`` on a file of the run beside the database. PostgreSQL: a session's advisory lock, kept alive by TCP. A
lock can be lost without its holder noticing (a server that restarts); so each taker also counts up the run's ``lease``,
and a commit under an older number is refused: two coordinators never both commit.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.exc import SQLAlchemyError

from fedmesh.coordinator.rundatabase import Database
from fedmesh.errors import ConfigError

__all__ = ["Lease", "held", "lease_on"]

_TRIES, _PAUSE_S = 10, 0.05
"""`held` has the lock of a file for a moment, and a server has that of a killed session until it notices."""


class Lease(Protocol):
    """The lock of one run."""

    def take(self) -> bool:
        """Whether it is ours now, or was already."""
        ...

    def release(self) -> None:
        """Lets others have it; idempotent."""
        ...


def lease_on(database: Database, run: int) -> Lease:
    """The lock of a run, not taken yet."""
    if database.path is None:
        return _AdvisoryLease(database, run)
    return _FileLease(_lock_path(database.path, run))


def held(database: Database, connection: Connection) -> set[int]:
    """The runs that a coordinator has taken, as of now."""
    if database.path is not None:
        folder = _folder(database.path)
        names = [path for path in folder.iterdir() if _is_id(path.name)] if folder.is_dir() else []
        return {int(path.name, 16) for path in names if _is_locked(path)}
    locks = text(
        "SELECT classid::bigint, objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return {(int(high) << 32) | int(low) for high, low in connection.execute(locks)}


class _FileLease:
    """flock on a file, which goes when it is released; one that is left over from a kill is taken as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        if self._descriptor is not None:
            return True
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            for _ in range(_TRIES):
                if self._try():
                    return True
                time.sleep(_PAUSE_S)
        except OSError as error:
            raise ConfigError(f"the run's lock {self._path} cannot be taken: {error.strerror}") from error
        return False

    def _try(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(descriptor)
            there = self._path.stat()
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            return False
        if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):  # released, and made anew, in between
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


class _AdvisoryLease:
    """PostgreSQL's advisory lock, on a connection that is used for nothing else."""

    def __init__(self, database: Database, run: int) -> None:
        self._database = database
        self._run = run
        self._connection: Connection | None = None

    def take(self) -> bool:
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
            except SQLAlchemyError:  # the lock went with its session: it is taken again, or another has it
                self.release()
            else:
                return True
        for _ in range(_TRIES):
            if self._try():
                return True
            time.sleep(_PAUSE_S)
        return False

    def _try(self) -> bool:
        with self._database.explained("locked"):
            connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                lock = text("SELECT pg_try_advisory_lock(:run)").bindparams(bindparam("run", self._run))
                taken = bool(connection.execute(lock).scalar_one())
            except BaseException:
                connection.invalidate()
                connection.close()
                raise
        if taken:
            self._connection = connection
        else:
            connection.close()
        return taken

    def release(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):  # a session that is over has no lock
                self._connection.execute(text("SELECT pg_advisory_unlock(:run)"), {"run": self._run})
            with contextlib.suppress(SQLAlchemyError):
                self._connection.invalidate()  # ends the session, and so the lock for certain
            self._connection.close()
            self._connection = None


def _folder(database: Path) -> Path:
    return database.with_name(f"{database.name}.locks")


def _lock_path(database: Path, run: int) -> Path:
    return _folder(database) / f"{run:016x}"


def _is_id(name: str) -> bool:
    return len(name) == 16 and all(digit in "0123456789abcdef" for digit in name)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
