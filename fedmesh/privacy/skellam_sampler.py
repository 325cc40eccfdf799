"""Exact samples of the Skellam law by inversion of 64-bit words: what numpy's Poisson is neither, exact nor secret.

A word is the first 64 binary digits of a uniform number U, and X is the smallest k with U < P(X <= k). The table holds
floor(2^64 P(X <= k)), so a word that is in it decides nothing: then further words extend U until it is on one side of
its boundary, compared in integers against as many digits of the law (`fedmesh.privacy.skellam_law`). That ends: no
boundary has a last digit (for a rational v, exp(v), I_0(v) and I_1(v) are algebraically independent, Siegel 1929). And
it almost never begins: of 2^64 words, as many tie as the table has boundaries. The samples follow the law of the
variance, taken as the rational number that the float is, without any error.

A variance above 2^28 is split into equal parts, whose samples are added: sums of Skellam variables are Skellam again.
Not constant-time: how long a call takes depends a little on the noise, never on the data.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.privacy.noise import Randomness, draw_words
from fedmesh.privacy.skellam_law import TAIL_ERROR, upper_tails

__all__ = ["MAX_SIGMA", "MIN_SIGMA", "sample"]

MIN_SIGMA = 2.0**-20
"""Smallest standard deviation: less than one sample in 10^12 would differ from 0."""
MAX_SIGMA = 2.0**20
"""Largest standard deviation, in steps of the grid: a sample is a sum of 4096 there, and takes as long."""

_WORD = 64
_TABLE_VARIANCE = 2**28
"""Largest variance of one table, which has 300,000 boundaries then."""
_CHUNK = 1 << 16
_UNDECIDED = np.iinfo(np.int32).min

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Table:
    """The law of one variance for 64-bit words.

    Attributes:
        variance: of the law.
        least: the smallest value.
        boundaries: floor(2^64 P(X <= k)) for k = least, least + 1, ..; uint64, ascending, first 0, last 2^64 - 1.
        guide: the sample of all words that begin with the bits of its index, or `_UNDECIDED` if they have a boundary
            among them; int32 [2^bits].
        shift: 64 - bits.
    """

    variance: Fraction
    least: int
    boundaries: NDArray[np.uint64]
    guide: NDArray[np.int32]
    shift: np.uint64


def sample(size: int, variance: float, rng: Randomness) -> Int64:
    """Independent samples of the Skellam law with mean 0 and this variance, int64 [size].

    Args:
        size: how many.
        variance: in steps of the grid squared, from `MIN_SIGMA`^2 to `MAX_SIGMA`^2.
        rng: where the words come from.

    Raises:
        ConfigError: the variance is out of range.
    """
    if not MIN_SIGMA**2 <= variance <= MAX_SIGMA**2:  # NaN is not
        raise ConfigError(
            f"the variance of Skellam noise is {variance}, it must be between {MIN_SIGMA**2:.3g} and {MAX_SIGMA**2:.3g}"
            " steps of the grid squared: choose another gamma"
        )
    parts = max(1, math.ceil(variance / _TABLE_VARIANCE))
    table = _table(Fraction(float(variance)) / parts)
    out = np.zeros(size, np.int64)
    for start in range(0, size, _CHUNK):
        chunk = out[start : start + _CHUNK]
        for _ in range(parts):
            chunk += _invert(table, draw_words(rng, len(chunk)), rng)
    return out


def _invert(table: _Table, words: NDArray[np.uint64], rng: Randomness) -> NDArray[np.int32]:
    """The sample of every word, int32 [n]."""
    samples = table.guide.take((words >> table.shift).view(np.int64), mode="clip")  # no index is out of range
    rows = np.flatnonzero(samples == _UNDECIDED)
    rest = words[rows]
    indices = np.searchsorted(table.boundaries, rest)
    samples[rows] = indices + table.least
    for row in rows[table.boundaries[indices] == rest]:
        samples[row] = _break_tie(table.variance, int(words[row]), rng)
    return samples


def _break_tie(variance: Fraction, word: int, rng: Randomness) -> int:
    """The sample of a uniform number that begins with `word`, with as many more digits as it takes."""
    for bits in count(2 * _WORD, _WORD):
        word = word << _WORD | int(draw_words(rng, 1)[0])
        found = _locate(upper_tails(variance, bits), word, bits)
        if found is not None:
            return found
    raise AssertionError  # count does not end


def _locate(tails: tuple[int, ...], prefix: int, bits: int) -> int | None:
    """The smallest k with U < P(X <= k) for all U that begin with these bits; None if they do not decide it."""

    def boundary(value: int) -> int:
        return (1 << bits) - tails[value] if value >= 0 else tails[-value - 1]

    low, high = -len(tails) - 1, len(tails)  # U is not known to be below the boundary of low, it may be below high's
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if prefix + 1 <= boundary(middle) - TAIL_ERROR else (middle, high)
    inside = high < len(tails) and low >= -len(tails)
    return high if inside and boundary(low) + TAIL_ERROR <= prefix else None


@lru_cache(maxsize=8)
def _table(variance: Fraction) -> _Table:
    tails = _tails_of_words(variance)
    upper = np.array(tails, np.uint64)
    boundaries = np.concatenate([upper[::-1], ~upper])  # floor(2^64 (1 - q)) is 2^64 - 1 - floor(2^64 q)
    bits = min(20, max(12, math.ceil(math.log2(float(variance)) / 2) + 8))
    shift = np.uint64(_WORD - bits)
    inside = np.bincount((boundaries >> shift).view(np.int64), minlength=1 << bits)
    below = np.cumsum(inside) - inside
    guide = np.where(inside == 0, below - len(tails), _UNDECIDED).astype(np.int32)
    return _Table(variance, -len(tails), boundaries, guide, shift)


def _tails_of_words(variance: Fraction) -> list[int]:
    """floor(2^64 P(X > k)) for k = 0, 1, .. down to the first that is 0."""
    for guard in count(_WORD, _WORD):
        tails = upper_tails.__wrapped__(variance, _WORD + guard)  # not kept: it is megabytes
        low = [max(0, tail - TAIL_ERROR) >> guard for tail in tails]
        if low == [tail + TAIL_ERROR >> guard for tail in tails]:
            return low[: low.index(0) + 1]
    raise AssertionError  # count does not end
