"""The frames of a transport: one message as one frame (`Whole`), or announced (`Open`) and sent in chunks.

A frame is a deterministic CBOR list ``[version, kind, incarnation, sequence, ...]``, at most `FRAME_BYTES` long.
`decode` gives a frame whose every field is of its type and in its range, or raises: nothing behind it checks again.
Both ways are written out here, for each message has two frames; `wire` writes and reads the same, and takes longer.
Nothing here is authenticated: who a frame is from is for the carrier to say (docs/transport.md).
"""

import re
import struct
from typing import Any, NamedTuple

from fedmesh import wire
from fedmesh.errors import DecodeError
from fedmesh.transport.limits import FRAME_BYTES, HASH_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS, WHOLE_BYTES

__all__ = [
    "CODES",
    "Chunk",
    "Data",
    "Done",
    "Frame",
    "Have",
    "Ident",
    "Open",
    "Refuse",
    "Whole",
    "decode",
    "decode_slowly",
    "encode",
    "pieces_of",
]

VERSION = 1
_LARGEST = 1 << 63
CODES = frozenset({"again", "busy", "channel", "clock", "conflict", "expired", "stale", "too-large", "unknown"})
"""Why a receiver says no: ``busy`` means later, ``again`` now, ``unknown`` from the beginning, ``stale`` with a higher
incarnation, the others never."""
Data = bytes | memoryview


class Ident(NamedTuple):
    """Names a message among all that its sender sends, ever: the sender's incarnation and a number that only grows."""

    incarnation: int
    sequence: int


class Open(NamedTuple):
    """Announces a long message; asked again with the next `attempt`, it asks what has arrived.

    Attributes:
        floor: no message with a lower number will be sent (again).
        hashes: SHA-256 of each chunk, one after the other.
        expires_ms: Unix milliseconds after which nobody wants it.
        channel: its place in `CHANNELS`; a later fedmesh may know more of them.
    """

    ident: Ident
    floor: int
    expires_ms: int
    attempt: int
    size: int
    chunk_bytes: int
    hashes: bytes
    channel: int = 0


class Whole(NamedTuple):
    """A short message."""

    ident: Ident
    floor: int
    expires_ms: int
    digest: bytes
    data: bytes
    channel: int = 0


class Chunk(NamedTuple):
    """The chunk at `place` of an announced message."""

    ident: Ident
    place: int
    data: Data


class Have(NamedTuple):
    """What has arrived: bit i of `bitmap` (little-endian) is chunk i. `attempt` is that of the last `Open` seen."""

    ident: Ident
    attempt: int
    digest: bytes
    bitmap: bytes


class Done(NamedTuple):
    """The content with this digest has arrived whole (durably, where the receiver has a spool)."""

    ident: Ident
    digest: bytes


class Refuse(NamedTuple):
    """No, for the reason `code`; `newest` is the incarnation that the receiver knows."""

    ident: Ident
    code: str
    newest: int = 0


Frame = Open | Whole | Chunk | Have | Done | Refuse
_KINDS: tuple[type[Frame], ...] = (Open, Whole, Chunk, Have, Done, Refuse)
_NAMES = {kind: kind._fields[1:] for kind in _KINDS}
_MOST = {"data": WHOLE_BYTES, "hashes": HASH_BYTES * MAX_CHUNKS, "bitmap": MAX_CHUNKS // 8}

# Writing: what `wire.dumps` would.

_NUMBER, _BYTES, _TEXT = 0x00, 0x40, 0x60  # RFC 8949, 3: heads of the least arguments
_TINY = [bytes([head]) for head in range(256)]
_PACKED = {width: struct.Struct(f">B{code}").pack for width, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))}
_STARTS = {kind: bytes([0x84 + len(_NAMES[kind]), VERSION, number]) for number, kind in enumerate(_KINDS)}


def encode(frame: Frame) -> bytes:
    """The bytes of a frame; ``decode(encode(f)) == f``."""
    return b"".join(pieces_of(frame))


def pieces_of(frame: Frame) -> list[Data]:
    """As `encode`, and nothing is copied: one of them is the data of a frame that has some."""
    ident: Ident = frame[0]
    pieces: list[Data] = [_STARTS[type(frame)], _head(_NUMBER, ident[0]), _head(_NUMBER, ident[1])]
    values: tuple[Any, ...] = frame[1:]
    for value in values:
        if type(value) is int:
            pieces.append(_head(_NUMBER, value))
        elif type(value) is str:
            pieces += _head(_TEXT, len(value)), value.encode("ascii")
        else:
            pieces += _head(_BYTES, len(value)), value
    return pieces


def _head(kind: int, argument: int) -> bytes:
    """The shortest one."""
    if argument < 24:
        return _TINY[kind | argument]
    if argument < 1 << 8:
        return _PACKED[1](kind | 24, argument)
    if argument < 1 << 16:
        return _PACKED[2](kind | 25, argument)
    return _PACKED[4](kind | 26, argument) if argument < 1 << 32 else _PACKED[8](kind | 27, argument)


# Reading.


def _argument(kind: int) -> bytes:
    """Matches a head in its shortest form, whose argument is below 2^63."""
    tiny, *wide = (b"\\x%02x" % (kind | info) for info in (0, 24, 25, 26, 27))
    longer = rb"[\x18-\xff]", rb"(?!\0)..", rb"(?!\0\0)....", rb"(?!\0\0\0\0)[\0-\x7f]......."
    forms = [b"[%b-\\x%02x]" % (tiny, kind | 23), *map(bytes.__add__, wide, longer)]
    return b"(" + b"|".join(forms) + b")"


