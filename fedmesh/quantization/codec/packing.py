"""Signed b-bit integers <-> bytes, without gaps.

Value i occupies bits i*b to i*b + b - 1 of a little-endian bit stream, in two's complement; unused bits at the end are
zero. So 8 bits are an ``int8`` array and 16 bits a little-endian ``int16`` array, copied as they are; every other width
is packed eight values at a time with shifts over 64-bit words.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import DecodeError

__all__ = ["MAX_BITS", "MIN_BITS", "largest_code", "pack", "packed_bytes", "unpack"]

MIN_BITS = 2
MAX_BITS = 16
_LANES = 8  # eight b-bit values are b whole bytes, whatever b


def largest_code(bits: int) -> int:
    """The largest magnitude: codes are symmetric, the most negative two's complement value is not used."""
    return (1 << (bits - 1)) - 1


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(codes: NDArray[np.signedinteger[Any]], bits: int) -> bytes:
    """The bytes of `codes`: signed integers [P] of magnitude at most ``largest_code(bits)``, not checked here."""
    if bits == 8:
        return codes.astype(np.int8).tobytes()
    if bits == 16:
        return codes.astype("<i2").tobytes()
    groups = -(-len(codes) // _LANES)
    lanes = np.zeros((_LANES, groups), np.uint64)
    masked = codes.astype(np.uint16) & np.uint16((1 << bits) - 1)
    full, rest = divmod(len(codes), _LANES)
    lanes[:, :full] = masked[: full * _LANES].reshape(full, _LANES).T
    lanes[:rest, full:] = masked[full * _LANES :, np.newaxis]
    words = _join(lanes, bits)
    octets = np.ascontiguousarray(words).astype("<u8", copy=False).view(np.uint8)
    return octets[:, :bits].tobytes()[: packed_bytes(len(codes), bits)]


def _join(lanes: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """[8, G] values -> [G, 1 or 2] words that hold each group's 8*b bits, low word first."""
    if bits < 8:
        return _shift_together(lanes, bits)[:, np.newaxis]
    low, high = _shift_together(lanes[:4], bits), _shift_together(lanes[4:], bits)
    half = 4 * bits  # 36 to 60 bits: the high half straddles the two words
    return np.stack([low | (high << np.uint64(half)), high >> np.uint64(64 - half)], axis=1)


def _shift_together(lanes: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    word: NDArray[np.uint64] = lanes[0].copy()
    for lane, values in enumerate(lanes[1:], start=1):
        word |= values << np.uint64(lane * bits)
    return word


def unpack(body: bytes | memoryview, count: int, bits: int) -> NDArray[np.signedinteger[Any]]:
    """The `count` codes in `body`: int8 [count] for up to 8 bits, int16 above. The inverse of `pack`.

    Raises:
        DecodeError: the length is wrong, an unused bit is set, or a code is the most negative value of its width.
    """
    if len(body) != packed_bytes(count, bits):
        wanted = packed_bytes(count, bits)
        raise DecodeError(f"{len(body)} bytes of codes arrived where {count} values of {bits} bits take {wanted}")
    if bits == 8:
        codes: NDArray[np.signedinteger[Any]] = np.frombuffer(body, np.int8)
    elif bits == 16:
        codes = np.frombuffer(body, "<i2").astype(np.int16, copy=False)
    else:
        codes = _unpack_words(body, count, bits)
    if count and int(codes.min()) < -largest_code(bits):
        raise DecodeError(f"a code of {-largest_code(bits) - 1} arrived: {bits}-bit codes are symmetric")
    return codes


def _unpack_words(body: bytes | memoryview, count: int, bits: int) -> NDArray[np.signedinteger[Any]]:
    groups = -(-count // _LANES)
    octets = np.zeros(groups * bits, np.uint8)
    octets[: len(body)] = np.frombuffer(body, np.uint8)
    wide = np.zeros((groups, 8 if bits < 8 else 16), np.uint8)
    wide[:, :bits] = octets.reshape(groups, bits)
    words = wide.view("<u8").astype(np.uint64, copy=False)
    lanes = np.empty((groups, _LANES), np.uint16)
    for lane, values in enumerate(_lane_values(words, bits)):
        lanes[:, lane] = values  # the cast keeps the low 16 bits, which hold the code
    lanes &= np.uint16((1 << bits) - 1)
    flat = lanes.ravel()
    if flat[count:].any():
        raise DecodeError("unused bits at the end of the packet are set")
    sign = np.uint16(1 << (bits - 1))
    signed = ((flat[:count] ^ sign) - sign).view(np.int16)
    return signed.astype(np.int8) if bits < 8 else signed


def _lane_values(words: NDArray[np.uint64], bits: int) -> list[NDArray[np.uint64]]:
    if bits < 8:
        return [words[:, 0] >> np.uint64(lane * bits) for lane in range(_LANES)]
    half = 4 * bits
    low, high = words[:, 0], (words[:, 0] >> np.uint64(half)) | (words[:, 1] << np.uint64(64 - half))
    return [part >> np.uint64(lane * bits) for part in (low, high) for lane in range(4)]
