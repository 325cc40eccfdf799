"""Whether noise follows the law that the accounting assumes: the sharpest audit there is, since nothing else is in it.

Every check gives the probability, for noise that is right, of what was seen or worse. They are combined by Bonferroni's
inequality, so noise that is right fails with a probability below 1e-6, however the checks depend on each other. The
laws are computed here (scipy's Bessel functions), not by the product's sampler or its tables. Passing shows that a law
holds to the resolution of the sample, not that nobody can predict the noise: a seeded generator passes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special, stats

from fedmesh.errors import ConfigError

__all__ = ["ALARM", "Check", "Law", "LawReport", "check_law", "check_sums"]

ALARM = 1e-6
"""How unlikely what was measured must be, had the promise been kept, for an alarm."""

_BINS, _FEWEST = 400, 20
_MODULUS = 16
_EXACT_UP_TO = 1e8
"""Up to this variance every probability is computed; beyond, Skellam's law is the normal one to 1e-9."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Law:
    """What noise should be: ``gaussian``, or ``skellam``, the difference of two Poisson variables of half the variance.

    Raises:
        ConfigError: the variance is not above 0.
    """

    kind: Literal["gaussian", "skellam"]
    variance: float

    def __post_init__(self) -> None:
        """Checks the variance."""
        if not (math.isfinite(self.variance) and self.variance > 0):
            raise ConfigError(f"the law of noise has variance {self.variance}, it must be a finite number above 0")

    @property
    def fourth_moment(self) -> float:
        """E[X^4]: three squares of the variance, and the variance once more for Skellam."""
        return 3 * self.variance**2 + (self.variance if self.kind == "skellam" else 0.0)


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was looked at, what was seen, and how likely that is for noise that is right."""

    name: str
    seen: str
    probability: float


@dataclass(frozen=True, slots=True)
class LawReport:
    """All checks of one noise, and their verdict."""

    of: str
    law: Law
    samples: int
    checks: tuple[Check, ...]

    @property
    def probability(self) -> float:
        """That right noise looks as bad in any of the checks."""
        return min(1.0, len(self.checks) * min(check.probability for check in self.checks))

    @property
    def holds(self) -> bool:
        """Whether there is no reason for an alarm."""
        return self.probability >= ALARM

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that raise the alarm."""
        return tuple(check for check in self.checks if len(self.checks) * check.probability < ALARM)


def check_law(releases: Sequence[NDArray[Any]] | NDArray[Any], law: Law) -> LawReport:
    """Checks noise against `law`: moments, shape, low bits, and that nothing repeats or hangs together.

    Args:
        releases: noise of several devices or steps, [R, d], or R vectors of one length; of zero inputs.
        law: what each value should follow, independently of all others.

    Raises:
        ConfigError: fewer than 1,000 values; too few to say anything.
    """
    rows = np.stack([np.asarray(row, np.float64) for row in releases])
    values = rows.ravel()
    if values.size < 1000:
        raise ConfigError(f"{values.size} values of noise came: a check of their law wants 1,000 or more")
    if not np.isfinite(values).all():
        return LawReport("each release", law, values.size, (Check("finite", "values that are not finite", 0.0),))
    checks = [_mean(values, law), variance_check(values, law, "variance"), _correlation(values, law), _distinct(rows)]
    checks += [_goodness_of_fit(values, law)]
    checks += [_kolmogorov(values, law)] if law.kind == "gaussian" else [_integers(values), _residues(values, law)]
    return LawReport("each release", law, values.size, tuple(checks))


def check_sums(devices: NDArray[Any], law: Law, survivors: Sequence[int]) -> LawReport:
    """Checks that the sum of any n' devices' noise has n' times a device's variance, and the law that goes with it.

    Args:
        devices: each device's noise, [n, d].
        law: of one device's.
        survivors: numbers n' to try, each at most n.
    """
    checks: list[Check] = []
    for count in survivors:
        total = np.asarray(devices[:count], np.float64).sum(axis=0)
        summed = Law(law.kind, count * law.variance)
        checks += [
            variance_check(total, summed, f"variance of {count} devices"),
            _goodness_of_fit(total, summed, f"shape of {count} devices"),
        ]
    return LawReport("sums of devices", law, int(np.asarray(devices).size), tuple(checks))


def variance_check(values: Float64, law: Law, name: str) -> Check:
    """The variance around zero: by the chi-square law for normals, else by the central limit with the fourth moment."""
    count, total = values.size, float(values @ values)
    ratio = total / (count * law.variance)
    if law.kind == "gaussian":
        at = total / law.variance
        probability = 2 * float(min(stats.chi2.sf(at, count), stats.chi2.cdf(at, count)))
        low, high = (total / law.variance / stats.chi2.ppf(share, count) for share in (0.975, 0.025))
    else:
        deviation = math.sqrt((law.fourth_moment / law.variance**2 - 1) / count)
        probability = 2 * float(stats.norm.sf(abs(ratio - 1) / deviation))
        low, high = ratio - 1.96 * deviation, ratio + 1.96 * deviation
    return Check(name, f"{ratio:.4f} of the promised ({low:.4f} to {high:.4f})", min(1.0, probability))


