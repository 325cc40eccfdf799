"""Anonymous shared memory: the data set and each round's arrays are written once and mapped by every worker.

A block is a file without a name (``memfd_create``, or a file that is unlinked at once); workers get its descriptor over
a socket. So nothing can leak: when the last process that holds a block ends, however it ends, the memory is gone.
Blocks are for processes of one run that trust each other; a worker maps them privately and cannot change what the
others see.
"""

import mmap
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fedmesh.errors import ConfigError, DataError
from fedmesh.types import Examples

__all__ = ["Block", "SharedExamples"]

_ALIGNMENT = 64


class Block:
    """`size` bytes of shared memory behind the descriptor `fd`; whoever holds the block closes it."""

    def __init__(self, fd: int, size: int, *, access: int) -> None:
        """Maps `size` bytes of `fd`, which the block owns from now on; `access` is one of mmap's."""
        self.fd = fd
        self.size = size
        try:
            self._map = mmap.mmap(fd, size, access=access)
        except (OSError, ValueError) as error:
            os.close(fd)
            raise ConfigError(f"{size} bytes of shared memory cannot be mapped: {error}; free some memory") from error

    @classmethod
    def create(cls, size: int) -> Self:
        """A new block of at least one byte, zeroed.

        Raises:
            ConfigError: the system has no room for it.
        """
        size = max(1, size)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > memory:  # the system would promise it, and kill somebody when it is used
            raise ConfigError(
                f"{size} bytes of shared memory were wanted, this machine has {memory} bytes in all: use less data"
            )
        try:
            fd = _anonymous_file()
            os.ftruncate(fd, size)
        except OSError as error:
            raise ConfigError(f"{size} bytes of shared memory cannot be had: {error}") from error
        return cls(fd, size, access=mmap.ACCESS_WRITE)

    @classmethod
    def attach(cls, fd: int, size: int, *, private: bool = False) -> Self:
        """The block behind a descriptor that another process sent.

        It is for reading what the owner writes, now and later; or, `private`, a copy-on-write view of something that
        the owner no longer changes, for libraries that want writable memory (torch).
        """
        return cls(fd, size, access=mmap.ACCESS_COPY if private else mmap.ACCESS_READ)

    def write(self, data: bytes | memoryview, offset: int = 0) -> None:
        """Puts `data` at `offset`."""
        self._map[offset : offset + len(data)] = data

    def read(self, size: int, offset: int = 0) -> bytes:
        """A copy of `size` bytes at `offset`."""
        return self._map[offset : offset + size]

    def array(self, dtype: str, shape: tuple[int, ...], offset: int = 0) -> np.ndarray[Any, Any]:
        """A view of the block as an array; the memory lives as long as the view."""
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self._map, dtype=dtype, count=count, offset=offset).reshape(shape)

    def close(self) -> None:
        """Gives the descriptor back; views that are still alive keep the memory mapped. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(frozen=True, slots=True)
class SharedExamples:
    """Every device's training examples in one block: all `x`, then all `y`, device after device.

    Attributes:
        block: the memory.
        example_shape: shape of one `x`; float32. `y` is int64.
        counts: number of examples of each device.
    """

    block: Block
    example_shape: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def pack(cls, devices: Sequence[Examples]) -> Self:
        """Copies the devices' examples into a new block.

        Raises:
            DataError: the devices' examples differ in shape.
        """
        shapes = {tuple(examples.x.shape[1:]) for examples in devices}
        if len(shapes) != 1:
            raise DataError(f"the devices' examples should have one shape; they have {sorted(shapes) or 'none'}")
        shape, counts = shapes.pop(), tuple(len(examples) for examples in devices)
        shared = cls(Block.create(_offset_of_y(shape, counts) + 8 * sum(counts)), shape, counts)
        x, y = shared._arrays()
        start = 0
        for examples, count in zip(devices, counts, strict=True):
            x[start : start + count] = examples.x
            y[start : start + count] = examples.y
            start += count
        return shared

    def to_plain(self) -> dict[str, Any]:
        """What a worker must know besides the descriptor."""
        return {"size": self.block.size, "example_shape": list(self.example_shape), "counts": list(self.counts)}

    @classmethod
    def attach(cls, fd: int, plain: Mapping[str, Any]) -> Self:
        """The inverse of `to_plain` in another process."""
        block = Block.attach(fd, int(plain["size"]), private=True)
        return cls(block, tuple(plain["example_shape"]), tuple(plain["counts"]))

    def source(self) -> Callable[[int], Examples]:
        """Partition id -> that device's examples, without a copy.

        Raises:
            DataError: (when called) there is no such partition.
        """
        x, y = self._arrays()
        ends = np.cumsum(self.counts)

        def examples_of(partition: int) -> Examples:
            if not 0 <= partition < len(self.counts):
                raise DataError(f"there is no partition {partition}: the data was dealt to {len(self.counts)} devices")
            part = slice(int(ends[partition]) - self.counts[partition], int(ends[partition]))
            return Examples(x[part], y[part])

        return examples_of

    def _arrays(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        total = sum(self.counts)
        x = self.block.array("<f4", (total, *self.example_shape))
        y = self.block.array("<i8", (total,), _offset_of_y(self.example_shape, self.counts))
        return x, y


def _offset_of_y(shape: tuple[int, ...], counts: Sequence[int]) -> int:
    """Where `y` begins: behind `x`, on a cache line of its own."""
    bytes_of_x = 4 * sum(counts) * int(np.prod(shape, dtype=np.int64))
    return -(-bytes_of_x // _ALIGNMENT) * _ALIGNMENT


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fedmesh", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # no memfd outside Linux: unlinked as soon as it exists
        return os.dup(file.fileno())
