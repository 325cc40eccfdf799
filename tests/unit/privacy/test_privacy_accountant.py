import math
import time

import dp_accounting
import pytest
from dp_accounting import pld, rdp

from fedmesh.errors import ConfigError, TrustError
from fedmesh.privacy import epsilon, noise_multiplier, spent
from fedmesh.privacy.accountant import _agreed, fits_pld, gaussian, has_pld, sampled_gaussian
from fedmesh.privacy.calibration import distributed_skellam
from fedmesh.privacy.loss import _thinned
from fedmesh.types import PrivacyEvent


@pytest.mark.parametrize(
    ("rate", "multiplier", "steps", "by_rdp", "by_pld"), [(0.01, 1, 1000, 2.101, 1.828), (0.05, 1, 200, 5.368, 4.766)]
)
def test_published_figures(rate: float, multiplier: float, steps: int, by_rdp: float, by_pld: float) -> None:
    events = [sampled_gaussian(rate, multiplier, steps)]
    assert epsilon(events, 1e-5, "rdp") == pytest.approx(by_rdp, rel=1e-3)
    assert epsilon(events, 1e-5, "pld") == pytest.approx(by_pld, rel=1e-3)
    assert spent(events, 1e-5) == epsilon(events, 1e-5, "pld")


def test_the_gaussian_mechanism_without_sampling_has_its_closed_form() -> None:
    """Balle and Wang 2018, theorem 8: delta(eps) = Phi(1/2s - eps s) - e^eps Phi(-1/2s - eps s)."""

    def delta_of(eps: float, s: float) -> float:
        def cdf(x: float) -> float:
            return math.erfc(-x / math.sqrt(2)) / 2

        return cdf(1 / (2 * s) - eps * s) - math.exp(eps) * cdf(-1 / (2 * s) - eps * s)

    value = epsilon([sampled_gaussian(1.0, 2.0, 4)], 1e-5)  # four times sigma 2 is once sigma 1
    assert delta_of(value, 1.0) == pytest.approx(1e-5, rel=0.01)


def test_one_curve_composed_equals_dp_accounting_asked_for_all_at_once() -> None:
    events = [sampled_gaussian(0.1, 2.0, 30), sampled_gaussian(0.2, 1.5, 7), sampled_gaussian(0.1, 2.0, 3)]
    for accountant, method in ((rdp.RdpAccountant(), "rdp"), (pld.PLDAccountant(), "pld")):
        for rate, multiplier, count in ((0.1, 2.0, 33), (0.2, 1.5, 7)):
            step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
            accountant.compose(step, count)
        assert epsilon(events, 1e-5, method) == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)


def test_nothing_spent_is_zero() -> None:
    assert epsilon([], 1e-5) == epsilon([], 1e-5, "rdp") == spent([], 1e-5) == 0


def test_grouping_makes_no_difference() -> None:
    rounds = [sampled_gaussian(0.25, 2.0, 4, f"round-{k}") for k in range(5)]
    for method in ("rdp", "pld"):
        assert epsilon(rounds, 1e-5, method) == epsilon([sampled_gaussian(0.25, 2.0, 20)], 1e-5, method)


@pytest.mark.parametrize("target", [0.5, 1.0, 3.0, 8.0])
def test_the_multiplier_found_fits_and_is_the_smallest(target: float) -> None:
    z = noise_multiplier(target, 1e-5, 0.25, 120)
    assert epsilon([sampled_gaussian(0.25, z, 120)], 1e-5, "rdp") <= target
    assert epsilon([sampled_gaussian(0.25, z * 0.999, 120)], 1e-5, "rdp") > target


def test_all_rounds_of_a_budget_are_affordable_one_after_another() -> None:
    z = noise_multiplier(8.0, 1e-5, 0.25, 120)
    assert epsilon([sampled_gaussian(0.25, z, 4)] * 30, 1e-5, "rdp") <= 8.0


def test_a_multiplier_is_found_within_a_second() -> None:
    start = time.process_time()
    noise_multiplier(8.0, 1e-6, 0.125, 200)
    assert time.process_time() - start < 6.0  # 0.4 on an idle core


