"""One file, held by one process, that grows by whole records which are on the disk before `append` returns. POSIX only.

Knows nothing of what the records mean. Does not guarantee anything against a disk that acknowledges writes it has not
made. An error after which nobody can say what is on the disk closes the file: only reading it again can tell.
"""

import fcntl
import os
import stat
from pathlib import Path
from typing import BinaryIO

from fedmesh.errors import LedgerError

__all__ = ["DurableFile"]

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""On macOS fsync leaves the data in the drive's own cache."""


class DurableFile:
    """The file at `path`, created empty if there is none, and locked until `close`.

    Raises:
        LedgerError: it cannot be opened for writing, is no regular file, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _opened(path)
        self._size = os.fstat(self._file.fileno()).st_size
        try:
            _lock(self._file, path)
        except LedgerError:
            self._file.close()
            raise

    def read(self) -> bytes:
        """All of it.

        Raises:
            LedgerError: the disk returns an error.
        """
        try:
            self._file.seek(0)
            data = self._file.read()
        except OSError as error:
            raise self._failed("cannot be read", error) from error
        self._size = len(data)
        return data

    def append(self, record: bytes) -> None:
        """Writes `record` at the end; it is on the disk when this returns, and not in the file when this raises.

        Raises:
            LedgerError: no room, a file system that became read-only, someone else changed the file, ...
        """
        self._check_undisturbed()
        start = self._size
        try:
            done = 0
            while done < len(record):
                done += os.pwrite(self._file.fileno(), record[done:], start + done)
        except OSError as error:
            self.cut(start)
            raise LedgerError(
                f"the privacy ledger {self._path} cannot be written: {error}. Nothing was charged and the step must "
                "not be taken: make room, or make it writable, then try again"
            ) from error
        self._sync()
        self._size = start + len(record)

    def cut(self, size: int) -> None:
        """Takes off all that follows the first `size` bytes.

        Raises:
            LedgerError: that fails, and the file is closed.
        """
        try:
            os.ftruncate(self._file.fileno(), size)
        except OSError as error:
            raise self._failed("holds half an entry that cannot be cut off", error) from error
        self._sync()
        self._size = size

    def sync_directory(self) -> None:
        """Makes the file's name durable; needed once, after it was created.

        Raises:
            LedgerError: that fails, and the file is closed.
        """
        try:
            descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._failed("could not be made durable in its directory", error) from error

    def close(self) -> None:
        """Lets go of the file and its lock; idempotent."""
        self._file.close()

    def _check_undisturbed(self) -> None:
        """The path still names the file that is locked, and it ends where the last record ended."""
        if self._file.closed:
            raise LedgerError(f"the privacy ledger {self._path} was closed, or failed before: open it again")
        try:
            there, here = self._path.lstat(), os.fstat(self._file.fileno())
        except OSError as error:
            raise self._failed("is gone", error) from error
        if not os.path.samestat(there, here) or here.st_size != self._size:
            raise self._failed("was changed by someone else while it was open")

    def _sync(self) -> None:
        try:
            if _FULL_SYNC is None:
                os.fsync(self._file.fileno())
            else:
                fcntl.fcntl(self._file.fileno(), _FULL_SYNC)
        except OSError as error:
            raise self._failed("could not be made durable", error) from error

    def _failed(self, what: str, error: OSError | None = None) -> LedgerError:
        self._file.close()
        reason = f": {error}" if error else ""
        return LedgerError(f"the privacy ledger {self._path} {what}{reason}. The step must not be taken")


def _opened(path: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe or a symlink is not followed
    try:
        return os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
    except OSError as error:
        raise LedgerError(
            f"the privacy ledger {path} cannot be opened for writing: {error}. Without a ledger this device must not "
            "train: give it a directory that exists and can be written"
        ) from error


def _lock(file: BinaryIO, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise LedgerError(f"the privacy ledger {path} is not a regular file")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LedgerError(f"the privacy ledger {path} is held by another process: let it finish") from error
    except OSError as error:
        raise LedgerError(f"the privacy ledger {path} cannot be locked: {error}") from error
