"""The ring of integers mod 2^k in which inputs are masked and summed, k from 2 to 62 bits.

A sum is right if it stays within ``-2^(k-1) .. 2^(k-1) - 1``: ``centre(sum of lift(x_i)) == sum of x_i`` then, exactly.
`bits_for` gives the k that guarantees it, `largest_value` the largest magnitude that a device may send.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import DecodeError, SecAggError
from fedmesh.wire import bits as wire_bits

__all__ = ["MAX_BITS", "MIN_BITS", "Ring"]

MIN_BITS = 2
MAX_BITS = 62

Elements = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Ring:
    """Integers mod ``2^bits``. Raises: SecAggError (``ring``) unless 2 to 62 bits."""

    bits: int

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not MIN_BITS <= self.bits <= MAX_BITS:
            raise SecAggError(f"a ring of {self.bits!r:.40} bits: wanted {MIN_BITS} to {MAX_BITS}", code="ring")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest unsigned type of at least 16 bits that holds an element."""
        return np.dtype(np.uint16 if self.bits <= 16 else np.uint32 if self.bits <= 32 else np.uint64)

    def lift(self, vector: NDArray[np.int64]) -> Elements:
        """The elements congruent to `vector` (int64 [d]), a new array [d] of `dtype`."""
        if vector.dtype != np.int64:
            raise SecAggError(f"an input is a vector of int64, not {vector.dtype}", code="input")
        return self.reduce(vector.astype(self.dtype))

    def reduce(self, array: Elements) -> Elements:
        """The remainders mod ``2^bits`` of an array of `dtype`, a new array."""
        result: Elements = array & self.dtype.type((1 << self.bits) - 1)
        return result

    def centre(self, array: Elements) -> NDArray[np.int64]:
        """The representatives in ``-2^(bits-1) .. 2^(bits-1) - 1``, int64 [d]."""
        sign = np.int64(1 << (self.bits - 1))
        return (self.reduce(array).astype(np.int64) ^ sign) - sign

    def pack(self, array: Elements) -> bytes:
        """The elements (reduced on the way) in `bits` bits each, as `fedmesh.wire.bits` lays them out."""
        return wire_bits.pack(array, self.bits)

    def unpack(self, data: bytes | memoryview, length: int) -> Elements:
        """The `length` elements that `pack` wrote. Raises: SecAggError (``malformed``) for anything else."""
        try:
            return wire_bits.unpack(data, length, self.bits, self.dtype)
        except DecodeError as error:
            raise SecAggError(f"a masked vector cannot be read: {error}", code="malformed") from error

    def largest_value(self, members: int, weight_cap: int) -> int:
        """The largest magnitude of values that `members` devices of weights up to `weight_cap` sum without overflow."""
        return ((1 << (self.bits - 1)) - 1) // (members * weight_cap)

    @staticmethod
    def bits_for(members: int, weight_cap: int, value_bits: int, noise_sigma: float = 0.0) -> int:
        """The least k with ``2^k > 2 (n W 2^(b-1) + 12 sigma sqrt(n))``; also enough for the sum of weights.

        Args:
            members: n, devices in the sum.
            weight_cap: W, the largest weight of one.
            value_bits: b: values are in ``-2^(b-1) .. 2^(b-1)`` before they are weighted.
            noise_sigma: standard deviation of the noise that each device adds, in units of the ring.

        Raises:
            SecAggError: ``ring``: it would take more than 62 bits, or an argument makes no sense.
        """
        if min(members, weight_cap, value_bits) < 1 or value_bits > MAX_BITS or not 0 <= noise_sigma < math.inf:
            what = f"{members} members, weights to {weight_cap}, {value_bits}-bit values, noise {noise_sigma}"
            raise SecAggError(f"no ring fits {what}", code="ring")
        doubled = members * weight_cap << value_bits
        least = (doubled + math.floor(24 * noise_sigma * math.sqrt(members))).bit_length()
        return Ring(max(least, MIN_BITS)).bits
