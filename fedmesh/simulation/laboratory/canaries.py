"""Canaries: contributions that an auditor puts into a run or not, by a fair coin each, and looks for afterwards.

White-box canaries (Nasr et al. 2023, arXiv 2302.07956): the gradient or update of canary i is large and lies along one
coordinate of its own, so that canaries do not disturb each other and clipping makes each as large as anything may be.
What the run shows along that coordinate, less what is known to be in it, is the canary's score.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from fedmesh.errors import ConfigError
from fedmesh.simulation.laboratory.noise_law import ALARM
from fedmesh.simulation.laboratory.one_run import Guesses, best_bound

__all__ = ["Canaries", "Finding", "Interval", "gaussian_epsilon", "judge", "plant"]

LENGTH = 10.0
"""Norm of a canary in units of the clip: what is not clipped shows."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """Where canaries are, and which are in.

    Attributes:
        place: int64 [m], the coordinate of each; device: int64 [m], who holds it.
        included: bool [m], the coins.
    """

    place: NDArray[np.int64]
    device: NDArray[np.int64]
    included: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.place)

    def of(self, device: int) -> NDArray[np.int64]:
        """The coordinates of the canaries that are in and on this device."""
        places: NDArray[np.int64] = self.place[self.included & (self.device == device)]
        return places


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured ratio to what was promised, and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What an audit of one run found.

    Attributes:
        run: what was audited, e.g. ``as configured``.
        epsilon: what the ledgers say for the rounds audited; None where nothing is promised.
        delta: of the claim.
        guesses: of the coins, and the lower bound on epsilon that follows from them alone.
        estimate: epsilon of a Gaussian mechanism with the effect and the noise that were measured.
        effect: of a canary on its score, and noise: its standard deviation, both in shares of what was promised.
        violations: what breaks the promise, in words; empty if nothing does.
    """

    run: str
    epsilon: float | None
    delta: float
    guesses: Guesses
    estimate: float
    effect: Interval
    noise: Interval
    violations: tuple[str, ...]


def plant(count: int, *, devices: int, places: NDArray[np.int64], disjoint: bool, rng: np.random.Generator) -> Canaries:
    """`count` canaries on `devices` devices in turn, each on a coordinate that no other on its device has.

    Args:
        count: m.
        devices: how many may hold one.
        places: the coordinates to choose from.
        disjoint: no two canaries share a coordinate, on different devices neither: what is seen is a sum over devices.
        rng: tosses the coins and chooses the coordinates.

    Raises:
        ConfigError: there are not enough coordinates, or fewer than 2 canaries.
    """
    room = len(places) if disjoint else len(places) * devices
    if not 2 <= count <= room:
        raise ConfigError(
            f"{count} canaries were asked for: wanted 2 to {room}, one for each weight that is seen by itself"
        )
    device = np.arange(count) % devices
    if disjoint:
        place = rng.permutation(places)[:count]
    else:
        place = np.empty(count, np.int64)
        for number in range(min(devices, count)):
            mine = device == number
            place[mine] = rng.permutation(places)[: mine.sum()]
    return Canaries(place, device, rng.random(count) < 0.5)


def judge(
    run: str,
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    *,
    effect: float,
    noise: float,
    delta: float,
    epsilon: float | None,
    confidence: float = 0.95,
) -> Finding:
    """What the scores of the canaries say about the promise.

    Args:
        run: names it.
        scores: float [m], in units of the clip.
        included: bool [m], the coins.
        effect: how much a canary that is in may move its score.
        noise: the standard deviation that the promise puts on a score, above 0.
        delta, epsilon: the claim; epsilon None: nothing is promised and nothing can be violated.
        confidence: of the lower bound on epsilon.

    Raises:
        ConfigError: fewer than 2 canaries are in, or out; a score is not a number.
    """
    inside, outside = scores[included], scores[~included]
    if min(len(inside), len(outside)) < 2:
        raise ConfigError(f"{len(inside)} canaries are in and {len(outside)} out: wanted 2 of each, plant more")
    guesses = best_bound(scores, included, delta=delta, confidence=confidence)
    moved, spread = _difference(inside, outside, 0.05), _deviation(outside, 0.05)
    ratio = _scaled(moved, effect), _scaled(spread, noise)
    violations = []
    if epsilon is not None:
        if guesses.epsilon > epsilon:
            violations.append(f"the guesses refute epsilon {epsilon:.3g}: it is {guesses.epsilon:.3g} or more")
        if _difference(inside, outside, ALARM).low > effect * (1 + 1e-6):
            violations.append(f"a canary moves its score {ratio[0].value:.3g} times as far as the clip allows")
        if _deviation(outside, ALARM).high < noise * (1 - 1e-6):
            violations.append(f"the noise is {ratio[1].value:.3g} times what is promised")
    estimate = gaussian_epsilon(max(0.0, moved.value) / spread.value, delta) if spread.value > 0 else math.inf
    return Finding(run, epsilon, delta, guesses, estimate, *ratio, tuple(violations))


def gaussian_epsilon(separation: float, delta: float) -> float:
    """Epsilon at `delta` of N(0, 1) against N(separation, 1), exactly (Balle and Wang 2018, theorem 8).

    Args:
        separation: effect over standard deviation, at least 0.
        delta: in (0, 1).
    """
    if separation <= 0:
        return 0.0

    def surplus(epsilon: float) -> float:
        far, near = -epsilon / separation - separation / 2, -epsilon / separation + separation / 2
        return float(special.ndtr(near) - math.exp(min(epsilon + float(special.log_ndtr(far)), 700.0))) - delta

    if surplus(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while surplus(high) > 0:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if surplus(middle) > 0 else (low, middle)
    return high


def _difference(inside: NDArray[np.float64], outside: NDArray[np.float64], error: float) -> Interval:
    """Of the means (Welch's interval)."""
    parts = inside.var(ddof=1) / len(inside), outside.var(ddof=1) / len(outside)
    wide = math.sqrt(sum(parts))
    value = float(inside.mean() - outside.mean())
    if wide == 0:
        return Interval(value, value, value)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(inside) - 1) + parts[1] ** 2 / (len(outside) - 1))
    margin = float(stats.t.isf(error / 2, freedom)) * wide
    return Interval(value, value - margin, value + margin)


def _deviation(outside: NDArray[np.float64], error: float) -> Interval:
    """Standard deviation, by the chi-square law."""
    freedom = len(outside) - 1
    total = float(outside.var(ddof=1)) * freedom
    low, high = stats.chi2.ppf([1 - error / 2, error / 2], freedom)
    return Interval(math.sqrt(total / freedom), math.sqrt(total / low), math.sqrt(total / high))


def _scaled(interval: Interval, unit: float) -> Interval:
    return Interval(interval.value / unit, interval.low / unit, interval.high / unit)
