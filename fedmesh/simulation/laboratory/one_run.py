"""A lower bound on epsilon from the guesses of one run.

Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, theorem 5.2 and corollary 5.4.

Of m canaries each is put in by a fair coin of its own. Whoever guesses r of the coins from the output of an
(epsilon, delta)-private mechanism, and abstains on the rest, has v right with a probability of at most

    P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i,    W ~ Binomial(r, e^epsilon / (1 + e^epsilon)).

An epsilon for which this is below 5 % is refuted. Nothing is assumed about the mechanism, nor about the guesses, if
only r was settled before the coins were known; `lower_bound_of` pays for trying several r. The bound is a floor, not an
estimate: with r guesses, all right, it is about log(r / 3), and for one number it is usually far below the truth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from fedmesh.errors import ConfigError

__all__ = ["Guesses", "best_bound", "count_right", "lower_bound", "p_value"]

SHARES = (0.01, 0.04, 0.16, 0.5)
"""Shares of the canaries that are guessed at each end of the ranking, all of them tried."""

_STEPS = 60  # of bisection


@dataclass(frozen=True, slots=True)
class Guesses:
    """What was guessed, and what follows.

    Attributes:
        canaries: m; guesses: r, of them; right: v, of those.
        epsilon: the lower bound.
    """

    canaries: int
    guesses: int
    right: int
    epsilon: float


def p_value(canaries: int, guesses: int, right: int, *, epsilon: float, delta: float) -> float:
    """The most likely it can be that `right` or more of `guesses` are right under (epsilon, delta)-privacy.

    Raises:
        ConfigError: the counts are no counts of guesses, or epsilon or delta is out of range.
    """
    _check(canaries, guesses, right, delta)
    if not epsilon >= 0:
        raise ConfigError(f"epsilon is {epsilon}, it must not be negative")
    share = float(special.expit(epsilon))
    tail = float(stats.binom.sf(right - 1, guesses, share))
    if delta == 0 or right == 0:
        return min(1.0, tail)
    below = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, share))
    steepest = float((below / np.arange(1, right + 1)).max())
    return min(1.0, tail + 2 * canaries * delta * steepest)


def lower_bound(canaries: int, guesses: int, right: int, *, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon (to 1e-9) that the guesses refute; 0 where they refute none.

    Raises:
        ConfigError: as `p_value`, or the confidence is not between 0 and 1.
    """
    _check(canaries, guesses, right, delta)
    if not 0 < confidence < 1:
        raise ConfigError(f"the confidence is {confidence}, it must be between 0 and 1, e.g. 0.95")

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, right, epsilon=epsilon, delta=delta) < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def count_right(scores: NDArray[np.float64], included: NDArray[np.bool_], each: int) -> int:
    """How often it is right that the `each` highest scores are of canaries that are in, the `each` lowest of others.

    Args:
        scores: float [m]; the higher, the more it looks as if the canary was in. Equal ones are ranked by their place.
        included: bool [m], the coins.
        each: at most m / 2.
    """
    order = np.argsort(scores, kind="stable")
    return int(included[order[len(order) - each :]].sum() + (~included[order[:each]]).sum())


def best_bound(
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    *,
    delta: float,
    confidence: float = 0.95,
    shares: Sequence[float] = SHARES,
) -> Guesses:
    """The best lower bound among rankings cut at several `shares`, each at a confidence that makes up for the choice.

    Args:
        scores, included: as for `count_right`, at least 2 canaries.
        delta: of the claim.
        confidence: that the bound holds.
        shares: of the canaries to guess at each end, up to 0.5; settled before anything is seen.

    Raises:
        ConfigError: there are not as many scores as coins, or fewer than two, or a score is not a number.
    """
    count = len(scores)
    if len(included) != count or count < 2:
        raise ConfigError(f"{count} scores came with {len(included)} coins: wanted one each, for 2 canaries or more")
    if np.isnan(scores).any():
        raise ConfigError("a canary's score is not a number: the audited run diverged")
    each_error = (1 - confidence) / len(shares)
    found = []
    for share in shares:
        each = max(1, math.floor(share * count))
        right = count_right(scores, included, each)
        bound = lower_bound(count, 2 * each, right, delta=delta, confidence=1 - each_error)
        found.append(Guesses(count, 2 * each, right, bound))
    return max(found, key=lambda guesses: guesses.epsilon)


def _check(canaries: int, guesses: int, right: int, delta: float) -> None:
    if not 0 <= right <= guesses <= canaries:
        raise ConfigError(f"{right} of {guesses} guesses are right, among {canaries} canaries: these are no counts")
    if not 0 <= delta < 1:
        raise ConfigError(f"delta is {delta}, it must be at least 0 and below 1, e.g. 1e-5")
