"""Privacy loss distributions of Gaussian events, by dp-accounting: the tight figure that is reported.

PLD (Koskela et al. 2020; Doroshenko et al. 2022) is an upper bound on a grid of losses. What costs time is one
distribution for each pair of sampling rate and multiplier, so pairs are kept, Gaussians without sampling are joined
into one (squared inverse multipliers add), and where the pairs are many, near ones count as the worst of them.
Gaussians without sampling alone have a closed form (Balle and Wang 2018), which is exact: seconds and megabytes less.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from dp_accounting import get_epsilon_gaussian, pld

from fedmesh.types import PrivacyEvent

__all__ = ["epsilon_of", "slack_of"]

_FINE, _COARSE = 1e-4, 1e-3
_FEW, _MOST = 6, 32
"""Up to `_FEW` pairs the grid is fine; more than `_MOST` are never composed."""

_Pair = tuple[float, float]
"""Sampling rate, noise multiplier."""

_Composition = tuple[tuple[float, float, int], ...]
"""(sampling rate, noise multiplier, count), sorted, each pair once: the key under which results are kept."""


def epsilon_of(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Epsilon of one or more events that `fedmesh.privacy.accountant.has_pld` accepts, with parameters checked."""
    return _epsilon(_composition(events), delta)


def slack_of(events: Iterable[PrivacyEvent]) -> float:
    """How far the figure of `events` may lie above the tight one; infinite where pairs were taken together."""
    counts, precision = _counted(events)
    if len(counts) > _MOST:
        return math.inf
    steps = sum(counts.values()) + (precision > 0)
    return steps * _interval(len(counts) + (precision > 0))


def _counted(events: Iterable[PrivacyEvent]) -> tuple[Counter[_Pair], float]:
    """How often each pair, and the precision 1/z^2 of all that is not sampled."""
    counts: Counter[_Pair] = Counter()
    precision = 0.0  # of all that is not sampled: the Gaussian of 1/z^2 = n1/z1^2 + n2/z2^2 + ... costs the same
    for event in events:
        rate, multiplier = event.parameters.get("sample_rate", 1.0), event.parameters["noise_multiplier"]
        if rate == 1.0:
            precision += event.count / multiplier**2
        else:
            counts[float(rate), float(multiplier)] += event.count
    return counts, precision


def _composition(events: Iterable[PrivacyEvent]) -> _Composition:
    counts, precision = _counted(events)
    sampled = _thinned(tuple((rate, multiplier, count) for (rate, multiplier), count in sorted(counts.items())))
    return sampled if precision == 0.0 else (*sampled, (1.0, 1 / math.sqrt(precision), 1))


@functools.lru_cache(maxsize=1024)
def _thinned(composition: _Composition) -> _Composition:
    """At most `_MOST` pairs that together cost no less: pairs within a few per cent count as the worst of them."""
    width = 1e-3
    while len(composition) > _MOST:
        cells: dict[tuple[int, int], list[tuple[float, float, int]]] = {}
        for rate, multiplier, count in composition:
            cell = (math.floor(math.log(rate) / width), math.floor(math.log(multiplier) / width))
            cells.setdefault(cell, []).append((rate, multiplier, count))
        if len(cells) <= _MOST:
            worst = [(max(r for r, _, _ in c), min(z for _, z, _ in c), sum(n for *_, n in c)) for c in cells.values()]
            return tuple(sorted(worst))
        width *= 1.2
    return composition


def _interval(pairs: int) -> float:
    return _FINE if pairs <= _FEW else _COARSE


def _of_one(rate: float, multiplier: float, interval: float) -> Any:
    return pld.privacy_loss_distribution.from_gaussian_mechanism(
        multiplier, value_discretization_interval=interval, sampling_prob=rate
    )


_distribution = functools.lru_cache(maxsize=48)(_of_one)
"""Of one sampled step; most of the cost of a figure, and the same for every round of a task."""


@functools.lru_cache(maxsize=48)
def _newest(rate: float, multiplier: float, interval: float) -> dict[int, Any]:
    """Count -> distribution of so many steps, for the count that was asked for last: a run asks for more each time."""
    del rate, multiplier, interval
    return {}


def _composed(rate: float, multiplier: float, count: int, interval: float) -> Any:
    """Of `count` steps: a ledger that grows adds to one of its pairs at a time."""
    if rate == 1.0:  # all that is not sampled, together: another one at every look, so none is kept
        return _of_one(rate, multiplier, interval)
    one = _distribution(rate, multiplier, interval)
    if count == 1:
        return one
    kept = _newest(rate, multiplier, interval)
    composed = kept.get(count)
    if composed is None:
        composed = one.self_compose(count)
        kept.clear()  # each holds megabytes
        kept[count] = composed
    return composed


@functools.lru_cache(maxsize=65536)
def _epsilon(composition: _Composition, delta: float) -> float:
    if len(composition) == 1 and composition[0][0] == 1.0:
        return float(get_epsilon_gaussian(composition[0][1], delta))
    interval = _interval(len(composition))
    parts = [_composed(*pair, interval) for pair in composition]
    total = functools.reduce(lambda left, right: left.compose(right), parts)
    return max(0.0, float(total.get_epsilon_for_delta(delta)))
