"""What a sequence of privacy events costs: RDP enforces a budget, PLD is the figure reported where there is one.

Neighbouring data sets differ in one example, or one client, that is added or removed: whatever the events were measured
against. RDP (`fedmesh.privacy.renyi`) knows every mechanism, is cheap to compose and the looser bound; PLD
(`fedmesh.privacy.loss`) knows Gaussian ones and is tight. Both are upper bounds, so PLD above RDP means that one of
them is wrong: `spent` refuses to report then.

Mechanisms of an event, and their parameters:

* ``sampled_gaussian``: ``sample_rate`` (Poisson), ``noise_multiplier``; a step of DP-SGD (Abadi et al. 2016)
* ``gaussian``: ``noise_multiplier``
* ``skellam``: ``l2``, ``l1`` (sensitivities), ``variance`` of the sum's noise; in ring units (Agarwal et al. 2021)
* ``discrete_gaussian``: ``l2``, ``variance``, in ring units (Canonne, Kamath and Steinke 2020)

Costs of a sequence are those of parameters that were fixed, or chosen without looking at the private data.
"""

import functools
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from fedmesh.errors import ConfigError, TrustError
from fedmesh.privacy import renyi
from fedmesh.types import PrivacyEvent

__all__ = [
    "SAMPLED_GAUSSIAN",
    "SMALLEST_DELTA",
    "check_delta",
    "epsilon",
    "fits_pld",
    "gaussian",
    "has_pld",
    "sampled_gaussian",
    "spent",
]

SAMPLED_GAUSSIAN = "sampled_gaussian"
"""Mechanism of `PrivacyEvent`: Poisson sampling at ``sample_rate``, Gaussian noise of ``noise_multiplier`` x clip."""

SMALLEST_DELTA = 1e-14
"""Below it PLD's truncated tails (1e-15) leave no finite epsilon."""

_LARGEST_LOSS, _MOST_STEPS = 256.0, 10**6
"""Beyond them a distribution takes more memory than there is, and no one promises so much: RDP's figure has to do."""

_GAUSSIANS = frozenset({"gaussian", SAMPLED_GAUSSIAN})

_Composition = tuple[tuple[renyi.Parameters, int], ...]


def epsilon(events: Iterable[PrivacyEvent], delta: float, method: Literal["pld", "rdp"] = "pld") -> float:
    """The epsilon that all `events` together spend at `delta`; 0 for none.

    Equal events are grouped and results kept, so asking again, or for another device with the same history, is free.

    Raises:
        ConfigError: an event's mechanism or parameters are not known here, or delta is not in [1e-14, 1); PLD is asked
            for, and an event has none, or it would be of more than a million steps or an epsilon above 256.
    """
    check_delta(delta)
    composition = _grouped(events)
    if not composition:
        return 0.0
    if method == "rdp":
        return renyi.epsilon_of(_total(composition), delta)
    from fedmesh.privacy import loss

    grouped = _events(composition)
    if not has_pld(grouped):
        strange = sorted({event.mechanism for event in grouped} - _GAUSSIANS)
        raise ConfigError(f"there is no privacy loss distribution of {', '.join(strange)}: ask for RDP, or `spent`")
    if not _is_small(composition, delta):
        raise ConfigError(
            f"no privacy loss distribution is made of more than {_MOST_STEPS} steps, or of an epsilon above "
            f"{_LARGEST_LOSS:g}: ask for RDP, or `spent`"
        )
    return loss.epsilon_of(grouped, delta)


def spent(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Epsilon by PLD, checked against RDP; by RDP where an event has no PLD, or the sum is too large for one.

    Raises:
        TrustError: the tight bound lies above the loose one, beyond PLD's discretisation.
        ConfigError: as `epsilon`.
    """
    events = list(events)
    loose = epsilon(events, delta, "rdp")
    if not fits_pld(events, delta):
        return loose
    from fedmesh.privacy import loss

    return _agreed(epsilon(events, delta, "pld"), loose, loss.slack_of(events))


def has_pld(events: Iterable[PrivacyEvent]) -> bool:
    """Whether every event has a privacy loss distribution here: whether it is Gaussian."""
    return all(event.mechanism in _GAUSSIANS for event in events)


def fits_pld(events: Iterable[PrivacyEvent], delta: float) -> bool:
    """Whether all `events` together have a distribution, and one that fits into memory. Raises: as `epsilon`."""
    events = list(events)
    return has_pld(events) and _is_small(_grouped(events), delta)


def sampled_gaussian(sample_rate: float, noise_multiplier: float, count: int = 1, label: str = "") -> PrivacyEvent:
    """`count` steps of DP-SGD (Abadi et al. 2016)."""
    parameters = {"noise_multiplier": noise_multiplier, "sample_rate": sample_rate}
    return PrivacyEvent(SAMPLED_GAUSSIAN, parameters, count, label)


def gaussian(noise_multiplier: float, count: int = 1, label: str = "") -> PrivacyEvent:
    """`count` sums of sensitivity 1 with Gaussian noise of standard deviation `noise_multiplier`."""
    return PrivacyEvent("gaussian", {"noise_multiplier": noise_multiplier}, count, label)


def check_delta(delta: float) -> None:
    """Raises: ConfigError: delta is not in [1e-14, 1)."""
    if not SMALLEST_DELTA <= delta < 1:
        raise ConfigError(f"delta is {delta}, it must be at least {SMALLEST_DELTA:g} and below 1, e.g. 1e-5")


def _agreed(tight: float, loose: float, slack: float) -> float:
    """The smaller of two upper bounds, PLD's and RDP's; PLD's grid may round up by `slack`."""
    if not tight <= 1.01 * loose + slack:
        raise TrustError(
            f"the accountants disagree: PLD gives epsilon {tight:.6g}, above RDP's bound {loose:.6g}: do not rely "
            "on either figure, and report this with the versions of dp-accounting and numpy"
        )
    return min(tight, loose)


def _grouped(events: Iterable[PrivacyEvent]) -> _Composition:
    counts: Counter[renyi.Parameters] = Counter()
    for event in events:
        parameters = renyi.key(event)
        renyi.curve(parameters)  # refuses what nobody can account for
        counts[parameters] += event.count
    return tuple(sorted(counts.items()))


def _is_small(composition: _Composition, delta: float) -> bool:
    """Whether a privacy loss distribution of all of it fits into memory."""
    steps = sum(count for _, count in composition)
    return steps <= _MOST_STEPS and renyi.epsilon_of(_total(composition), delta) <= _LARGEST_LOSS


def _events(composition: _Composition) -> list[PrivacyEvent]:
    return [PrivacyEvent(mechanism, dict(values), count) for (mechanism, values), count in composition]


@functools.lru_cache(maxsize=4096)
def _total(composition: _Composition) -> renyi.Curve:
    parts = (renyi.times(renyi.curve(parameters), count) for parameters, count in composition)
    return functools.reduce(renyi.added, parts, renyi.nothing())
