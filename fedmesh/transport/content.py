"""What a message is, apart from its bytes: its length, the SHA-256 of each chunk, and a digest of all of it.

The digest is the SHA-256 of a head and the chunks' SHA-256, a hash tree of depth one: it commits to every byte as a
plain SHA-256 would, is computed in one pass, and lets a receiver check each chunk when it arrives and after a restart.
"""

import asyncio
import hashlib
import os
import struct
from dataclasses import dataclass
from typing import Self

from fedmesh.transport.limits import HASH_BYTES, MAX_CHUNK_BYTES, WHOLE_BYTES

__all__ = ["Content"]

_DOMAIN = b"fedmesh content 1\0"
_LENGTHS = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class Content:
    """The description of a message of `size` bytes in chunks of `chunk_bytes`, the last one shorter."""

    size: int
    chunk_bytes: int
    hashes: bytes
    digest: bytes

    @classmethod
    def of(cls, data: bytes, chunk_bytes: int) -> Self:
        """Describes `data`; one pass of SHA-256, without the interpreter's lock.

        What goes in one frame is described as one of `MAX_CHUNK_BYTES`: no announcement tells a receiver otherwise.
        """
        if len(data) <= (WHOLE_BYTES if chunk_bytes == MAX_CHUNK_BYTES else chunk_bytes):
            return cls.described(len(data), MAX_CHUNK_BYTES, hashlib.sha256(data).digest())
        return cls.described(len(data), chunk_bytes, _hashes(memoryview(data), chunk_bytes))

    @classmethod
    async def of_long(cls, data: bytes, chunk_bytes: int) -> Self:
        """As `of`, in as many threads as there are processors."""
        if len(data) <= WHOLE_BYTES:
            return cls.of(data, chunk_bytes)
        chunks = -(-len(data) // chunk_bytes)
        part = -(-chunks // (os.cpu_count() or 1)) * chunk_bytes
        parts = (memoryview(data)[start : start + part] for start in range(0, len(data), part))
        hashes = await asyncio.gather(*(asyncio.to_thread(_hashes, each, chunk_bytes) for each in parts))
        return cls.described(len(data), chunk_bytes, b"".join(hashes))

    @classmethod
    def described(cls, size: int, chunk_bytes: int, hashes: bytes) -> Self:
        """From an announcement."""
        head = _DOMAIN + _LENGTHS.pack(size, chunk_bytes)
        return cls(size, chunk_bytes, hashes, hashlib.sha256(head + hashes).digest())

    @property
    def chunks(self) -> int:
        """How many there are; an empty message has one."""
        return len(self.hashes) // HASH_BYTES

    def length(self, index: int) -> int:
        """Bytes of chunk `index`."""
        return min(self.chunk_bytes, self.size - index * self.chunk_bytes)

    def holds(self, index: int, data: bytes | memoryview) -> bool:
        """Whether `data` is chunk `index`."""
        return hashlib.sha256(data).digest() == self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]


def _hashes(data: memoryview, chunk_bytes: int) -> bytes:
    starts = range(0, len(data), chunk_bytes)
    return b"".join(hashlib.sha256(data[start : start + chunk_bytes]).digest() for start in starts)