def test_no_warning_of_dp_accounting_reaches_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    epsilon([sampled_gaussian(0.2501, 2.01, 10)], 1e-5, "rdp")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "event",
    [
        PrivacyEvent("skellam", {"mu": 1.0}),
        PrivacyEvent("sampled_gaussian", {"sample_rate": 0.1}),
        PrivacyEvent("sampled_gaussian", {"sample_rate": 0.1, "noise_multiplier": 1.0, "clip": 1.0}),
        sampled_gaussian(1.5, 1.0),
        sampled_gaussian(0.0, 1.0),
        sampled_gaussian(0.1, 0.0),
        sampled_gaussian(0.1, math.nan),
        sampled_gaussian(0.1, 1.0, 0),
    ],
)
def test_an_event_that_cannot_be_accounted_for_is_refused(event: PrivacyEvent) -> None:
    for method in ("rdp", "pld"):
        with pytest.raises(ConfigError):
            epsilon([event], 1e-5, method)


@pytest.mark.parametrize("delta", [0.0, 1e-15, 1.0, -1.0, math.nan])
def test_a_delta_outside_of_zero_and_one_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        epsilon([sampled_gaussian(0.1, 1.0)], delta)
    with pytest.raises(ConfigError, match="delta"):
        noise_multiplier(1.0, delta, 0.1, 1)


@pytest.mark.parametrize("delta", [1e-14, 0.5])
def test_reports_are_finite_over_the_whole_range_of_delta(delta: float) -> None:
    assert math.isfinite(spent([sampled_gaussian(0.25, 2.0, 10)], delta))


@pytest.mark.parametrize(("target", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1e-9, 1e-12)])
def test_an_epsilon_that_no_noise_reaches_is_refused(target: float, delta: float) -> None:
    with pytest.raises(ConfigError, match="epsilon"):
        noise_multiplier(target, delta, 0.25, 10)


def test_a_generous_budget_gets_the_smallest_multiplier_that_is_accounted_for() -> None:
    assert noise_multiplier(1e6, 1e-5, 0.25, 1) == 0.2


def test_a_thousand_rounds_are_reported_within_two_seconds() -> None:
    start = time.process_time()
    assert spent([sampled_gaussian(0.05, 3.0, 4)] * 1000, 1e-5) < epsilon(
        [sampled_gaussian(0.05, 3.0, 4000)], 1e-5, "rdp"
    )
    assert time.process_time() - start < 12.0  # 1.0 on an idle core


@pytest.mark.parametrize(
    "events",
    [
        [sampled_gaussian(0.05, 1.5 + 2.5 * (round_ % 5) / 5, 4) for round_ in range(1000)],
        [sampled_gaussian(0.05, 1.5 + 3 * round_ / 1000, 1) for round_ in range(1000)],
        [sampled_gaussian(0.02 + round_ % 10 / 200, 1.5 + 3 * round_ / 1000, 1) for round_ in range(1000)],
        [gaussian(30.0 + round_ / 10) for round_ in range(1000)],
    ],
    ids=["five multipliers", "a thousand multipliers", "and ten rates", "without sampling"],
)
def test_a_thousand_rounds_under_parameters_that_change_are_reported_in_seconds(events: list[PrivacyEvent]) -> None:
    start = time.process_time()
    figure, loose = spent(events, 1e-5), epsilon(events, 1e-5, "rdp")
    assert 0.5 * loose < figure <= loose
    # PLD takes 0.2 to 1.7 s, the RDP curves of a thousand multipliers, which an open ledger has already, 1.5 s
    assert time.process_time() - start < 30.0


def test_near_multipliers_that_count_as_one_never_cost_less() -> None:
    """Thirty-three pairs are more than are composed by themselves: the bound rises, by no more than a few per cent."""
    events = [sampled_gaussian(0.05, 2.0 + k / 33, 30) for k in range(33)]
    exact, thinned = epsilon(events[:32], 1e-5), epsilon(events, 1e-5)
    assert exact < thinned < 1.1 * exact
    pairs = _thinned(tuple(sorted((0.05, 2.0 + k / 33, 30) for k in range(33))))
    assert len(pairs) <= 32
    assert sum(count for *_, count in pairs) == 33 * 30
    same = sampled_gaussian(0.05, 2.0, 33 * 30)
    assert epsilon(events, 1e-5) < epsilon([same], 1e-5)


def test_pairs_that_count_as_one_take_the_larger_rate_and_the_smaller_multiplier() -> None:
    pairs = {2.0 + k / 40: (0.0501, 0.05)[k % 2] for k in range(40)}
    thinned = _thinned(tuple(sorted((rate, multiplier, 1) for multiplier, rate in pairs.items())))
    joined = [(rate, multiplier) for rate, multiplier, count in thinned if count > 1]
    assert joined
    assert {rate for rate, _ in joined} == {0.0501}
    multipliers = sorted(multiplier for _, multiplier, _ in thinned)
    for number, (_, multiplier, count) in enumerate(sorted(thinned, key=lambda pair: pair[1])):
        following = multipliers[number + 1] if number + 1 < len(thinned) else 9.0
        assert count == sum(multiplier <= z < following for z in pairs)


