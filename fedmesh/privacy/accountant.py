"""What a sequence of privacy events costs, by dp-accounting: RDP enforces a budget, PLD is the figure reported.

Neighbouring data sets differ in one example that is added or removed. RDP (Mironov 2017; Mironov, Talwar and Zhang 2019
for Poisson subsampling) is the looser bound and cheap to compose; PLD (Koskela et al. 2020; Doroshenko et al. 2022) is
tight. Both are upper bounds, so PLD above RDP means that one of them is wrong: `spent` refuses to report then.
"""

import functools
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import dp_accounting
import numpy as np
from dp_accounting import pld, rdp
from numpy.typing import NDArray

from fedmesh.errors import ConfigError, TrustError
from fedmesh.types import PrivacyEvent

__all__ = ["SAMPLED_GAUSSIAN", "epsilon", "noise_multiplier", "spent"]

SAMPLED_GAUSSIAN = "sampled_gaussian"
"""Mechanism of `PrivacyEvent`: Poisson sampling at ``sample_rate``, Gaussian noise of ``noise_multiplier`` x clip."""

SMALLEST_MULTIPLIER = 0.2
"""Below it the moments of the sampled Gaussian overflow, and no epsilon worth promising is reached."""

SMALLEST_DELTA = 1e-14
"""Below it PLD's truncated tails (1e-15) leave no finite epsilon."""

_ORDERS = (*np.arange(1.25, 10.25, 0.25).tolist(), *map(float, range(11, 64)), 96.0, 128.0, 256.0, 512.0, 1024.0)
_TOLERANCE = 1e-4  # relative, of the multiplier found
_PLD_INTERVAL = 1e-4  # dp-accounting's default grid: each composition may round up by as much

_Composition = tuple[tuple[float, float, int], ...]
"""(sample rate, noise multiplier, count), sorted, each pair once: the key under which results are kept."""


def epsilon(events: Iterable[PrivacyEvent], delta: float, method: Literal["pld", "rdp"] = "pld") -> float:
    """The epsilon that all `events` together spend at `delta`; 0 for none.

    Equal events are grouped and results kept, so asking again, or for another device with the same history, is free.

    Raises:
        ConfigError: an event's mechanism or parameters are not known here, or delta is not in [1e-14, 1).
    """
    _check_delta(delta)
    composition = _grouped(events)
    if not composition:
        return 0.0
    return _rdp_epsilon(composition, delta) if method == "rdp" else _pld_epsilon(composition, delta)


