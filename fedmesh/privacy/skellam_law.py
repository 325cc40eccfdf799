"""The Skellam law to any number of bits: the difference of two Poisson variables of mean v / 2 each (Skellam 1946).

P(X = k) = exp(-v) I_k(v) for every integer k, I_k the modified Bessel function. Its upper tails are computed in
integers by Miller's backward recurrence and divided by the total, so that neither exp nor a float enters: v is taken as
the rational number that it is, and the error has a proven bound.

**Bound.** Let p_k be the law, a_N = 2^G, a_(N+1) = 0 and, downwards, a_(k-1) = a_(k+1) + floor(2 k a_k / v); further
y(j) the exact solution of that recurrence from y_j = 1, y_(j+1) = 0. By the Wronskian (DLMF 10.28.2)
y(j)_k = v (I_k K_(j+1) +- I_(j+1) K_k), and as K_k grows with k, y(j)_k = w_j (p_k + t p_(j+1)) with w_j =
v e^v K_(j+1) and |t| <= 1. Each floor takes less than 1 away, hence a = 2^G y(N) - sum over j < N of e_j y(j), where
y(j)_k = 0 for k > j and 0 <= e_j < 1. Let A = 2^G w_N - sum e_j w_j, which is at least 2^G w_N / 2 if 2^G >= 2 N. With
w_j / w_N <= 2 p_N / p_j (from 1 / 2v <= I_j K_(j+1) <= 1 / v), every |a_k / A - p_k| is at most 4 p_N. Summed and
divided by the total, a tail is off by at most (8 N + 5) c, where c >= P(X >= N) is Chernoff's bound,
e^(v (cosh t - 1) - t N) at sinh t = N / v. N is chosen so that this is below half a unit of the last bit; one more unit
is lost in the last division.
"""

import math
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

__all__ = ["TAIL_ERROR", "upper_tails"]

TAIL_ERROR = 2
"""`upper_tails` is off by less than this many units of its last bit."""


@lru_cache(maxsize=2)  # for those who compare bit by bit and come back; a list may hold megabytes
def upper_tails(variance: Fraction, bits: int) -> tuple[int, ...]:
    """2^bits P(X > k) for k = 0, 1, .., each within `TAIL_ERROR`; beyond the last the probability is below 2^-bits.

    Args:
        variance: of X, from 2^-40 to 2^40.
        bits: 1 or more; time and memory grow with the standard deviation times bits.
    """
    last = _last_order(float(variance), bits)
    masses = _miller(variance, last)
    tails = list(accumulate(masses))  # of k = last .. 0: P(X >= k), not normalised
    total = 2 * tails[-1] - masses[-1]
    return tuple((tail << bits) // total for tail in tails[-2::-1])


def _miller(variance: Fraction, last: int) -> list[int]:
    """a_k for k = last .. 0, proportional to P(X = k)."""
    numerator, denominator = variance.as_integer_ratio()
    step = 2 * denominator
    above, here = 0, 1 << (last.bit_length() + 1)
    masses = [here]
    for factor in range(step * last, 0, -step):
        above, here = here, above + factor * here // numerator
        masses.append(here)
    return masses


def _last_order(variance: float, bits: int) -> int:
    """The smallest N whose bound on the error of a tail is below half a unit, with one bit in hand for its rounding."""

    def enough(order: int) -> bool:
        ratio = order / variance
        exponent = order * math.asinh(ratio) - order * ratio / (math.sqrt(1 + ratio * ratio) + 1)
        return exponent / math.log(2) >= bits + 2 + math.log2(8 * order + 5)

    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