def test_gaussians_without_sampling_are_one_gaussian() -> None:
    mixed = [gaussian(3.0, 4), sampled_gaussian(1.0, 6.0, 9), gaussian(5.0)]
    together = 1 / math.sqrt(4 / 9 + 9 / 36 + 1 / 25)
    assert epsilon(mixed, 1e-5) == pytest.approx(epsilon([gaussian(together)], 1e-5), rel=1e-9)
    by_dp_accounting = pld.PLDAccountant()
    for event in mixed:
        by_dp_accounting.compose(dp_accounting.GaussianDpEvent(event.parameters["noise_multiplier"]), event.count)
    assert epsilon(mixed, 1e-5) == pytest.approx(by_dp_accounting.get_epsilon(1e-5), rel=1e-3)


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize(("rate", "multiplier"), [(0.01, 0.7), (0.05, 1.0), (0.25, 2.0), (0.5, 8.0), (1.0, 5.0)])
def test_both_figures_are_within_two_per_cent_of_dp_accounting(rate: float, multiplier: float, count: int) -> None:
    """RDP may be lower: it is exact at orders where dp-accounting's series is an upper bound."""
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
    events = [sampled_gaussian(rate, multiplier, count)]
    for accountant, method in ((rdp.RdpAccountant(), "rdp"), (pld.PLDAccountant(), "pld")):
        accountant.compose(step, count)
        assert epsilon(events, 1e-5, method) == pytest.approx(accountant.get_epsilon(1e-5), rel=0.02)


SKELLAM = PrivacyEvent("skellam", {"l2": 100.0, "l1": 1e4, "variance": 1e5})


def test_what_has_no_privacy_loss_distribution_is_reported_by_rdp() -> None:
    mixed = [SKELLAM, gaussian(5.0), sampled_gaussian(0.1, 2.0, 10)]
    assert spent(mixed, 1e-5) == epsilon(mixed, 1e-5, "rdp") > epsilon(mixed[1:], 1e-5, "rdp")
    with pytest.raises(ConfigError, match="no privacy loss distribution of skellam"):
        epsilon(mixed, 1e-5)
    assert not has_pld(mixed)
    assert has_pld(mixed[1:])
    assert has_pld([])


@pytest.mark.parametrize(
    ("bits", "figures"),
    [(12, (4.82, 7.11, 27)), (14, (4.76, 4.91, 7.09)), (16, (4.75, 4.76, 4.91)), (20, (4.75, 4.75, 4.75))],
)
def test_the_cost_of_a_grid_by_its_bits_and_the_dimension(bits: int, figures: tuple[float, ...]) -> None:
    """100 devices, noise as large as the clip, one round; a continuous Gaussian costs 4.73 by the same orders."""
    for dimension, figure in zip((2**14, 2**20, 2**24), figures, strict=True):
        event, _gamma = distributed_skellam(noise_multiplier=1.0, clients=100, dimension=dimension, bits=bits)
        assert epsilon([event], 1e-5, "rdp") == pytest.approx(figure, rel=0.01)


def test_the_smaller_of_two_bounds_is_reported() -> None:
    assert _agreed(4.7, 5.3, 0.02) == 4.7
    assert _agreed(0.0105, 0.0100, 0.001) == 0.0100  # within PLD's grid: RDP's bound holds as well


@pytest.mark.parametrize("tight", [5.4, math.inf, math.nan])
def test_a_tight_bound_above_the_loose_one_is_an_alarm(tight: float) -> None:
    with pytest.raises(TrustError, match="accountants disagree"):
        _agreed(tight, 5.3, 0.02)


@pytest.mark.parametrize(
    "event", [gaussian(1e-3), sampled_gaussian(0.1, 1.0, 10**12), sampled_gaussian(0.1, 1e5, 10**7)]
)
def test_no_distribution_is_made_that_memory_does_not_hold(event):
    assert has_pld([event])
    assert not fits_pld([event], 1e-5)
    assert spent([event], 1e-5) == epsilon([event], 1e-5, "rdp")
    with pytest.raises(ConfigError, match="ask for RDP"):
        epsilon([event], 1e-5)
