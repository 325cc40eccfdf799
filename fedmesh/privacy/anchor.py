"""Where a device's ledgers ended, kept beside its identity: a ledger that was rolled back, replaced or removed shows.

Guarantees: a ledger that is opened with the anchor contains everything that was ever anchored. The order is ledger
first, anchor second, so that a crash in between leaves the ledger ahead; the anchor is brought up to date at the next
opening. It never goes back.

Does not guarantee: that ledger and anchor were not put back *together*, by a snapshot of the disk, a copy of a virtual
machine or whoever is root on the device. Only a counter outside of the device could show that. The checksum is against
damage; it has no key.
"""

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, get_args

from fedmesh.errors import ConfigError, LedgerError
from fedmesh.files import write_atomically
from fedmesh.privacy.chain import Head
from fedmesh.privacy.settings import Level

__all__ = ["Anchor"]

_FORMAT = "fedmesh-anchor/1"
_MAX_BYTES = 4096


class Anchor:
    """The file at `path`, which exists; it is read anew and locked for every use, so that two processes may share it.

    One ledger a level. Create it with the identity, and never again: an anchor that is made anew forgets.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)

    @classmethod
    def create(cls, path: Path | str) -> Self:
        """The anchor at `path`, made if there is none; durable, its owner's alone.

        Raises:
            ConfigError: it cannot be written.
            LedgerError: there is one, and it is damaged.
        """
        anchor = cls(path)
        if os.path.lexists(anchor._path):
            anchor.heads()
        else:
            write_atomically(anchor._path, _written({}), mode=0o600)
        return anchor

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def heads(self) -> dict[Level, Head]:
        """Where each ledger ended when it was last anchored.

        Raises:
            LedgerError: the anchor is missing, damaged, or others may write it.
        """
        descriptor = _opened(self._path)
        try:
            return self._read(descriptor)
        finally:
            os.close(descriptor)

    def advance(self, level: Level, head: Head) -> None:
        """Remembers that the ledger of `level` ends in `head`; on the disk when this returns.

        Raises:
            LedgerError: the anchor is missing or damaged, knows of a longer ledger, or cannot be written.
        """
        with self._locked() as descriptor:
            heads = self._read(descriptor)
            known = heads.get(level)
            if known == head:
                return
            if known is not None and known.entries >= head.entries:
                raise LedgerError(
                    f"the anchor {self._path} knows {known.entries} entries of the {level}-level ledger, this one has "
                    f"{head.entries}: two ledgers of one level are kept under one identity, or one was put back. The "
                    "step must not be taken"
                )
            try:
                write_atomically(self._path, _written({**heads, level: head}), mode=0o600)
            except (ConfigError, OSError) as error:
                raise LedgerError(f"the anchor of the privacy ledger cannot be written: {error}") from error

    def __repr__(self) -> str:
        return f"Anchor({str(self._path)!r})"

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """A descriptor of the file that is at the path now, locked: writing replaces the file, so look again."""
        while True:
            descriptor = _opened(self._path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_at(descriptor, self._path):
                    yield descriptor
                    return
            finally:
                os.close(descriptor)

    def _read(self, descriptor: int) -> dict[Level, Head]:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o022:
            raise LedgerError(
                f"the anchor {self._path} is no regular file, or others may write it: run chmod 600 on it"
            )
        heads = _parsed(os.pread(descriptor, _MAX_BYTES + 1, 0))
        if heads is None:
            raise LedgerError(
                f"the anchor {self._path} is damaged: put back a copy that is as new as the ledger. Without it nobody "
                "can say whether the ledger is whole, and this device must not train"
            )
        return heads


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise LedgerError(
            f"the anchor {path} of the privacy ledger cannot be read: {error.strerror}. It was made with the device's "
            "identity, and without it nobody can say whether the ledger is whole: this device must not train. Put it "
            "back; if it is lost, and you know the ledger to be whole, make one with fedmesh.privacy.Anchor.create, or "
            "give the device a new identity"
        ) from error


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _written(heads: Mapping[Level, Head]) -> bytes:
    """One line: SHA-256 of the body in hex, a space, the body."""
    ledgers = {level: {"digest": head.digest, "entries": head.entries} for level, head in heads.items()}
    body = json.dumps({"format": _FORMAT, "ledgers": ledgers}, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(body).hexdigest().encode() + b" " + body + b"\n"


def _parsed(data: bytes) -> dict[Level, Head] | None:
    """The inverse of `_written`; None for anything else."""
    digest, _, body = data.removesuffix(b"\n").partition(b" ")
    if len(data) > _MAX_BYTES or digest != hashlib.sha256(body).hexdigest().encode():
        return None
    try:
        match json.loads(body):
            case {"format": str(form), "ledgers": dict(ledgers), **rest} if form == _FORMAT and not rest:
                return {level: _head(value) for level, value in ledgers.items() if _is_level(level)}
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return None


def _is_level(level: str) -> bool:
    if level not in get_args(Level):
        raise ValueError(level)
    return True


def _head(value: Mapping[str, Any]) -> Head:
    entries, digest = value["entries"], value["digest"]
    if type(entries) is not int or entries < 1 or len(bytes.fromhex(digest)) != 32 or len(value) != 2:
        raise ValueError(value)
    return Head(entries, digest)
