"""The frames of a transport: one message as one frame (`Whole`), or announced (`Open`) and sent in chunks.

A frame is a deterministic CBOR list ``[version, kind, incarnation, sequence, ...]``, at most `FRAME_BYTES` long. A
carrier carries parcels: one frame after the other, each behind its length and a checksum, so that an answer costs no
message of its own.
`decode` gives a frame whose every field is of its type and in its range, or raises: nothing behind it checks again.
Nothing here is authenticated: who a frame is from is for the carrier to say (docs/transport.md).
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedmesh import wire
from fedmesh.errors import DecodeError
from fedmesh.transport.limits import FRAME_BYTES, HASH_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS, PARCEL_BYTES, WHOLE_BYTES

__all__ = [
    "CODES",
    "PARCEL_FRAMES",
    "Chunk",
    "Done",
    "Frame",
    "Have",
    "Ident",
    "Open",
    "Refuse",
    "Whole",
    "decode",
    "encode",
    "pack",
    "unpack",
]

VERSION = 1
PARCEL_FRAMES = 64
_PREFIX = struct.Struct(">II")
_HEAD_BYTES = 1024
"""Longer than what stands in any frame before its `data` or `hashes`."""
_LONG_BYTES = 1 << 16
"""Data from which on a head says its length in four bytes."""
_BYTES_HEAD = struct.Struct(">BI")
_LARGEST = 1 << 63
CODES = frozenset({"again", "busy", "channel", "clock", "conflict", "expired", "stale", "too-large", "unknown"})
"""Why a receiver says no: ``busy`` means later, ``again`` now, ``unknown`` from the beginning, ``stale`` with a higher
incarnation, the others never."""


class Ident(NamedTuple):
    """Names a message among all that its sender sends, ever: the sender's incarnation and a number that only grows."""

    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Open:
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


@dataclass(frozen=True, slots=True)
class Whole:
    """A short message."""

    ident: Ident
    floor: int
    expires_ms: int
    digest: bytes
    data: bytes
    channel: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Chunk `index` of an announced message."""

    ident: Ident
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Have:
    """What has arrived: bit i of `bitmap` (little-endian) is chunk i. `attempt` is that of the last `Open` seen."""

    ident: Ident
    attempt: int
    digest: bytes
    bitmap: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The content with this digest has arrived whole (durably, where the receiver has a spool)."""

    ident: Ident
    digest: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """No, for the reason `code`; `newest` is the incarnation that the receiver knows."""

    ident: Ident
    code: str
    newest: int = 0


