"""What two peers say on their connection, without I/O: frames behind four bytes, and how they greet each other.

The first byte of a frame is its kind, the next three are the length of what follows (big-endian), which is bounded
before any of it is kept. The dialler says `Hello`, the other end answers with `Answer`, and from then on either sends
what it likes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from fedmesh import wire
from fedmesh.errors import DecodeError
from fedmesh.identity.names import is_id
from fedmesh.transport.announcing import ANNOUNCEMENTS, MAX_ANNOUNCEMENT_BYTES
from fedmesh.transport.limits import PARCEL_BYTES
from fedmesh.types import PeerId

__all__ = [
    "GREETING_BYTES",
    "HEAD_BYTES",
    "Answer",
    "Cutter",
    "Hello",
    "Kind",
    "announcement_in",
    "announcement_of",
    "code_in",
    "head_of",
]

VERSION = 1
HEAD_BYTES = 4
GREETING_BYTES = 256
"""Of a hello and its answer: all that a stranger can make us keep."""
RUN_BYTES = 8
_MAX_CODE = 32


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    ANSWER = 2
    PARCEL = 3
    ANNOUNCEMENT = 4
    PING = 5
    PONG = 6
    BYE = 7


_MOST = {
    Kind.HELLO: GREETING_BYTES,
    Kind.ANSWER: GREETING_BYTES,
    Kind.PARCEL: PARCEL_BYTES,
    Kind.ANNOUNCEMENT: MAX_ANNOUNCEMENT_BYTES + 64,
    Kind.PING: 0,
    Kind.PONG: 0,
    Kind.BYE: 64,
}
_GREETINGS = frozenset({Kind.HELLO, Kind.ANSWER})


def head_of(kind: Kind, size: int) -> bytes:
    """What stands before `size` bytes. Raises: ValueError: this kind is never as long."""
    if size > _MOST[kind]:
        raise ValueError(f"a {kind.name} has at most {_MOST[kind]} bytes, not {size}")
    return (kind << 24 | size).to_bytes(HEAD_BYTES, "big")


class Cutter:
    """Cuts a stream into frames.

    Attributes:
        greeted: whether more than greetings is let through.
        is_open: whether a frame has begun and is not whole.
    """

    def __init__(self) -> None:
        self.greeted = False
        self._parts: list[bytes] = []
        self._size, self._wanted = 0, HEAD_BYTES

    @property
    def is_open(self) -> bool:
        """As the class says."""
        return self._size > 0

    def cut(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """The frames that are whole with `data`; to be taken to the end, unless the connection is given up.

        Raises:
            DecodeError: a frame of no kind that is let through now, or longer than its kind; nothing of it is kept.
        """
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._wanted:
            return
        data = b"".join(self._parts) if len(self._parts) > 1 else data
        at, self._wanted = 0, HEAD_BYTES
        while len(data) - at >= HEAD_BYTES:
            kind, end = self._head(data, at)
            if end > len(data):
                self._wanted = end - at
                break
            yield kind, data[at + HEAD_BYTES : end]
            at = end
        rest = data[at:]
        self._parts, self._size = [rest] if rest else [], len(rest)

    def _head(self, data: bytes, at: int) -> tuple[Kind, int]:
        number, length = data[at], int.from_bytes(data[at + 1 : at + HEAD_BYTES], "big")
        try:
            kind = Kind(number)
        except ValueError as error:
            raise DecodeError(f"there is no frame of kind {number}") from error
        if (kind in _GREETINGS) is self.greeted:
            raise DecodeError(f"a {kind.name} came {'after' if self.greeted else 'before'} the greeting")
        if length > _MOST[kind]:
            raise DecodeError(f"a {kind.name} of {length} bytes is announced, the limit is {_MOST[kind]}")
        return kind, at + HEAD_BYTES + length


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is wanted, and which process of the dialler's asks: `run` is drawn at its start."""

    to: PeerId
    run: bytes

    def to_bytes(self) -> bytes:
        """As it travels."""
        return wire.dumps([VERSION, self.to, self.run])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises: DecodeError: it is none, or of another version."""
        match wire.loads(data, max_bytes=GREETING_BYTES, max_depth=1, max_items=8):
            case [1, str(to), bytes(run)] if is_id(to) and len(run) == RUN_BYTES:
                return cls(to, run)
            case _:
                raise DecodeError(f"what came is no hello of version {VERSION}")


@dataclass(frozen=True, slots=True)
class Answer:
    """`code` says why not; it is empty where the dialler is let in. `run` is the answering process."""

    code: str
    run: bytes

    def to_bytes(self) -> bytes:
        """As it travels."""
        return wire.dumps([VERSION, self.code, self.run])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises: DecodeError: it is none, or of another version."""
        match wire.loads(data, max_bytes=GREETING_BYTES, max_depth=1, max_items=8):
            case [1, str(code), bytes(run)] if len(code) <= _MAX_CODE and code.isascii() and len(run) == RUN_BYTES:
                return cls(code, run)
            case _:
                raise DecodeError(f"what came is no answer of version {VERSION}")


def announcement_of(what: str, data: bytes) -> bytes:
    """The body of an announcement."""
    return bytes([ANNOUNCEMENTS.index(what)]) + data


def announcement_in(body: bytes) -> tuple[str, bytes]:
    """What is announced, and its value. Raises: DecodeError: nothing that is announced."""
    if not body or body[0] >= len(ANNOUNCEMENTS):
        raise DecodeError("an announcement of nothing that is announced")
    return ANNOUNCEMENTS[body[0]], body[1:]


def code_in(body: bytes) -> str:
    """Why the other end leaves; whatever it says, it is a short word."""
    code = body.decode("ascii", "replace")
    return code if code.isalpha() and len(code) <= _MAX_CODE else "unreadable"
