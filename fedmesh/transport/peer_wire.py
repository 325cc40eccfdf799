"""What two peers say on their connection, without I/O: frames behind four bytes, and how they greet each other.

The first byte of a frame is its kind, the next three are the length of what follows (big-endian), which is bounded
before any of it is kept. The dialler says `Hello`, the other end answers with `Answer`, and from then on either sends
what it likes.

A neighbour that carries a circuit to somebody else is asked with `CALL`; who is called is told with `CALLED`. Both
begin a stream of bytes on their connection, behind a number of four bytes: `DATA`, `CREDIT` for as much as was taken,
`END` with a word that says why.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from fedmesh import wire
from fedmesh.errors import DecodeError
from fedmesh.identity.names import is_id
from fedmesh.transport.announcing import ANNOUNCEMENTS, MAX_ANNOUNCEMENT_BYTES
from fedmesh.transport.frames import Data
from fedmesh.transport.limits import PARCEL_BYTES
from fedmesh.types import PeerId

__all__ = [
    "CIRCUIT_KINDS",
    "GREETING_BYTES",
    "HEAD_BYTES",
    "NUMBER_BYTES",
    "PIECE_BYTES",
    "WINDOW_BYTES",
    "Answer",
    "Cutter",
    "Hello",
    "Kind",
    "announcement_in",
    "announcement_of",
    "called_in",
    "circuit_in",
    "circuit_of",
    "code_in",
    "credit_in",
    "head_of",
]

VERSION = 1
HEAD_BYTES = 4
GREETING_BYTES = 256
"""Of a hello and its answer: all that a stranger can make us keep."""
RUN_BYTES = 8
NUMBER_BYTES = 4
PIECE_BYTES = 16 << 10
"""Of a circuit that go in one frame: what our own frames wait for at most."""
WINDOW_BYTES = 256 << 10
"""Of a circuit that may be under way, each way on each of its two connections."""
_LONG_BYTES = 1 << 16
"""A body that is not copied once more."""
_MAX_CODE = 32
_MAX_NAME = 63


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    ANSWER = 2
    PARCEL = 3
    ANNOUNCEMENT = 4
    PING = 5
    PONG = 6
    BYE = 7
    CALL = 8
    CALLED = 9
    DATA = 10
    CREDIT = 11
    END = 12


_MOST = {
    Kind.HELLO: GREETING_BYTES,
    Kind.ANSWER: GREETING_BYTES,
    Kind.PARCEL: PARCEL_BYTES,
    Kind.ANNOUNCEMENT: MAX_ANNOUNCEMENT_BYTES + 64,
    Kind.PING: 0,
    Kind.PONG: 0,
    Kind.BYE: 64,
    Kind.CALL: NUMBER_BYTES + _MAX_NAME,
    Kind.CALLED: NUMBER_BYTES,
    Kind.DATA: NUMBER_BYTES + PIECE_BYTES,
    Kind.CREDIT: NUMBER_BYTES + 4,
    Kind.END: NUMBER_BYTES + _MAX_CODE,
}
_KINDS = {int(kind): kind for kind in Kind}
_GREETINGS = frozenset({Kind.HELLO, Kind.ANSWER})
CIRCUIT_KINDS = frozenset({Kind.CALL, Kind.CALLED, Kind.DATA, Kind.CREDIT, Kind.END})


def head_of(kind: Kind, size: int) -> bytes:
    """What stands before `size` bytes. Raises: ValueError: this kind is never as long."""
    if size > _MOST[kind]:
        raise ValueError(f"a {kind.name} has at most {_MOST[kind]} bytes, not {size}")
    return (kind << 24 | size).to_bytes(HEAD_BYTES, "big")


class Cutter:
    """Cuts a stream into frames. A long parcel is given as a view.

    Attributes:
        greeted: whether more than greetings is let through.
        rest: where the rest of the frame goes that has begun, to be told by `filled`; None: none has.
    """

    def __init__(self) -> None:
        self.greeted = False
        self.rest: memoryview | None = None
        self._kind = Kind.PING
        self._body = bytearray()
        self._head_begun = b""

    @property
    def is_open(self) -> bool:
        """Whether a frame has begun and is not whole."""
        return self.rest is not None or bool(self._head_begun)

    def filled(self, size: int) -> list[tuple[Kind, Data]]:
        """So many bytes were put into `rest`: the frame, if it is whole."""
        assert self.rest is not None, "nothing else is filled"
        self.rest = self.rest[size:]
        if self.rest:
            return []
        body, self.rest, self._body = self._body, None, bytearray()
        return [(self._kind, memoryview(body).toreadonly() if len(body) >= _LONG_BYTES else bytes(body))]

    def cut(self, data: bytes) -> Iterator[tuple[Kind, Data]]:
        """The frames that are whole with `data`; to be taken to the end, unless the connection is given up.

        Raises:
            DecodeError: a frame of no kind that is let through now, or longer than its kind; nothing of it is kept.
        """
        at = 0
        if self.rest is not None:
            at = min(len(data), len(self.rest))
            self.rest[:at] = data[:at]
            yield from self.filled(at)
        elif self._head_begun:
            data, self._head_begun = self._head_begun + data, b""
        while len(data) - at >= HEAD_BYTES:
            kind, length = self._head(data, at)
            start = at + HEAD_BYTES
            at = start + length
            if at > len(data):
                self._begin(kind, length, data[start:])
                return
            yield kind, data[start:at]
        self._head_begun = data[at:]

    def _begin(self, kind: Kind, length: int, data: bytes) -> None:
        self._kind, self._body = kind, bytearray(length)
        self.rest = memoryview(self._body)
        self.rest[: len(data)] = data
        self.rest = self.rest[len(data) :]

    def _head(self, data: bytes, at: int) -> tuple[Kind, int]:
        number, length = data[at], int.from_bytes(data[at + 1 : at + HEAD_BYTES], "big")
        if (kind := _KINDS.get(number)) is None:
            raise DecodeError(f"there is no frame of kind {number}")
        if (kind in _GREETINGS) is self.greeted:
            raise DecodeError(f"a {kind.name} came {'after' if self.greeted else 'before'} the greeting")
        if length > _MOST[kind]:
            raise DecodeError(f"a {kind.name} of {length} bytes is announced, the limit is {_MOST[kind]}")
        return kind, length


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


def circuit_of(number: int, rest: bytes = b"") -> bytes:
    """The body of a frame about a circuit."""
    return number.to_bytes(NUMBER_BYTES, "big") + rest


def circuit_in(body: bytes) -> tuple[int, bytes]:
    """The number of a circuit, and what is said of it. Raises: DecodeError: it has no number."""
    if len(body) < NUMBER_BYTES:
        raise DecodeError(f"a circuit has a number of {NUMBER_BYTES} bytes; {len(body)} came")
    return int.from_bytes(body[:NUMBER_BYTES], "big"), body[NUMBER_BYTES:]


def called_in(rest: bytes) -> PeerId:
    """Whom a `CALL` is for. Raises: DecodeError: nobody can be called so."""
    name = rest.decode("ascii", "replace")
    if not is_id(name):
        raise DecodeError("a call is for nobody who could be a member")
    return name


def credit_in(rest: bytes) -> int:
    """How much more may be sent. Raises: DecodeError: it is nothing, or more than a window."""
    credit = int.from_bytes(rest, "big") if len(rest) == 4 else 0
    if not 0 < credit <= WINDOW_BYTES:
        raise DecodeError(f"a credit is of 1 to {WINDOW_BYTES} bytes")
    return credit
