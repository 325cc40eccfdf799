import math

import numpy as np
import pytest
from scipy.special import ive

from fedmesh.errors import ConfigError
from fedmesh.privacy.divergences import (
    discrete_gaussian_rdp,
    distributed_discrete_gaussian_rdp,
    sampled_rdp,
    skellam_rdp,
)
from fedmesh.privacy.sensitivity import granularity, sensitivity

DELTA = 1e-5
ORDERS = [1 + x / 50 for x in range(1, 1000)] + list(range(21, 257))


def converted(rdp: np.ndarray, orders: list[float] = ORDERS) -> float:
    from dp_accounting.rdp import compute_epsilon

    return compute_epsilon(orders, rdp, DELTA)[0]


def one_round(bits: int, d: int, noise_multiplier: float = 1.0) -> dict[str, float]:
    """Sensitivities and variance of 100 devices' sum, the noise sized for all of them."""
    members = 100
    sigma_local = noise_multiplier / math.sqrt(members)
    gamma = granularity(clip=1.0, members=members, dimension=d, sigma_local=sigma_local, bits=bits)
    bound = sensitivity(1.0, gamma, d)
    return {"l2": bound.l2, "l1": bound.l1, "variance": members * (sigma_local / gamma) ** 2}


@pytest.mark.parametrize(
    ("bits", "d", "epsilon"),
    [
        (bits, 1 << log_d, epsilon)
        for bits, row in {
            12: (4.82, 7.11, 27.0),
            14: (4.76, 4.91, 7.09),
            16: (4.75, 4.76, 4.91),
            20: (4.75, 4.75, 4.75),
        }.items()
        for log_d, epsilon in zip((14, 20, 24), row, strict=True)
    ],
)
def test_ring_bits_and_dimension_cost_what_the_design_says(bits: int, d: int, epsilon: float) -> None:
    """100 devices, noise multiplier 1, one round, delta 1e-5; the continuous Gaussian costs 4.753."""
    assert converted(skellam_rdp(ORDERS, **one_round(bits, d))) == pytest.approx(epsilon, rel=0.01)


@pytest.mark.parametrize(
    ("noise_multiplier", "rounds"), [(0.5, 1), (0.7, 1), (1.0, 1), (3.0, 20), (10.0, 1), (10.0, 200)]
)
def test_on_a_fine_grid_all_cost_what_dp_accounting_says_of_a_gaussian(noise_multiplier: float, rounds: int) -> None:
    from dp_accounting import GaussianDpEvent
    from dp_accounting.rdp import RdpAccountant

    wanted = RdpAccountant(ORDERS).compose(GaussianDpEvent(noise_multiplier), rounds).get_epsilon(DELTA)
    fine = one_round(24, 1 << 10, noise_multiplier)
    costs = (
        skellam_rdp(ORDERS, **fine),
        discrete_gaussian_rdp(ORDERS, l2=fine["l2"], variance=fine["variance"]),
        distributed_discrete_gaussian_rdp(ORDERS, **fine, devices=100, dimension=1 << 10),
    )
    for rdp in costs:
        assert converted(rounds * rdp) == pytest.approx(wanted, rel=0.02)


def test_a_large_epsilon_is_overstated_for_want_of_a_theorem_between_integer_orders() -> None:
    """A known limit: beyond an epsilon of 15 the best order is between 1 and 3, where only chords are proven."""
    for noise_multiplier, most in ((5.0, 1.001), (2.0, 1.002), (0.5, 1.01), (0.4, 1.01), (0.3, 1.05), (0.1, 1.2)):
        variance = (1000 * noise_multiplier) ** 2
        exact = converted(discrete_gaussian_rdp(ORDERS, l2=1000, variance=variance))
        bound = converted(skellam_rdp(ORDERS, l2=1000, l1=1000, variance=variance))
        assert exact <= bound < most * exact


def true_divergence(alpha: float, shift: int, variance: float) -> float:
    """D_alpha of Skellam noise against itself shifted, by its definition, summed as far as floats reach."""
    reach = int(12 * math.sqrt(variance) + 30 + alpha * shift)
    k = np.arange(-reach, reach + 1)
    p, q = ive(np.abs(k), variance), ive(np.abs(k - shift), variance)
    seen = (p > 1e-280) & (q > 1e-280)
    logs = alpha * np.log(q[seen]) - (alpha - 1) * np.log(p[seen])
    return (logs.max() + math.log(np.exp(logs - logs.max()).sum())) / (alpha - 1)


@pytest.mark.parametrize("variance", [0.5, 2.0, 30.0, 400.0])
@pytest.mark.parametrize("shift", [1, 3, 20])
def test_no_order_is_below_the_true_divergence(variance: float, shift: int) -> None:
    for alpha in (1.01, 1.5, 2.0, 2.3, 3.0, 5.5, 16.0, 40.0):
        bound = skellam_rdp([alpha], l2=shift, l1=shift, variance=variance)[0]
        assert bound >= true_divergence(alpha, shift, variance) * (1 - 1e-9)


def test_the_bound_is_tight_where_noise_is_large() -> None:
    for alpha in (2, 8, 32):
        bound = skellam_rdp([alpha], l2=3, l1=3, variance=400)[0]
        assert bound < 1.02 * true_divergence(alpha, 3, 400)