Frame = Open | Whole | Chunk | Have | Done | Refuse
_KINDS: tuple[type[Frame], ...] = (Open, Whole, Chunk, Have, Done, Refuse)
_BYTES = {"digest": HASH_BYTES, "data": WHOLE_BYTES, "hashes": HASH_BYTES * MAX_CHUNKS, "bitmap": MAX_CHUNKS // 8}
_NO_NUMBERS = frozenset({*_BYTES, "code"})
_FIELDS = {kind: tuple(name for name in kind.__slots__ if name != "ident") for kind in _KINDS}
_HEADS = {kind: [VERSION, number] for number, kind in enumerate(_KINDS)}


def encode(frame: Frame) -> bytes:
    """The bytes of a frame; ``decode(encode(f)) == f``."""
    kind = type(frame)
    if isinstance(frame, Chunk | Whole) and len(frame.data) >= _LONG_BYTES:
        return _encode_around(frame)
    return wire.dumps([*_HEADS[kind], *frame.ident, *[getattr(frame, name) for name in _FIELDS[kind]]])


def _encode_around(frame: Chunk | Whole) -> bytes:
    """As `encode`; the data is copied once, behind the head of its byte string (RFC 8949, 3.1), and not by cbor2."""
    kind = type(frame)
    values = [b"" if name == "data" else getattr(frame, name) for name in _FIELDS[kind]]
    tail = b"".join(map(wire.dumps, values[values.index(b"") + 1 :]))
    plain = wire.dumps([*_HEADS[kind], *frame.ident, *values])
    before = plain[: len(plain) - len(tail) - 1]  # without the head of the empty string that is in its place
    return b"".join((before, _BYTES_HEAD.pack(0x5A, len(frame.data)), frame.data, tail))


def decode(data: bytes) -> Frame:
    """The frame in `data`.

    Raises:
        DecodeError: it is too long, not a frame, or has a field that no sender would write.
    """
    plain = wire.loads(data, max_bytes=FRAME_BYTES, max_depth=1, max_items=16)
    if not isinstance(plain, list) or len(plain) < 4 or plain[0] != VERSION or type(plain[0]) is not int:
        raise DecodeError(f"{len(data)} bytes are not a frame of version {VERSION}")
    if type(plain[1]) is not int or not 0 <= plain[1] < len(_KINDS):
        raise DecodeError(f"there is no frame of kind {str(plain[1])[:20]}")
    kind = _KINDS[plain[1]]
    names = _FIELDS[kind]
    if len(plain) != 4 + len(names):
        raise DecodeError(f"a frame {kind.__name__} has {4 + len(names)} parts, {len(plain)} arrived")
    ident = Ident(_number("incarnation", plain[2]), _number("sequence", plain[3]))
    for name, value in zip(names, plain[4:], strict=True):
        if type(value) is not int or not 0 <= value < _LARGEST or name in _NO_NUMBERS:
            _check_field(name, value)
    frame: Frame = kind(ident, *plain[4:])
    _check(frame)
    return frame


def pack(frames: list[bytes]) -> bytes:
    """The parcel of these frames: before each its length and the CRC-32 of its head (all of a short one).

    What a chunk holds is checked by its SHA-256; a number in a head that is not the one that was sent would make a
    message another one. That finds accidents, not forgers.
    """
    parts: list[bytes] = []
    for frame in frames:
        parts += _PREFIX.pack(len(frame), _checksum(frame)), frame
    return b"".join(parts)


def unpack(parcel: bytes) -> list[bytes]:
    """The frames of a parcel, at most `PARCEL_FRAMES`. Raises: DecodeError: it is none."""
    if len(parcel) > PARCEL_BYTES:
        raise DecodeError(f"a parcel of {len(parcel)} bytes, the limit is {PARCEL_BYTES}")
    frames: list[bytes] = []
    at = 0
    while at < len(parcel):
        start = at + _PREFIX.size
        if start > len(parcel) or len(frames) == PARCEL_FRAMES:
            raise DecodeError(f"{len(parcel)} bytes are not a parcel of 1 to {PARCEL_FRAMES} frames")
        length, checksum = _PREFIX.unpack_from(parcel, at)
        at = start + length
        frame = parcel[start:at]
        if len(frame) != length or not frame or _checksum(frame) != checksum:
            raise DecodeError(f"frame {len(frames)} of a parcel of {len(parcel)} bytes was cut or altered on the way")
        frames.append(frame)
    return frames


def _checksum(frame: bytes) -> int:
    return zlib.crc32(frame[:_HEAD_BYTES])


def _check_field(name: str, value: Any) -> None:
    if name in _BYTES:
        if type(value) is not bytes or len(value) > _BYTES[name]:
            raise DecodeError(f"{name} is not bytes, or longer than {_BYTES[name]}")
    elif name == "code":
        if type(value) is not str or value not in CODES:
            raise DecodeError(f"the code {str(value)[:20]!r} is not one of a refusal")
    else:
        _number(name, value)


def _number(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise DecodeError(f"{name} is not a number from 0 to 2^63")
    return value


def _check(frame: Frame) -> None:
    """What fields have to do with one another."""
    if isinstance(frame, Whole | Have | Done) and len(frame.digest) != HASH_BYTES:
        raise DecodeError(f"a digest of {len(frame.digest)} bytes, it has {HASH_BYTES}")
    if isinstance(frame, Chunk) and len(frame.data) > MAX_CHUNK_BYTES:
        raise DecodeError(f"a chunk of {len(frame.data)} bytes, the protocol carries at most {MAX_CHUNK_BYTES}")
    if isinstance(frame, Open | Whole) and frame.floor > frame.ident.sequence:
        raise DecodeError(f"message {frame.ident.sequence} is below its own floor {frame.floor}")
    if isinstance(frame, Open):
        if not 0 < frame.chunk_bytes <= MAX_CHUNK_BYTES:
            raise DecodeError(f"chunks of {frame.chunk_bytes} bytes, the protocol carries 1 to {MAX_CHUNK_BYTES}")
        chunks = -(-frame.size // frame.chunk_bytes)
        if chunks < 2 or len(frame.hashes) != chunks * HASH_BYTES:
            raise DecodeError(f"{len(frame.hashes)} bytes of hashes for a message of {chunks} chunks")
