"""Unsigned b-bit integers <-> bytes, for 1 to 64 bits, in planes.

Layout of n values of b = 8q + r bits (r < 8):

- q byte planes of n bytes: plane j holds byte j of every value, low byte first;
- r bit planes of ceil(n / 8) bytes: plane j holds bit 8q + j of value i as bit i % 8 of its byte i // 8; the bits
  behind the last value are zero.

Planes, and not one stream of bits, because a processor moves them many values at a time: a million 15-bit values take a
millisecond. The price is at most r - 1 bytes more than a stream of bits.
``unpack(pack(v, b), len(v), b, t) == v mod 2^b`` and ``pack(unpack(d, n, b, t), b) == d``.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedmesh.errors import DecodeError

__all__ = ["MAX_BITS", "pack", "packed_bytes", "unpack"]

MAX_BITS = 64
_CHUNK_BYTES = 1 << 19  # values are worked on in pieces that stay in the second-level cache; a multiple of 64

Unsigned = NDArray[np.unsignedinteger[Any]]
_Octets = NDArray[np.uint8]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take."""
    whole, rest = divmod(bits, 8)
    return count * whole + rest * ((count + 7) // 8)


def pack(values: Unsigned, bits: int) -> bytes:
    """The low `bits` bits of each of `values`: [n], of an unsigned type at least that wide.

    Raises:
        ValueError: `bits` is not 1 to 64, or `values` is not such an array.
    """
    _require_width(values.dtype, bits)
    if values.ndim != 1:
        raise ValueError(f"an array of shape {values.shape} cannot be packed: give one dimension")
    octets = np.empty(packed_bytes(len(values), bits), np.uint8)
    bytes_of, bits_of = _planes(octets, len(values), bits)
    for here, packed in _chunks(len(values), values.itemsize):
        part = values[here]
        for plane in bytes_of:
            np.copyto(plane[here], part, casting="unsafe")  # the cast keeps the low byte
            part = part >> part.dtype.type(8) if part.itemsize > 1 else part
        top = part.astype(np.uint8)
        for bit, plane in enumerate(bits_of):
            plane[packed] = np.packbits(top & np.uint8(1 << bit), bitorder="little")
    return octets.tobytes()


def unpack(data: bytes | memoryview, count: int, bits: int, dtype: DTypeLike) -> Unsigned:
    """The `count` values in `data`: a new array [count] of `dtype`, an unsigned type at least `bits` wide.

    Raises:
        DecodeError: the length is not ``packed_bytes(count, bits)``, or a bit behind the last value is set.
        ValueError: `bits` is not 1 to 64, or does not fit `dtype`.
    """
    target = np.dtype(dtype)
    _require_width(target, bits)
    octets = np.frombuffer(data, np.uint8)
    if len(octets) != packed_bytes(count, bits):
        wanted = packed_bytes(count, bits)
        raise DecodeError(f"{len(octets)} bytes arrived where {count} values of {bits} bits take {wanted}")
    bytes_of, bits_of = _planes(octets, count, bits)
    _require_clear_ends(bits_of, count)
    values = np.empty(count, target)
    for here, packed in _chunks(count, target.itemsize):
        part = values[here]
        part[...] = _join_bits(bits_of[:, packed], len(part))
        for plane in bytes_of[::-1]:
            if target.itemsize > 1:
                part <<= target.type(8)
            part |= plane[here]
    return values


def _require_width(dtype: np.dtype[Any], bits: int) -> None:
    if dtype.kind != "u" or not 1 <= bits <= 8 * dtype.itemsize:
        raise ValueError(f"{bits} bits in {dtype}: the width is 1 to 64 bits, in an unsigned type that holds it")


def _planes(octets: _Octets, count: int, bits: int) -> tuple[_Octets, _Octets]:
    """Views of the byte planes [q, n] and the bit planes [r, ceil(n / 8)]."""
    whole, rest = divmod(bits, 8)
    split = whole * count
    return octets[:split].reshape(whole, count), octets[split:].reshape(rest, (count + 7) // 8)


def _chunks(count: int, itemsize: int) -> list[tuple[slice, slice]]:
    """Where each chunk of values is in the array and in a byte plane, and where in a bit plane."""
    step = _CHUNK_BYTES // itemsize
    return [(slice(at, at + step), slice(at // 8, (at + step) // 8)) for at in range(0, count, step)]


def _join_bits(planes: _Octets, count: int) -> _Octets:
    """[r, ceil(count / 8)] bit planes -> the r-bit values [count]."""
    joined = np.zeros(count, np.uint8)
    for plane in planes[::-1]:
        joined += joined
        joined |= np.unpackbits(plane, count=count, bitorder="little")
    return joined


def _require_clear_ends(planes: _Octets, count: int) -> None:
    if count % 8 and (planes[:, -1] >> np.uint8(count % 8)).any():
        raise DecodeError("bits behind the last value are set")