def spent(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Epsilon by PLD, checked against RDP.

    Raises:
        TrustError: the tight bound lies above the loose one, beyond PLD's discretisation.
        ConfigError: as `epsilon`.
    """
    events = list(events)
    tight, loose = epsilon(events, delta, "pld"), epsilon(events, delta, "rdp")
    return _agreed(tight, loose, sum(event.count for event in events))


def _agreed(tight: float, loose: float, steps: int) -> float:
    """The smaller of two upper bounds, PLD's and RDP's; PLD's grid may round each step up a little."""
    if not tight <= 1.01 * loose + _PLD_INTERVAL * steps:
        raise TrustError(
            f"the accountants disagree: PLD gives epsilon {tight:.6g}, above RDP's bound {loose:.6g}: do not rely "
            "on either figure, and report this with the versions of dp-accounting and numpy"
        )
    return min(tight, loose)


@functools.cache
def noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The smallest noise multiplier (to 1e-4) with which `steps` steps fit into the budget by RDP; at least 0.2.

    By RDP because that is what a ledger enforces: with the multiplier returned, every one of the steps is affordable.

    Raises:
        ConfigError: no multiplier below 1e6 fits.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ConfigError(f"the epsilon asked for is {epsilon}, it must be a finite number above 0")
    _check_delta(delta)

    def fits(multiplier: float) -> bool:
        return _rdp_epsilon(_grouped([sampled_gaussian(sample_rate, multiplier, steps)]), delta) <= epsilon

    low = high = SMALLEST_MULTIPLIER
    while not fits(high):
        low, high = high, 2 * high
        if high > 1e6:
            raise ConfigError(
                f"no noise reaches epsilon {epsilon:g} at delta {delta:g} in {steps} steps of sampling rate "
                f"{sample_rate:g}: raise epsilon or delta, or take fewer steps"
            )
    while high > low * (1 + _TOLERANCE):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def sampled_gaussian(sample_rate: float, noise_multiplier: float, count: int = 1, label: str = "") -> PrivacyEvent:
    """`count` steps of DP-SGD (Abadi et al. 2016)."""
    parameters = {"noise_multiplier": noise_multiplier, "sample_rate": sample_rate}
    return PrivacyEvent(SAMPLED_GAUSSIAN, parameters, count, label)


def _check_delta(delta: float) -> None:
    if not SMALLEST_DELTA <= delta < 1:
        raise ConfigError(f"delta is {delta}, it must be at least {SMALLEST_DELTA:g} and below 1, e.g. 1e-5")


def _grouped(events: Iterable[PrivacyEvent]) -> _Composition:
    counts: Counter[tuple[float, float]] = Counter()
    for event in events:
        counts[_checked(event)] += event.count
    return tuple((rate, multiplier, count) for (rate, multiplier), count in sorted(counts.items()))


def _checked(event: PrivacyEvent) -> tuple[float, float]:
    """(sample rate, noise multiplier) of an event that can be accounted for."""
    wanted = {"sample_rate", "noise_multiplier"}
    if event.mechanism != SAMPLED_GAUSSIAN or set(event.parameters) != wanted:
        raise ConfigError(
            f"a privacy event {event.mechanism!r} with parameters {sorted(event.parameters)} cannot be accounted for: "
            f"wanted {SAMPLED_GAUSSIAN!r} with {sorted(wanted)}"
        )
    rate, multiplier = event.parameters["sample_rate"], event.parameters["noise_multiplier"]
    if not (0 < rate <= 1 and 0 < multiplier < math.inf and event.count >= 1):
        raise ConfigError(
            f"a privacy event with sampling rate {rate}, noise multiplier {multiplier} and count {event.count} means "
            "nothing: wanted a rate in (0, 1], a multiplier above 0 and a count of at least 1"
        )
    return rate, multiplier


class _CurveAccountant(rdp.RdpAccountant):  # type: ignore[misc]  # dp-accounting is untyped
    """Hands out the curve that dp-accounting composes: a ledger adds multiples of one curve, round after round."""

    def curve(self) -> NDArray[np.float64]:
        return np.asarray(self._rdp, dtype=np.float64)


@functools.lru_cache(maxsize=1024)
def _curve(rate: float, multiplier: float) -> NDArray[np.float64]:
    """RDP of one step at every order of `_ORDERS`, float64; infinite where the series did not converge."""
    accountant = _CurveAccountant(_ORDERS)
    with _without_convergence_warnings():
        accountant.compose(_step(rate, multiplier))
    return accountant.curve()


@functools.lru_cache(maxsize=65536)
def _rdp_epsilon(composition: _Composition, delta: float) -> float:
    total = sum(count * _curve(rate, multiplier) for rate, multiplier, count in composition)
    value, _order = rdp.compute_epsilon(_ORDERS, total, delta)
    return max(0.0, float(value))


@functools.lru_cache(maxsize=64)
def _privacy_loss(rate: float, multiplier: float) -> Any:
    """Privacy loss distribution of one step; most of the cost of a figure, and the same for every round of a task."""
    return pld.privacy_loss_distribution.from_gaussian_mechanism(
        multiplier, value_discretization_interval=_PLD_INTERVAL, sampling_prob=rate
    )


@functools.lru_cache(maxsize=65536)
def _pld_epsilon(composition: _Composition, delta: float) -> float:
    parts = [_privacy_loss(rate, multiplier).self_compose(count) for rate, multiplier, count in composition]
    total = functools.reduce(lambda left, right: left.compose(right), parts)
    return max(0.0, float(total.get_epsilon_for_delta(delta)))


def _step(rate: float, multiplier: float) -> dp_accounting.DpEvent:
    return dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))


@contextmanager
def _without_convergence_warnings() -> Iterator[None]:
    """dp-accounting warns on stderr of each order that it leaves out; leaving one out only loosens the bound."""
    logger = logging.getLogger("absl")

    def keep(record: logging.LogRecord) -> bool:
        return "failed to converge" not in str(record.msg)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
