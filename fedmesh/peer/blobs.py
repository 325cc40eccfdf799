"""What runs name by SHA-256 (models, strategies' states, scenarios), in files of a folder. What is read is verified.

The folder may be written by another process of the same user as well, which begins a run with what it puts there.
"""

import hashlib
import time
from collections.abc import Collection
from pathlib import Path
from threading import Lock

from fedmesh.errors import ConfigError
from fedmesh.files import read_bounded, write_atomically

__all__ = ["MAX_BLOB_BYTES", "BlobStore"]

MAX_BLOB_BYTES = 1 << 27
_HEX = 64


class BlobStore:
    """`fedmesh.peer.learning.Blobs` in `folder`, which is made. Raises: ConfigError: it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._since: dict[bytes, float] = {}
        self._lock = Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.glob(".*"):  # of a process that was killed while it wrote
                if time.time() - left.stat().st_mtime > 3_600:
                    left.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot use the folder {folder}: {error.strerror}; check its permissions") from error

    def put(self, data: bytes) -> bytes:
        """Makes them durable; their SHA-256. Raises: ConfigError: they cannot be kept, or are too many."""
        if len(data) > MAX_BLOB_BYTES:
            raise ConfigError(f"{len(data)} bytes are more than a run's model or state may have: {MAX_BLOB_BYTES}")
        digest = hashlib.sha256(data).digest()
        self._seen(digest)
        if digest not in self:
            write_atomically(self._path(digest), data, mode=0o600)
        return digest

    def get(self, digest: bytes) -> bytes | None:
        """The bytes of this SHA-256; None: they are not here, or are damaged, and then removed."""
        try:
            data = read_bounded(self._path(digest), MAX_BLOB_BYTES)
        except ConfigError:
            return None
        if hashlib.sha256(data).digest() != digest:
            self._path(digest).unlink(missing_ok=True)
            return None
        return data

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, bytes) and len(digest) == 32 and self._path(digest).is_file()

    def size(self, digest: bytes) -> int:
        """Bytes that it has; -1: it is not here."""
        try:
            return self._path(digest).stat().st_size
        except OSError:
            return -1

    def piece(self, digest: bytes, offset: int, length: int) -> bytes:
        """A part of it, not verified: who fetches verifies the whole. Empty: it is not here."""
        try:
            with self._path(digest).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError:
            return b""

    def sweep(self, keep: Collection[bytes], before: float) -> None:
        """Removes what is not to be kept and was here before then, on `time.monotonic`; a file counts from its sight.

        So what a round under way has put here, and no certificate names yet, stays.
        """
        for path in self._folder.iterdir():
            if len(path.name) != _HEX or path.name.startswith("."):
                continue
            digest = bytes.fromhex(path.name)
            if digest not in keep and self._seen(digest) < before:
                path.unlink(missing_ok=True)
                with self._lock:
                    self._since.pop(digest, None)

    def _seen(self, digest: bytes) -> float:
        with self._lock:
            return self._since.setdefault(digest, time.monotonic())

    def _path(self, digest: bytes) -> Path:
        return self._folder / digest.hex()
