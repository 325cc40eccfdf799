"""Renyi differential privacy of events, added up as integers: what a budget is enforced with. Never too small.

A curve holds, for each of `ORDERS`, an upper bound of the Renyi divergence between neighbours (Mironov 2017), rounded
up to the next multiple of 2^-40 nat, which is more than what float64 loses on the way. Integers add exactly, so that
neither the order nor the grouping of a sum changes its last digit: what a budget was found to cover in one go, it
covers in any number of charges. Bounds from 2^21 nat on count as infinite.

Sources: Mironov, Talwar and Zhang 2019 (sampled Gaussian), `fedmesh.privacy.divergences` (the discrete mechanisms),
Canonne, Kamath and Steinke 2020, proposition 12 (from a curve to epsilon). Needs numpy alone.
"""

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.privacy import divergences
from fedmesh.types import PrivacyEvent

__all__ = [
    "ORDERS",
    "SMALLEST_MULTIPLIER",
    "Curve",
    "Parameters",
    "added",
    "curve",
    "epsilon_of",
    "key",
    "nothing",
    "sampled_curve",
    "times",
]

Curve = NDArray[np.int64]
"""A divergence per order of `ORDERS`, int64 [orders], in units of 2^-40 nat; `_INFINITE` for no bound."""

Float64 = NDArray[np.float64]
Parameters = tuple[str, tuple[tuple[str, float], ...]]
"""A mechanism and its parameters sorted by name: what decides what an event costs, but for its count."""

SMALLEST_MULTIPLIER = 0.2
"""Below it the moments of the sampled Gaussian overflow, and no epsilon worth promising is reached."""

_SMALL = np.arange(1.05, 3.0, 0.05).round(2).tolist()
_LARGE = sorted({round(64 * 2 ** (step / 8)) for step in range(81)})  # 64 to 65,536: epsilon down to 1e-3
_MIDDLE = np.arange(3.0, 10.95, 0.1).round(1).tolist()
ORDERS: Float64 = np.asarray([*_SMALL, *_MIDDLE, *range(11, 64), *_LARGE])
"""Orders at which curves are kept, float64, ascending: the best of them is within 0.1 % of the best of all."""

_LEAST_SAMPLED = 0.05
"""Below this multiplier the quadrature's steps are too many, and sampling hides nothing: it counts as no sampling."""

_SMALLEST, _LARGEST = 1e-60, 1e60
"""Of every parameter: what lies beyond overflows when it is squared, and no mechanism has it."""

_SERIES = 64
"""Orders above, which are whole, are summed as a series."""

_USEFUL = 4096
"""Orders above serve epsilons below a hundredth."""

_UNIT = 2.0**40
_INFINITE = np.int64(1 << 61)


def key(event: PrivacyEvent) -> Parameters:
    """What `event` is counted under.

    Raises:
        ConfigError: its count is below 1.
    """
    if event.count < 1:
        raise ConfigError(f"a privacy event of count {event.count} means nothing: it happens at least once")
    return event.mechanism, tuple(sorted((name, float(value)) for name, value in event.parameters.items()))


def nothing() -> Curve:
    """The curve of having released nothing: ``added(nothing(), c) == c``."""
    return np.zeros(ORDERS.size, np.int64)


@functools.lru_cache(maxsize=4096)
def curve(parameters: Parameters) -> Curve:
    """The curve of one event, read-only.

    Raises:
        ConfigError: the mechanism is not known here, or its parameters mean nothing.
    """
    return _rounded_up(_bounds(parameters)(ORDERS))


def sampled_curve(parameters: Parameters, rate: float) -> Curve:
    """The curve of one event on a Poisson sample of the contributions, in secret: Zhu and Wang 2019, for any mechanism.

    Raises:
        ConfigError: as `curve`, or the rate is not in (0, 1].
    """
    bounds, few = np.full(ORDERS.size, math.inf), ORDERS <= _USEFUL
    bounds[few] = divergences.sampled_rdp(ORDERS[few], sample_rate=rate, rdp=_bounds(parameters))
    return _rounded_up(bounds)


def times(one: Curve, count: int) -> Curve:
    """`count` >= 1 times one curve; exactly what adding it `count` times gives."""
    fits = one <= (int(_INFINITE) - 1) // count
    product: Curve = np.where(fits, one, 0) * np.int64(min(count, int(_INFINITE)))
    capped: Curve = np.where(fits, product, _INFINITE)
    return capped


def added(left: Curve, right: Curve) -> Curve:
    """Both released, one after the other. Associative and commutative, exactly."""
    total: Curve = np.minimum(left + right, _INFINITE)
    return total


def epsilon_of(total: Curve, delta: float) -> float:
    """The smallest epsilon that `total` proves at `delta`; infinite when no order has a bound."""
    if delta * delta + math.expm1(-float(total.min()) / _UNIT) > 0:  # by Kullback-Leibler, which is below them all
        return 0.0
    with np.errstate(over="ignore"):
        values = np.where(total < _INFINITE, total / _UNIT, math.inf) + _offsets(delta)
    return max(0.0, float(values.min()))


@functools.lru_cache(maxsize=64)
def _offsets(delta: float) -> Float64:
    """What epsilon is above the divergence at each order (Canonne, Kamath and Steinke 2020, proposition 12)."""
    return np.asarray(np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1), np.float64)


def _rounded_up(bounds: Float64) -> Curve:
    with np.errstate(invalid="ignore", over="ignore"):
        units = np.floor(np.maximum(bounds, 0.0) * _UNIT) + 1
    whole = np.where(units < float(_INFINITE), units, float(_INFINITE)).astype(np.int64)  # NaN counts as infinite
    whole.setflags(write=False)
    return whole


def _sampled_gaussian(orders: Float64, *, noise_multiplier: float, sample_rate: float) -> Float64:
    if sample_rate == 1 or noise_multiplier < _LEAST_SAMPLED:  # which is a bound in any case
        return _gaussian(orders, noise_multiplier=noise_multiplier)
    bounds, small = np.full(orders.size, math.inf), orders <= _SERIES
    bounds[small] = _by_quadrature(orders[small], sample_rate, noise_multiplier)
    for index in np.flatnonzero(~small):
        bounds[index] = _by_series(int(orders[index]), sample_rate, noise_multiplier)
        if bounds[index] > (30 if orders[index] < _USEFUL else 1):
            break  # of an epsilon so large, or orders so high, no one asks for what lies beyond
    return bounds


def _gaussian(orders: Float64, *, noise_multiplier: float) -> Float64:
    return orders / (2 * noise_multiplier**2)


_BOUNDS: Mapping[str, tuple[frozenset[str], Callable[..., Float64]]] = {
    "sampled_gaussian": (frozenset({"noise_multiplier", "sample_rate"}), _sampled_gaussian),
    "gaussian": (frozenset({"noise_multiplier"}), _gaussian),
    "skellam": (frozenset({"l1", "l2", "variance"}), divergences.skellam_rdp),
    "discrete_gaussian": (frozenset({"l2", "variance"}), divergences.discrete_gaussian_rdp),
}


def _bounds(parameters: Parameters) -> Callable[[Float64], Float64]:
    mechanism, values = _checked(parameters)
    return functools.partial(_BOUNDS[mechanism][1], **values)


def _checked(parameters: Parameters) -> tuple[str, dict[str, float]]:
    mechanism, values = parameters[0], dict(parameters[1])
    wanted = _BOUNDS[mechanism][0] if mechanism in _BOUNDS else None
    if wanted is None or set(values) != wanted:
        known = "; ".join(f"{name} with {', '.join(sorted(names))}" for name, (names, _) in _BOUNDS.items())
        raise ConfigError(
            f"a privacy event {mechanism!r} with parameters {sorted(values)} cannot be accounted for: wanted {known}"
        )
    if not all(_SMALLEST <= value <= _LARGEST for value in values.values()) or values.get("sample_rate", 1.0) > 1:
        raise ConfigError(
            f"a privacy event {mechanism!r} with {_listed(values)} means nothing: wanted a sample_rate in (0, 1] and "
            f"every parameter between {_SMALLEST:g} and {_LARGEST:g}"
        )
    return mechanism, values


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def _by_series(order: int, rate: float, multiplier: float) -> float:
    """The log of A over order - 1, A = sum over k of C(order, k) (1-q)^(order-k) q^k exp(k (k - 1) / 2 z^2)."""
    k = np.arange(order + 1.0)
    factorials = _log_factorials()
    terms = factorials[order] - factorials[: order + 1] - factorials[order::-1]
    terms += k * math.log(rate) + (order - k) * math.log1p(-rate) + k * (k - 1) / (2 * multiplier**2)
    largest = float(terms.max())
    return (largest + math.log(float(np.exp(terms - largest).sum()))) / (order - 1)


def _by_quadrature(orders: Float64, rate: float, multiplier: float) -> Float64:
    """The same for any orders, float64 [orders]: A = E[(1 - q + q exp((2x - 1) / 2 z^2))^order], x normal.

    Trapezoids on an analytic integrand: the error falls exponentially with the step, whose bounds come from the
    normal's width and from the branch points at z^2 pi off the real line. It is below 1e-12, which rounding up covers.
    """
    step = min(multiplier / 2, multiplier**2 / 2)
    x = np.arange(-12 * multiplier, 12 * multiplier + orders[-1] + 1, step)
    normal = -(x**2) / (2 * multiplier**2) + math.log(step / (multiplier * math.sqrt(2 * math.pi)))
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * multiplier**2))
    terms = normal + orders[:, None] * ratio
    largest = terms.max(axis=1)
    totals: Float64 = largest + np.log(np.exp(terms - largest[:, None]).sum(axis=1))
    return totals / (orders - 1)


@functools.lru_cache(maxsize=1)
def _log_factorials() -> Float64:
    return np.asarray([math.lgamma(k + 1) for k in range(int(ORDERS[-1]) + 1)])
