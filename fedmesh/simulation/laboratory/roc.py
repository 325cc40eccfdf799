"""How well scores tell members from others: area under the ROC curve, true positives where false ones are rare."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedmesh.errors import ConfigError

__all__ = ["Separation", "area", "separation", "true_positives_at"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Separation:
    """How well an attack works.

    Attributes:
        area: under the ROC curve: 0.5 is guessing, 1 is certain; area_low, area_high: its 95 % bootstrap interval.
        true_positives: at 1 % false positives, 0.01 is guessing; true_positives_low, true_positives_high: likewise.
        members, others: how many of each were told apart.
    """

    area: float
    area_low: float
    area_high: float
    true_positives: float
    true_positives_low: float
    true_positives_high: float
    members: int
    others: int


def area(scores: Float64, member: NDArray[np.bool_]) -> float:
    """Probability that a member's score is above another's, ties counting half (Mann and Whitney 1947).

    Raises:
        ConfigError: there are no members, or nobody else.
    """
    inside, outside = _counts(member)
    ranks = stats.rankdata(scores)
    return float((ranks[member].sum() - inside * (inside + 1) / 2) / (inside * outside))


def true_positives_at(scores: Float64, member: NDArray[np.bool_], false_positives: float = 0.01) -> float:
    """Share of members above the lowest threshold that at most `false_positives` of the others are above.

    Raises:
        ConfigError: there are no members, or nobody else.
    """
    _, outside = _counts(member)
    others = np.sort(scores[~member])[::-1]
    threshold = others[int(false_positives * outside)]
    return float((scores[member] > threshold).mean())


def separation(
    scores: Float64, member: NDArray[np.bool_], *, rng: np.random.Generator, repeats: int = 300
) -> Separation:
    """Both figures with intervals, by a bootstrap over models and over examples: scores of one of either go together.

    Args:
        scores: float [models, examples]; the higher, the more it looks like a member.
        member: bool, of the same shape.
        rng: draws the samples.
        repeats: samples drawn.
    """
    models, examples = scores.shape

    def drawn(figure: Callable[[Float64, NDArray[np.bool_]], float]) -> tuple[float, float]:
        figures = []
        for _ in range(repeats):
            chosen = np.ix_(rng.integers(0, models, models), rng.integers(0, examples, examples))
            if member[chosen].any() and not member[chosen].all():
                figures.append(figure(scores[chosen].ravel(), member[chosen].ravel()))
        low, high = np.quantile(figures, [0.025, 0.975])
        return float(low), float(high)

    flat, truth = scores.ravel(), member.ravel()
    inside, outside = _counts(truth)
    return Separation(
        area(flat, truth),
        *drawn(area),
        true_positives_at(flat, truth),
        *drawn(true_positives_at),
        inside,
        outside,
    )


def _counts(member: NDArray[np.bool_]) -> tuple[int, int]:
    inside = int(member.sum())
    outside = member.size - inside
    if not inside or not outside:
        raise ConfigError(f"{inside} members and {outside} others cannot be told apart: wanted some of each")
    return inside, outside
