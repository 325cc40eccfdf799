"""What a receiver knows of a peer: which messages came, and long ones of which not everything has arrived."""

import io
from dataclasses import dataclass, field
from typing import Self

from fedmesh.transport.content import Content
from fedmesh.transport.frames import Data, Open
from fedmesh.transport.pages import in_large_pages

__all__ = ["Record", "Transfer"]


@dataclass(slots=True)
class Record:
    """What is remembered of a peer: its incarnation, and which of its messages came (all below `floor`, and `done`)."""

    incarnation: int = 0
    floor: int = 0
    done: set[int] = field(default_factory=set)

    def had(self, sequence: int) -> bool:
        """Whether the message came, or will not come any more."""
        return sequence < self.floor or sequence in self.done

    def add(self, sequence: int) -> None:
        """Remembers that it came."""
        self.done.add(sequence)

    def rise(self, floor: int) -> None:
        """Nothing below `floor` comes any more."""
        if floor > self.floor:
            self.floor = floor
            self.done = {sequence for sequence in self.done if sequence >= floor}


@dataclass(slots=True)
class Transfer:
    """A long message of which not everything has arrived.

    Its bytes are in the memory that the whole message will have: each is written once, and the system gives a page when
    something comes for it.

    Attributes:
        have: bit i is chunk i. missing: how many are not there.
    """

    announced: Open
    content: Content
    have: int
    missing: int
    attempt: int
    fresh: int
    acked_at: float
    heard_at: float
    _memory: io.BytesIO

    @classmethod
    def of(cls, announced: Open, content: Content, now: float) -> Self:
        """Of which nothing has arrived."""
        memory = io.BytesIO(bytes(content.size))  # CPython copies neither these nor, in `whole`, what became of them
        with memory.getbuffer() as empty:
            in_large_pages(empty)
        return cls(announced, content, 0, content.chunks, 0, 0, now, now, memory)

    def put(self, index: int, data: Data) -> None:
        """A chunk that is good, and was not there."""
        start = index * self.content.chunk_bytes
        with self._memory.getbuffer() as memory:
            memory[start : start + len(data)] = data
        self.have |= 1 << index
        self.missing -= 1

    def has(self, index: int) -> bool:
        """Whether a chunk is there."""
        return bool(self.have >> index & 1)

    def whole(self) -> bytes:
        """The message."""
        return self._memory.getvalue()
