"""The least noise for a budget: it fits, a little less does not, and where none fits it is said what would."""

import math

import pytest

from fedmesh.errors import ConfigError
from fedmesh.privacy import epsilon, gaussian_noise_multiplier, skellam_noise_multiplier
from fedmesh.privacy.accountant import gaussian
from fedmesh.privacy.calibration import distributed_skellam, sampled_epsilon, smallest_multiplier
from fedmesh.privacy.skellam import granularity, sensitivity

SUM = {"clients": 80, "members": 100, "dimension": 5000, "bits": 16}


def cost(multiplier: float, rounds: int, **options: float) -> float:
    event, _gamma = distributed_skellam(noise_multiplier=multiplier, rounds=rounds, **{**SUM, **options})
    return epsilon([event], 1e-5, "rdp")


@pytest.mark.parametrize("target", [0.5, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("signal", [1.0, 40.0])
def test_the_multiplier_of_a_sum_fits_and_is_the_smallest(target: float, signal: float) -> None:
    z = skellam_noise_multiplier(epsilon=target, delta=1e-5, rounds=7, signal=signal, **SUM)
    assert cost(z, 7, signal=signal) <= target < cost(z * 0.999, 7, signal=signal)


@pytest.mark.parametrize("target", [0.05, 1.0, 8.0])
def test_the_multiplier_of_a_central_sum_fits_and_is_the_smallest(target: float) -> None:
    z = gaussian_noise_multiplier(epsilon=target, delta=1e-6, rounds=5)
    assert epsilon([gaussian(z, 5)], 1e-6, "rdp") <= target < epsilon([gaussian(z * 0.999, 5)], 1e-6, "rdp")


def test_a_fine_grid_needs_the_noise_of_a_continuous_gaussian() -> None:
    central = gaussian_noise_multiplier(epsilon=2.0, delta=1e-5, rounds=3)
    fine = skellam_noise_multiplier(epsilon=2.0, delta=1e-5, rounds=3, **{**SUM, "bits": 24})
    assert central < fine == pytest.approx(central, rel=0.01)


def test_the_event_of_a_sum_is_made_of_the_formulas() -> None:
    event, gamma = distributed_skellam(
        noise_multiplier=2.0, clients=100, survivors=70, dimension=5000, bits=16, rounds=3, members=130, signal=2.0
    )
    assert gamma == granularity(clip=2.0, members=130, dimension=8192, sigma_local=0.2, bits=16)
    bound = sensitivity(1.0, gamma, 8192)
    assert event.parameters["l2"] == bound.l2
    assert event.parameters["l1"] == bound.l1
    assert event.parameters["variance"] == pytest.approx(70 * (0.2 / gamma) ** 2)
    assert event.count == 3


def test_fewer_survivors_cost_more() -> None:
    costs = [cost(2.0, 1, clients=100, survivors=survivors) for survivors in (100, 90, 50, 1)]
    assert costs == sorted(costs)
    assert costs[0] == cost(2.0, 1, clients=100)


def test_a_grid_that_is_too_coarse_says_how_many_bits_would_do() -> None:
    with pytest.raises(ConfigError, match=r"12 bits is too coarse for epsilon 1 .*: raise the bits to 16") as refused:
        skellam_noise_multiplier(epsilon=1.0, delta=1e-5, rounds=10, clients=100, dimension=2**20, bits=12)
    assert "or raise epsilon" in str(refused.value)
    skellam_noise_multiplier(epsilon=1.0, delta=1e-5, rounds=10, clients=100, dimension=2**20, bits=16)
    with pytest.raises(ConfigError, match="too coarse"):
        skellam_noise_multiplier(epsilon=1.0, delta=1e-5, rounds=10, clients=100, dimension=2**20, bits=15)


def test_a_ring_that_cannot_hold_the_sum_or_is_too_fine_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 bits is too small for 100 members"):
        skellam_noise_multiplier(epsilon=1.0, delta=1e-5, rounds=1, clients=100, dimension=64, bits=5)
    with pytest.raises(ConfigError, match="lower the bits"):
        skellam_noise_multiplier(epsilon=1.0, delta=1e-5, rounds=1, clients=100, dimension=64, bits=50)


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_that_means_nothing_is_refused(target: float) -> None:
    for search in (
        lambda: skellam_noise_multiplier(epsilon=target, delta=1e-5, rounds=1, **SUM),
        lambda: gaussian_noise_multiplier(epsilon=target, delta=1e-5, rounds=1),
    ):
        with pytest.raises(ConfigError, match="finite number above 0"):
            search()


def test_a_budget_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(ConfigError, match="no noise reaches epsilon 1e-09"):
        gaussian_noise_multiplier(epsilon=1e-9, delta=1e-12, rounds=10)
    with pytest.raises(ConfigError, match="no noise reaches epsilon 1e-09"):
        skellam_noise_multiplier(epsilon=1e-9, delta=1e-12, rounds=10, **SUM)


@pytest.mark.parametrize(
    "wrong",
    [{"clients": 0}, {"survivors": 0}, {"rounds": 0}, {"noise_multiplier": 0.0}, {"noise_multiplier": math.nan}],
)
def test_sums_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="mean nothing"):
        distributed_skellam(**{"noise_multiplier": 1.0, "clients": 9, "dimension": 8, "bits": 16, **wrong})


def test_secret_sampling_costs_less_and_never_more_than_none() -> None:
    event, _gamma = distributed_skellam(noise_multiplier=3.0, clients=100, dimension=4096, bits=20, rounds=20)
    costs = [sampled_epsilon(event, rate, 1e-5) for rate in (0.01, 0.1, 1.0)]
    assert costs == sorted(costs)
    assert costs[0] < 0.3 * costs[2] == 0.3 * epsilon([event], 1e-5, "rdp")
    sampled = skellam_noise_multiplier(epsilon=1.0, delta=1e-5, rounds=20, sample_rate=0.1, **SUM)
    assert sampled < 0.5 * skellam_noise_multiplier(epsilon=1.0, delta=1e-5, rounds=20, **SUM)


def test_the_search_finds_the_edge() -> None:
    found = smallest_multiplier(lambda z: 10 / z, 3.0)
    assert found is not None
    assert 10 / 3 <= found <= 10 / 3 * 1.0001
    assert smallest_multiplier(lambda _: 4.0, 3.0) is None
    assert smallest_multiplier(lambda _: 1.0, 3.0) == 0.2