_DIGEST = rb"\x58\x20(.{%d})" % HASH_BYTES


class _Shape(NamedTuple):
    """How to read a kind: what stands before its part of any length, and whether a number stands behind that."""

    kind: type[Frame]
    start: "re.Pattern[bytes]"
    digest: int
    """Which of the parts is a digest."""
    most: int
    """Of the part of any length; -1: there is none."""
    is_numbered: bool


def _shape(kind: type[Frame]) -> _Shape:
    pattern, digest, most, is_numbered = re.escape(_STARTS[kind]) + 2 * _argument(_NUMBER), -1, -1, False
    for place, name in enumerate(_NAMES[kind], start=2):
        if name == "digest":
            pattern, digest = pattern + _DIGEST, place
        elif name in _MOST:
            pattern, most = pattern + _argument(_BYTES), _MOST[name]
        elif most < 0:
            pattern += _argument(_NUMBER)
        else:
            is_numbered = True
    return _Shape(kind, re.compile(pattern, re.DOTALL), digest, most, is_numbered)


_SHAPES = {_STARTS[kind]: _shape(kind) for kind in _KINDS if kind is not Refuse}
_LAST = re.compile(_argument(_NUMBER), re.DOTALL)


def decode(data: Data) -> Frame:
    """The frame in `data`; of a view, the data of a chunk is a view, too.

    Raises:
        DecodeError: it is too long, not a frame, or has a field that no sender would write.
    """
    frame = _read(data)
    return decode_slowly(data) if frame is None else frame


def _read(data: Data) -> Frame | None:
    """As `decode_slowly`, at once; None: it is no frame, or a seldom one."""
    shape = _SHAPES.get(bytes(data[:3]))
    if shape is None or len(data) > FRAME_BYTES or (found := shape.start.match(data)) is None:
        return None
    kind, _, digest, most, is_numbered = shape
    parts = found.groups()
    values: list[Any] = [int.from_bytes(part[1:] or part, "big") for part in parts]
    if digest > 0:
        values[digest] = parts[digest]
    at = found.end()
    if most >= 0:
        start, length = at, values.pop() & (31 if len(parts[-1]) == 1 else -1)
        at += length
        if length > most:
            return None
        values.append(data[start:at] if kind is Chunk else bytes(data[start:at]))
        if is_numbered:
            if (last := _LAST.match(data, at)) is None:
                return None
            at = last.end()
            values.append(int.from_bytes(last[0][1:] or last[0], "big"))
    if at != len(data):
        return None
    frame: Frame = kind(Ident(values[0], values[1]), *values[2:])
    return None if _flaw(frame) else frame


def decode_slowly(data: Data) -> Frame:
    """As `decode`, part by part: says what is wrong with what is no frame."""
    plain = wire.loads(bytes(data), max_bytes=FRAME_BYTES, max_depth=1, max_items=16)
    if not isinstance(plain, list) or len(plain) < 4 or plain[0] != VERSION or type(plain[0]) is not int:
        raise DecodeError(f"{len(data)} bytes are not a frame of version {VERSION}")
    if type(plain[1]) is not int or not 0 <= plain[1] < len(_KINDS):
        raise DecodeError(f"there is no frame of kind {str(plain[1])[:20]}")
    kind = _KINDS[plain[1]]
    names = _NAMES[kind]
    if len(plain) != 4 + len(names):
        raise DecodeError(f"a frame {kind.__name__} has {4 + len(names)} parts, {len(plain)} arrived")
    for name, value in zip(("incarnation", "sequence", *names), plain[2:], strict=True):
        _check_field(name, value)
    frame: Frame = kind(Ident(plain[2], plain[3]), *plain[4:])
    if flaw := _flaw(frame):
        raise DecodeError(flaw)
    return frame


def _check_field(name: str, value: Any) -> None:
    if name == "digest":
        if type(value) is not bytes or len(value) != HASH_BYTES:
            raise DecodeError(f"a digest is not {HASH_BYTES} bytes")
    elif name in _MOST:
        if type(value) is not bytes or len(value) > _MOST[name]:
            raise DecodeError(f"{name} is not bytes, or longer than {_MOST[name]}")
    elif name == "code":
        if type(value) is not str or value not in CODES:
            raise DecodeError(f"the code {str(value)[:20]!r} is not one of a refusal")
    elif type(value) is not int or not 0 <= value < _LARGEST:
        raise DecodeError(f"{name} is not a number from 0 to 2^63")


def _flaw(frame: Frame) -> str:
    """What is wrong about what fields have to do with one another; empty: nothing."""
    if isinstance(frame, Chunk):
        if len(frame.data) > MAX_CHUNK_BYTES:
            return f"a chunk of {len(frame.data)} bytes, the protocol carries at most {MAX_CHUNK_BYTES}"
    elif isinstance(frame, (Whole, Open)):
        if frame.floor > frame.ident.sequence:
            return f"message {frame.ident.sequence} is below its own floor {frame.floor}"
        if isinstance(frame, Open):
            return _flaw_of_chunks(frame)
    return ""


def _flaw_of_chunks(frame: Open) -> str:
    if not 0 < frame.chunk_bytes <= MAX_CHUNK_BYTES:
        return f"chunks of {frame.chunk_bytes} bytes, the protocol carries 1 to {MAX_CHUNK_BYTES}"
    chunks = -(-frame.size // frame.chunk_bytes)
    if chunks < 2 or len(frame.hashes) != chunks * HASH_BYTES:
        return f"{len(frame.hashes)} bytes of hashes for a message of {chunks} chunks"
    return ""