def _mean(values: Float64, law: Law) -> Check:
    score = float(values.mean()) / math.sqrt(law.variance / values.size)
    return Check("mean", f"{score:+.2f} standard errors from 0", 2 * float(stats.norm.sf(abs(score))))


def _kolmogorov(values: Float64, law: Law) -> Check:
    found = stats.kstest(values, stats.norm(scale=math.sqrt(law.variance)).cdf, method="asymp")
    return Check("Kolmogorov-Smirnov", f"largest distance {found.statistic:.5f}", float(found.pvalue))


def _integers(values: Float64) -> Check:
    odd = int(np.count_nonzero(values != np.rint(values)))
    return Check("integers", f"{odd} values that are none", 0.0 if odd else 1.0)


def _goodness_of_fit(values: Float64, law: Law, name: str = "shape") -> Check:
    """Pearson's chi-square over some hundred intervals."""
    edges, expected = _intervals(law, values.size)
    if len(expected) < 2:
        return Check(name, "too few values for intervals", 1.0)
    observed = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(expected))
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = len(expected) - 1
    text = f"chi-square {statistic:.0f} for {freedom} degrees of freedom"
    return Check(name, text, float(stats.chi2.sf(statistic, freedom)))


def _intervals(law: Law, count: int) -> tuple[Float64, Float64]:
    """Inner edges, and how many of `count` values are expected in each interval: a value on an edge is left of it."""
    deviation = math.sqrt(law.variance)
    if law.kind == "gaussian":
        bins = max(1, min(_BINS, count // _FEWEST))
        return stats.norm.ppf(np.arange(1, bins) / bins) * deviation, np.full(bins, count / bins)
    reach = math.ceil(12 * deviation) + 20
    if law.variance > _EXACT_UP_TO:
        points = np.linspace(-reach, reach, 100_001).round()
        below = stats.norm.cdf((points + 0.5) / deviation)
    else:
        points = np.arange(-reach, reach + 1, dtype=np.float64)
        below = np.cumsum(special.ive(np.abs(points), law.variance))
    candidates = (
        np.unique(np.searchsorted(below, np.arange(1, _BINS) / _BINS)) if reach > 2 * _BINS else range(2 * reach)
    )
    chosen, cut = [], 0.0
    for index in candidates:  # an integer is an interval of its own where 20 values are expected of it
        if min(below[index] - cut, 1 - below[index]) * count >= _FEWEST:
            chosen.append(index)
            cut = below[index]
    return points[chosen] + 0.5, np.diff(np.concatenate([[0.0], below[chosen], [1.0]])) * count


def _residues(values: Float64, law: Law) -> Check:
    """The lowest four bits, against the law by its characteristic function exp(v (cos t - 1))."""
    angles = 2 * np.pi * np.arange(_MODULUS) / _MODULUS
    spectrum = np.exp(law.variance * (np.cos(angles) - 1))
    expected = values.size * np.real(np.fft.ifft(spectrum))
    observed = np.bincount(np.rint(values).astype(np.int64) % _MODULUS, minlength=_MODULUS)
    if expected.min() < _FEWEST:
        return Check("low bits", "too few values for their law", 1.0)
    statistic, freedom = float(((observed - expected) ** 2 / expected).sum()), _MODULUS - 1
    text = f"chi-square {statistic:.1f} for {freedom} degrees of freedom"
    return Check("low bits", text, float(stats.chi2.sf(statistic, freedom)))


def _correlation(values: Float64, law: Law) -> Check:
    """The largest correlation at any distance, with all devices, steps and coordinates in a row: any reuse shows."""
    count = values.size
    spectrum = fft.rfft(values)
    products = fft.irfft(np.abs(spectrum) ** 2, count)[1 : count // 2]
    scores = np.abs(products) / (law.variance * math.sqrt(count))
    lag = int(scores.argmax()) + 1
    probability = len(scores) * 2 * float(stats.norm.sf(scores[lag - 1]))
    text = f"at most {scores[lag - 1] / math.sqrt(count):.5f}, {lag} values apart"
    return Check("correlation", text, min(1.0, probability))


def _distinct(rows: Float64) -> Check:
    """No two releases may be the same."""
    different = len({row.tobytes() for row in rows})
    twice = len(rows) - different
    return Check("repetition", f"{twice} of {len(rows)} releases repeat another", 0.0 if twice else 1.0)
