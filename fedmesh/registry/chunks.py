"""Chunks named by their SHA-256, in a folder: what was downloaded stays over a crash, and is never believed unseen.

Reading checks the hash again: a card that rots, or a hand that changes a file, is found out before anything is built
of it.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.registry.limits import CHUNK_BYTES, LARGEST_CHUNK_BYTES

__all__ = ["ChunkStore", "count_of", "split"]


def count_of(length: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """How many chunks `length` bytes have."""
    return -(-length // chunk_bytes)


def split(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of `data`, each behind its SHA-256."""
    for start in range(0, len(data), CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        yield hashlib.sha256(chunk).digest(), chunk


class ChunkStore:
    """The chunks in `folder`. Raises: ConfigError: the folder cannot be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot keep chunks in {folder}: {error.strerror}") from error

    def path(self, digest: bytes) -> Path:
        """Where the chunk is, or would be."""
        return self.folder / digest.hex()

    def has(self, digest: bytes) -> bool:
        """Whether there is a file for it; `get` says if it is the one."""
        return self.path(digest).exists()

    def put(self, digest: bytes, data: bytes, *, durable: bool = True) -> None:
        """Keeps `data`; unless it is to be durable, what the machine loses with its power is found out by `get`.

        Raises:
            RegistryError: ``hash``: it is not the chunk of this name.
            ConfigError: it cannot be written.
        """
        if hashlib.sha256(data).digest() != digest:
            raise RegistryError(f"what came for the chunk {digest.hex()[:16]} has another SHA-256", code="hash")
        write_atomically(self.path(digest), data, durable=durable)

    def get(self, digest: bytes) -> bytes:
        """The chunk. Raises: RegistryError: ``missing``; ``hash``: the file is damaged, and is removed."""
        try:
            data = read_bounded(self.path(digest), LARGEST_CHUNK_BYTES)
        except ConfigError as error:
            raise RegistryError(f"there is no chunk {digest.hex()[:16]}: {error}", code="missing") from error
        if hashlib.sha256(data).digest() != digest:
            self.path(digest).unlink(missing_ok=True)
            raise RegistryError(
                f"the chunk {digest.hex()[:16]} on this disk is damaged: it is fetched anew", code="hash"
            )
        return data

    def joined(self, digests: Iterable[bytes]) -> bytes:
        """Several, one behind the other. Raises: RegistryError: as `get`."""
        return b"".join(map(self.get, digests))

    def keep_only(self, digests: Collection[bytes]) -> int:
        """Removes all others, and what a crash left; returns how many."""
        wanted = {digest.hex() for digest in digests}
        gone = [path for path in self.folder.iterdir() if path.name not in wanted]
        for path in gone:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        return len(gone)

    def size_bytes(self) -> int:
        """What they take together."""
        return sum(path.stat().st_size for path in self.folder.iterdir())
