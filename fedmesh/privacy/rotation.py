"""Random rotation: public random signs, then the Walsh-Hadamard transform over sqrt(d) (Ailon and Chazelle 2006).

It keeps L2 norms and spreads a vector's energy evenly over its coordinates, so that a sum of many fits a ring of few
bits. The seed is public: the rotation protects nothing. ``unrotate(rotate(x)) == x`` but for float rounding.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.types import Float32

__all__ = ["Seed", "dimension", "rotate", "rotation_seed", "unrotate"]

Float64 = NDArray[np.float64]
Seed = bytes | int

_RADIX_BITS = 5  # 32 x 32 products: fewer passes over memory than with butterflies, fewer operations than with larger


def dimension(size: int) -> int:
    """The power of two, at least 2, that a vector of `size` values is padded to. Raises: ConfigError: it is empty."""
    if size < 1:
        raise ConfigError(f"a vector of {size} values cannot be rotated: it needs at least 1")
    return 1 << max(1, (size - 1).bit_length())


def rotation_seed(round_number: int, weights: Float32) -> bytes:
    """The public seed of a round, 32 bytes: of what all its devices begin with, so that all their groups agree on it.

    Args:
        round_number: 0 or more.
        weights: float32 [P], the round's start weights.
    """
    digest = hashlib.sha256(b"fedmesh/rotation/1")
    digest.update(round_number.to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(weights, "<f4").tobytes())
    return digest.digest()


def rotate(rows: NDArray[np.floating], scales: tuple[Float64, Float64], seed: Seed) -> Float64:
    """Each row, divided and multiplied by its scales, padded and rotated: float64 [N, d] of float [N, P].

    Args:
        rows: finite.
        scales: divisor and factor of each row, float64 [N] each; two, because their quotient may overflow.
        seed: as for `unrotate`.
    """
    count, size = rows.shape
    length = dimension(size)
    padded = np.zeros((length, count))
    np.divide(rows.T, scales[0], out=padded[:size])
    padded *= scales[1] / np.sqrt(length)
    padded *= _signs(seed, length)[:, np.newaxis]
    return _hadamard(padded)


def unrotate(values: NDArray[np.number], seed: Seed) -> Float64:
    """The inverse of `rotate` for one vector, still padded: float64 [d] of [d], d a power of two.

    Args:
        values: whatever turns into float64.
        seed: bytes, or an integer of any size.
    """
    length = len(values)
    result: Float64 = _hadamard(values.astype(np.float64)[:, np.newaxis])[0]
    result *= _signs(seed, length) / np.sqrt(length)
    return result


def _signs(seed: Seed, length: int) -> NDArray[np.int8]:
    """+1 or -1, int8 [length], the bits of SHAKE-256 over the seed."""
    data = b"b" + seed if isinstance(seed, bytes) else b"i%d" % seed
    stream = hashlib.shake_256(b"fedmesh/rotation/signs/1" + data).digest((length + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), count=length)
    signs: NDArray[np.int8] = np.int8(1) - np.int8(2) * bits.view(np.int8)
    return signs


def _hadamard(columns: Float64) -> Float64:
    """The Walsh-Hadamard transform, not normalised, of the columns of float64 [d, N], as rows [N, d].

    Each pass transforms the first five binary digits of the index and moves them to its end: after the last pass they
    are in order again, and the column's number has come to the front. Overwrites `columns`.
    """
    length, count = columns.shape
    source, target = columns.reshape(-1), np.empty(columns.size)
    for bits in _radices(length.bit_length() - 1):
        np.matmul(source.reshape(1 << bits, -1).T, _matrix(bits), out=target.reshape(-1, 1 << bits))
        source, target = target, source
    return source.reshape(count, length)


def _radices(bits: int) -> list[int]:
    """`bits` in as few summands up to `_RADIX_BITS` as it takes, of about the same size."""
    passes = -(-bits // _RADIX_BITS)
    return [(bits + number) // passes for number in range(passes)]


@lru_cache(maxsize=_RADIX_BITS)
def _matrix(bits: int) -> Float64:
    """Sylvester's Hadamard matrix, float64 [2^bits, 2^bits]."""
    matrix = np.ones((1, 1))
    for _ in range(bits):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix
