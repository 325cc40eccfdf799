"""Curves: against closed forms, other computations and dp-accounting, and exact as sums."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp

from fedmesh.errors import ConfigError
from fedmesh.privacy import divergences, renyi
from fedmesh.privacy.accountant import epsilon, gaussian, sampled_gaussian
from fedmesh.types import PrivacyEvent

UNIT = 2.0**-40


def nats(event: PrivacyEvent) -> np.ndarray:
    return renyi.curve(renyi.key(event)) * UNIT


def by_integration(order: float, rate: float, multiplier: float) -> float:
    """E over the noise of (mixture / noise)^order, by the definition, on a grid far finer than the module's."""
    x = np.linspace(-30 * multiplier, 30 * multiplier + order + 1, 400_001)
    noise = np.exp(-(x**2) / (2 * multiplier**2)) / (multiplier * math.sqrt(2 * math.pi))
    mixture = (1 - rate) * noise + rate * np.exp(-((x - 1) ** 2) / (2 * multiplier**2)) / (
        multiplier * math.sqrt(2 * math.pi)
    )
    inside = noise > 1e-290
    values = np.zeros_like(x)
    values[inside] = mixture[inside] * (mixture[inside] / noise[inside]) ** (order - 1)
    return math.log(float(np.trapezoid(values, x))) / (order - 1)


@pytest.mark.parametrize(("rate", "multiplier"), [(0.01, 0.8), (0.25, 2.0), (0.5, 5.0), (0.9, 1.0)])
def test_the_sampled_gaussian_is_its_definition(rate: float, multiplier: float) -> None:
    curve = nats(sampled_gaussian(rate, multiplier))
    for index in np.flatnonzero(renyi.ORDERS < 8)[::7]:
        want = by_integration(float(renyi.ORDERS[index]), rate, multiplier)
        assert curve[index] == pytest.approx(want, rel=1e-6, abs=2 * UNIT)
        assert curve[index] >= want * (1 - 1e-9)


@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.125, 0.5, 0.99])
@pytest.mark.parametrize("multiplier", [0.2, 0.7, 2.0, 20.0, 1000.0])
def test_broken_orders_are_computed_as_whole_ones_are(rate: float, multiplier: float) -> None:
    orders = np.arange(2.0, 12.0)
    by_series = [renyi._by_series(int(order), rate, multiplier) for order in orders]
    assert renyi._by_quadrature(orders, rate, multiplier) == pytest.approx(by_series, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize(("rate", "multiplier"), [(0.01, 1.0), (0.25, 1.964), (0.05, 3.0), (0.1, 50.0)])
def test_whole_orders_are_those_of_dp_accounting(rate: float, multiplier: float) -> None:
    whole = [float(order) for order in renyi.ORDERS if order % 1 == 0 and order <= 1024]
    accountant = rdp.RdpAccountant(whole)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier)))
    ours, theirs = nats(sampled_gaussian(rate, multiplier))[np.isin(renyi.ORDERS, whole)], np.asarray(accountant._rdp)
    useful = theirs < 30  # what lies beyond counts as infinite
    assert ours[useful] == pytest.approx(theirs[useful], rel=1e-9, abs=2 * UNIT)
    assert (ours >= theirs * (1 - 1e-12)).all()


def test_epsilon_of_a_curve_is_that_of_dp_accounting() -> None:
    for curve in (nats(gaussian(z)) for z in (0.3, 1.0, 5.0, 300.0, 1e5, 1e7)):
        units = np.ceil(curve / UNIT).astype(np.int64)
        for delta in (1e-3, 1e-5, 1e-6, 1e-9, 0.3):
            want, _order = rdp.compute_epsilon(renyi.ORDERS, units * UNIT, delta)
            assert renyi.epsilon_of(units, delta) == pytest.approx(want, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("multiplier", [0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0])
def test_the_orders_are_fine_enough_for_any_noise(multiplier: float) -> None:
    """Against the best of two hundred thousand orders: at most 0.1 % is lost, for epsilon 100 as for 0.002."""
    orders = 1 + np.exp(np.linspace(math.log(0.02), math.log(1e6), 200_000))
    best = orders / (2 * multiplier**2) + np.log1p(-1 / orders) - np.log(1e-5 * orders) / (orders - 1)
    assert epsilon([gaussian(multiplier)], 1e-5, "rdp") == pytest.approx(best.min(), rel=1e-3)


def test_the_discrete_mechanisms_are_those_of_divergences() -> None:
    wide = {"l2": 100.0, "l1": 3000.0, "variance": 5e4}
    skellam = nats(PrivacyEvent("skellam", wide))
    assert skellam == pytest.approx(divergences.skellam_rdp(renyi.ORDERS, **wide), rel=1e-9)
    discrete = nats(PrivacyEvent("discrete_gaussian", {"l2": 100.0, "variance": 5e4}))
    assert discrete == pytest.approx(nats(gaussian(math.sqrt(5.0))), rel=1e-9)
    assert (skellam >= discrete * (1 - 1e-12)).all()


def test_on_a_sample_a_mechanism_costs_less_but_the_bound_for_any_is_above_the_gaussians_own() -> None:
    """At whole orders; between them the general bound is interpolated."""
    whole = (renyi.ORDERS <= 64) & (renyi.ORDERS % 1 == 0)
    plain, key = nats(gaussian(1.5))[whole], renyi.key(gaussian(1.5))
    sampled = renyi.sampled_curve(key, 0.1)[whole] * UNIT
    assert (sampled <= plain + UNIT).all()
    assert (sampled >= nats(sampled_gaussian(0.1, 1.5))[whole] - UNIT).all()
    assert renyi.sampled_curve(key, 1.0)[whole] * UNIT == pytest.approx(plain)


def test_a_curve_is_rounded_up_and_cannot_be_changed() -> None:
    curve = renyi.curve(renyi.key(gaussian(3.0)))
    exact = renyi.ORDERS / 18
    assert (curve * UNIT > exact).all()
    assert (curve * UNIT <= exact + 2 * UNIT).all()
    with pytest.raises(ValueError, match="read-only"):
        curve[0] = 0


def test_so_much_that_no_order_has_a_bound_is_infinite() -> None:
    curve = renyi.curve(renyi.key(gaussian(0.2)))
    total = renyi.times(curve, 10**12)
    assert renyi.epsilon_of(total, 1e-5) == math.inf
    assert (renyi.added(total, total) == total).all()
    assert (renyi.times(total, 10**30) == total).all()


@pytest.mark.parametrize(
    "event",
    [
        PrivacyEvent("skellam", {"l2": 1.0, "l1": 1.0}),
        PrivacyEvent("skellam", {"l2": 1.0, "l1": 1.0, "variance": 0.0}),
        PrivacyEvent("discrete_gaussian", {"l2": math.inf, "variance": 1.0}),
        PrivacyEvent("gaussian", {"noise_multiplier": -1.0}),
        PrivacyEvent("laplace", {"noise_multiplier": 1.0}),
    ],
)
def test_what_nobody_can_account_for_is_refused(event: PrivacyEvent) -> None:
    with pytest.raises(ConfigError, match=r"cannot be accounted for|means nothing"):
        renyi.curve(renyi.key(event))


@pytest.mark.parametrize("multiplier", [1e-9, 1e-4, 0.049])
def test_hardly_any_noise_on_a_sample_is_bounded_in_no_time_by_what_it_costs_without_sampling(
    multiplier: float,
) -> None:
    sampled = PrivacyEvent("sampled_gaussian", {"noise_multiplier": multiplier, "sample_rate": 0.1})
    whole = PrivacyEvent("gaussian", {"noise_multiplier": multiplier})
    assert (renyi.curve(renyi.key(sampled)) == renyi.curve(renyi.key(whole))).all()


@pytest.mark.parametrize("value", [1e-200, 1e200])
@pytest.mark.parametrize("mechanism", ["gaussian", "sampled_gaussian", "skellam", "discrete_gaussian"])
def test_parameters_whose_squares_overflow_are_refused(mechanism: str, value: float) -> None:
    names = {"skellam": ("l1", "l2", "variance"), "discrete_gaussian": ("l2", "variance")}
    parameters = dict.fromkeys(names.get(mechanism, ("noise_multiplier",)), value)
    if mechanism == "sampled_gaussian":
        parameters["sample_rate"] = 0.5
    with pytest.raises(ConfigError, match="between 1e-60 and 1e"):
        renyi.curve(renyi.key(PrivacyEvent(mechanism, parameters)))
