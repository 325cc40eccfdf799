"""Means over seeds with their standard errors, and what follows from them.

Gains and gaps are differences of runs of one seed, which have the same data and public start, so their errors are those
of paired differences: smaller than the accuracies' own. A standard error over three seeds is itself a rough figure.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedmesh.federation.overrides import NO_PRIVACY
from fedmesh.simulation.laboratory.sweep.cells import MODES
from fedmesh.simulation.laboratory.sweep.outcome import Outcome

__all__ = ["Mean", "Point", "mean_of", "points_of", "public_only"]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its standard error, which one value does not have."""

    mean: float
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """One mode at one budget, over its seeds.

    Attributes:
        mode: privacy mode, or ``none``.
        epsilon: budget; infinite without privacy.
        delta: of the promise; None without privacy.
        seeds: that finished.
        accuracy_int8: on held-out examples.
        public_only: of the same runs' public starts.
        gain: over the public start of the same seed.
        gap: behind the run without privacy of the same seed, positive where privacy costs; None without any.
        epsilon_spent: the most that any device spent in any run; None without privacy.
        hopeless: the gain is not above 0 by more than two standard errors.
    """

    mode: str
    epsilon: float
    delta: float | None
    seeds: tuple[int, ...]
    accuracy_int8: Mean
    public_only: Mean
    gain: Mean
    gap: Mean | None
    epsilon_spent: float | None
    hopeless: bool


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of at least one value, with the standard deviation (n - 1) over the root of n."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Mean(mean, None)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return Mean(mean, math.sqrt(squares / (count - 1) / count))


def points_of(outcomes: Iterable[Outcome]) -> tuple[Point, ...]:
    """One point for each mode and budget: without privacy first, then mode by mode with growing budgets."""
    groups: dict[tuple[str, float], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.mode, outcome.epsilon), []).append(outcome)
    free = {outcome.seed: outcome.accuracy_int8 for outcome in groups.get((NO_PRIVACY, math.inf), [])}
    order = (NO_PRIVACY, *MODES)
    return tuple(_point(groups[key], free) for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1])))


def _point(group: Sequence[Outcome], free: dict[int, float]) -> Point:
    """`free`: seed -> accuracy without privacy."""
    first = group[0]
    gain = mean_of([outcome.gain for outcome in group])
    gaps = [free[outcome.seed] - outcome.accuracy_int8 for outcome in group if outcome.seed in free]
    spent = [outcome.epsilon_spent for outcome in group if outcome.epsilon_spent is not None]
    return Point(
        mode=first.mode,
        epsilon=first.epsilon,
        delta=first.delta,
        seeds=tuple(outcome.seed for outcome in group),
        accuracy_int8=mean_of([outcome.accuracy_int8 for outcome in group]),
        public_only=mean_of([outcome.public_only for outcome in group]),
        gain=gain,
        gap=mean_of(gaps) if gaps and first.mode != NO_PRIVACY else None,
        epsilon_spent=max(spent, default=None),
        hopeless=gain.mean - 2 * (gain.standard_error or 0.0) <= 0,
    )


def public_only(points: Iterable[Point], epsilon: float) -> Mean | None:
    """The best that public data alone reached in the runs at `epsilon`: parts of a sweep may start differently."""
    at = [point.public_only for point in points if point.epsilon == epsilon]
    return max(at, key=lambda mean: mean.mean, default=None)
