"""Parcels, which a carrier carries: frames one after the other, so that an answer costs no message of its own.

Each frame stands behind its length and the CRC-32 of its head (all of a short one). What a chunk holds is checked by
its SHA-256; a number in a head that is not the one that was sent would make a message another one. That finds
accidents, not forgers.
"""

import struct
import zlib
from collections.abc import Sequence

from fedmesh.errors import DecodeError
from fedmesh.transport.frames import Chunk, Data, Frame, Whole, encode, pieces_of
from fedmesh.transport.limits import PARCEL_BYTES

__all__ = ["PARCEL_FRAMES", "pack", "parts_of", "unpack"]

PARCEL_FRAMES = 64
_PREFIX = struct.Struct(">II")
_HEAD_BYTES = 1024
"""Longer than what stands in any frame before its `data` or `hashes`."""
_LONG_BYTES = 1 << 16
"""Data that is worth not being copied."""


def pack(frames: Sequence[bytes]) -> bytes:
    """The parcel of these frames."""
    parts: list[bytes] = []
    for frame in frames:
        parts += _PREFIX.pack(len(frame), zlib.crc32(frame[:_HEAD_BYTES])), frame
    return b"".join(parts)


def parts_of(answers: Sequence[bytes], last: Frame | None) -> tuple[Data, ...]:
    """What ``pack([*answers, encode(last)])`` gives, in parts: long data is not copied."""
    if not isinstance(last, Chunk | Whole) or len(last.data) < _LONG_BYTES:
        return (pack(answers if last is None else [*answers, encode(last)]),)
    pieces = pieces_of(last)
    place = next(place for place, piece in enumerate(pieces) if piece is last.data)
    head, tail = b"".join(pieces[:place]), b"".join(pieces[place + 1 :])
    checksum = zlib.crc32(last.data[: _HEAD_BYTES - len(head)], zlib.crc32(head))
    before = b"".join((pack(answers), _PREFIX.pack(len(head) + len(last.data) + len(tail), checksum), head))
    return (before, last.data, tail) if tail else (before, last.data)


def unpack(parcel: Data) -> list[Data]:
    """The frames of a parcel, at most `PARCEL_FRAMES`; of a view, views. Raises: DecodeError: it is none."""
    size = len(parcel)
    if size > PARCEL_BYTES:
        raise DecodeError(f"a parcel of {size} bytes, the limit is {PARCEL_BYTES}")
    frames: list[Data] = []
    at = 0
    while at < size:
        start = at + _PREFIX.size
        if start > size or len(frames) == PARCEL_FRAMES:
            raise DecodeError(f"{size} bytes are not a parcel of 1 to {PARCEL_FRAMES} frames")
        length, checksum = _PREFIX.unpack_from(parcel, at)
        at = start + length
        frame = parcel[start:at]
        if len(frame) != length or not length or zlib.crc32(frame[:_HEAD_BYTES]) != checksum:
            raise DecodeError(f"frame {len(frames)} of a parcel of {size} bytes was cut or altered on the way")
        frames.append(frame)
    return frames