def test_skellam_at_one_integer_order_by_hand() -> None:
    assert skellam_rdp([4], l2=2.0, l1=3.0, variance=10.0)[0] == pytest.approx(16 / 20 + min(46 / 400, 9 / 20))
    assert skellam_rdp([400], l2=2.0, l1=3.0, variance=10.0)[0] == pytest.approx(80 + 9 / 20)


def test_between_integers_the_bound_is_the_chord_of_a_convex_function() -> None:
    at = skellam_rdp([1.25, 2, 2.5, 3], l2=2.0, l1=3.0, variance=10.0)
    assert at[0] == at[1]
    assert at[2] * 1.5 == pytest.approx((at[1] + 2 * at[3]) / 2)


def test_distributed_discrete_gaussian_by_hand() -> None:
    """Two devices of variance 1/4 each: far enough from one discrete Gaussian to see all three bounds."""
    tau = 10 * math.exp(-(math.pi**2) / 4)
    parameters = {"l2": 3.0, "l1": 9.0, "variance": 0.5, "devices": 2, "dimension": 4}
    for alpha in (1.1, 2.0, 7.5, 60.0):
        wanted = min(
            alpha * 9 + 4 * tau,
            alpha / 2 * (18 + 2 * 9 / math.sqrt(0.5) * tau + 4 * tau**2),
            alpha / 2 * (3 / math.sqrt(0.5) + 2 * tau) ** 2,
        )
        assert distributed_discrete_gaussian_rdp([alpha], **parameters)[0] == pytest.approx(wanted)


def test_one_device_adds_one_discrete_gaussian() -> None:
    parameters = {"l2": 3.0, "variance": 2.0}
    one = distributed_discrete_gaussian_rdp(ORDERS, **parameters, l1=9.0, devices=1, dimension=99)
    np.testing.assert_allclose(one, discrete_gaussian_rdp(ORDERS, **parameters))


def gaussian(noise_multiplier: float):
    return lambda orders: orders / (2 * noise_multiplier**2)


def slow_sampled(alpha: int, q: float, noise_multiplier: float) -> float:
    """Theorem 5 as it is written, in floats that hold it for small orders."""
    eps = {order: order / (2 * noise_multiplier**2) for order in range(2, alpha + 1)}
    total = (1 - q) ** (alpha - 1) * (alpha * q - q + 1)
    total += math.comb(alpha, 2) * q**2 * (1 - q) ** (alpha - 2) * math.exp(eps[2])
    for order in range(3, alpha + 1):
        share = math.comb(alpha, order) * (1 - q) ** (alpha - order) * q**order
        total += 3 * share * math.exp((order - 1) * eps[order])
    return math.log(total) / (alpha - 1)


@pytest.mark.parametrize("q", [0.01, 0.2, 0.9])
def test_sampling_follows_the_theorem_and_never_costs_more_than_none(q: float) -> None:
    orders = [2, 3, 5, 16]
    rdp = sampled_rdp(orders, sample_rate=q, rdp=gaussian(1.5))
    for alpha, value in zip(orders, rdp, strict=True):
        assert value == pytest.approx(min(slow_sampled(alpha, q, 1.5), alpha / 4.5))


@pytest.mark.parametrize("q", [0.001, 0.05, 0.5])
def test_sampling_is_above_the_exact_cost_of_a_gaussian_and_near_it_for_small_rates(q: float) -> None:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    orders = list(range(2, 65))
    event = PoissonSampledDpEvent(q, GaussianDpEvent(1.0))
    exact = RdpAccountant(orders).compose(event)._rdp
    bound = sampled_rdp(orders, sample_rate=q, rdp=gaussian(1.0))
    assert (bound >= exact * (1 - 1e-9)).all()
    if q == 0.001:
        assert bound[0] == pytest.approx(exact[0], rel=1e-6)


def test_sampling_everybody_changes_nothing() -> None:
    np.testing.assert_allclose(sampled_rdp([2, 3, 100], sample_rate=1.0, rdp=gaussian(2.0)), np.array([2, 3, 100]) / 8)


def test_sampled_skellam_at_large_orders_stays_finite() -> None:
    orders = [1.5, 256, 1024.5]
    parameters = one_round(14, 1 << 20)
    plain = skellam_rdp(orders, **parameters)
    sampled = sampled_rdp(orders, sample_rate=0.01, rdp=lambda alphas: skellam_rdp(alphas, **parameters))
    assert np.isfinite(sampled).all()
    assert (sampled > 0).all()
    assert (sampled <= plain * (1 + 1e-12)).all()


@pytest.mark.parametrize("orders", [[1.0], [0.5], [math.nan], [math.inf], [1e6], [[2.0]]])
def test_orders_out_of_range_are_refused(orders: list) -> None:
    with pytest.raises(ConfigError, match="Renyi orders"):
        skellam_rdp(orders, l2=1.0, l1=1.0, variance=1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["l2", "l1", "variance"])
def test_what_is_no_positive_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        skellam_rdp([2.0], **{"l2": 1.0, "l1": 1.0, "variance": 1.0, name: value})


def test_a_share_too_small_for_the_theorem_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.25"):
        distributed_discrete_gaussian_rdp([2], l2=1.0, l1=1.0, variance=2.0, devices=9, dimension=4)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="rate"):
        sampled_rdp([2], sample_rate=rate, rdp=gaussian(1.0))
