"""Stochastic rounding to integers whose L2 norm is bounded (Kairouz et al. 2021, arXiv 2102.06387).

Each coordinate goes up with the probability of its fraction, to 2^-32. A vector that comes out too long is rounded
again; for a bound from `sensitivity`, a try succeeds with a probability above 1 - exp(-1/2) = 0.39, nearly always in
many dimensions. After 64 tries (less than one vector in 10^13) it is rounded towards zero, which makes no coordinate
larger. **The bound holds for every input and all randomness**: it is checked in integers at the very end. What a
rounding costs in return is a small bias towards shorter vectors.
"""

import numpy as np
from numpy.typing import NDArray

from fedmesh.privacy.noise import Randomness, draw_words

__all__ = ["round_rows"]

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_TRIES = 64


def round_rows(rows: Float64, *, square_limit: int, rng: Randomness) -> Int64:
    """Each row rounded, int64 [N, d]; the sum of a row's squares is at most `square_limit`.

    Args:
        rows: float64 [N, d], finite, the norm of each plus sqrt(d) below 2^31 so that no sum of squares overflows.
        square_limit: 0 or more.
        rng: of the rounding; the promise of privacy does not rest on it.
    """
    rounded = _round(rows, rng)
    waiting = np.flatnonzero(_squares(rounded) > square_limit)
    for _ in range(_TRIES - 1):
        if not len(waiting):
            return rounded
        rounded[waiting] = _round(rows[waiting], rng)
        waiting = waiting[_squares(rounded[waiting]) > square_limit]
    rounded[waiting] = np.trunc(rows[waiting])
    rounded[_squares(rounded) > square_limit] = 0  # only if the row itself was too long
    return rounded


def _round(rows: Float64, rng: Randomness) -> Int64:
    """Up or down at random, int64 [N, d]. Half a word is enough for a coordinate."""
    words = draw_words(rng, (rows.size + 1) // 2).view(np.uint32)[: rows.size]
    uniforms = np.multiply(words.reshape(rows.shape), 2.0**-32, dtype=np.float64)
    uniforms += rows
    np.floor(uniforms, out=uniforms)
    return uniforms.astype(np.int64)


def _squares(rows: Int64) -> Int64:
    """Exact sums of squares, int64 [N]."""
    squares: Int64 = np.einsum("ij,ij->i", rows, rows)
    return squares
