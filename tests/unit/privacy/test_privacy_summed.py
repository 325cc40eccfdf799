from dataclasses import asdict, replace

import pytest
from private_sums import sum_settings

from fedmesh.errors import ConfigError
from fedmesh.privacy import skellam
from fedmesh.privacy.accountant import epsilon
from fedmesh.privacy.summed import BIT, QuantileSettings, SumSettings, calibrated

SETTINGS = sum_settings(
    epsilon=3.0, noise_multiplier=2.0, honest=80, colluders=10, members=100, size=1000, bits=20, gamma=0.01
)
QUANTILE = QuantileSettings(target=0.5, rate=0.2, noise_multiplier=5.0)


def test_the_noise_of_the_fewest_honest_devices_adds_up_to_the_multiplier():
    assert SETTINGS.sigma_local * 80**0.5 == pytest.approx(2.0)
    (event,) = SETTINGS.events("task/round-1")
    assert event.mechanism == "skellam"
    assert event.label == "task/round-1"
    assert event.parameters["variance"] == pytest.approx((2.0 / 0.01) ** 2)
    bound = skellam.sensitivity(1.0, 0.01, 1024)
    assert (event.parameters["l2"], event.parameters["l1"]) == (bound.l2, bound.l1)


def test_more_survivors_than_planned_for_cost_less_and_fewer_are_refused():
    planned, real = (epsilon(SETTINGS.events(survivors=count), 1e-5, "rdp") for count in (90, 100))
    assert epsilon(SETTINGS.events(), 1e-5, "rdp") == planned
    assert real < planned
    assert SETTINGS.events(survivors=100)[0].parameters["variance"] == pytest.approx(90 / 80 * (2.0 / 0.01) ** 2)
    with pytest.raises(ConfigError, match="a sum of 89 inputs is below the floor of 90"):
        SETTINGS.events(survivors=89)


def test_a_quantile_has_an_element_and_a_cost_of_its_own():
    settings = replace(SETTINGS, quantile=QUANTILE)
    assert settings.length == SETTINGS.length + 1 == 1025
    values, bits = settings.events("t/round-1")
    assert values == SETTINGS.events()[0]
    assert bits.parameters == {"l2": BIT, "l1": BIT, "variance": pytest.approx((BIT * 5.0) ** 2)}
    assert epsilon([values, bits], 1e-5, "rdp") > epsilon([values], 1e-5, "rdp")


def test_a_trusted_server_is_a_gaussian_and_its_devices_add_nothing():
    settings = replace(SETTINGS, trusted_server=True)
    assert settings.sigma_local == 0.0
    (event,) = settings.events()
    assert event.mechanism == "gaussian"
    assert 1.9 < event.parameters["noise_multiplier"] < 2.0  # rounding takes a little of it


def test_settings_survive_as_plain_data():
    for settings in (SETTINGS, replace(SETTINGS, quantile=QUANTILE)):
        assert SumSettings.from_plain(asdict(settings)) == settings
    with pytest.raises(TypeError):
        SumSettings.from_plain({**asdict(SETTINGS), "noise": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0.0"),
        ({"epsilon": float("inf")}, "epsilon is inf"),
        ({"clip": -1.0}, "clip is -1"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"clip": 1e10}, "clip is 10000000000.0, wanted between 1e-09 and 1e"),
        ({"delta": 0.0}, "delta is 0.0"),
        ({"honest": 0}, "honest is 0"),
        ({"members": 89}, "members is 89, wanted at least 90"),
        ({"bits": 63}, "bits is 63"),
        ({"bits": 7}, "bits is 7, wanted enough for 100 members"),
        ({"level": "example", "quantile": QUANTILE}, "quantile is"),
        ({"level": "example", "trusted_server": True}, "trusted_server is True"),
        ({"level": "everyone"}, "level is 'everyone'"),
    ],
)
def test_what_promises_nothing_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SETTINGS, **changes)


@pytest.mark.parametrize("quantile", [None, QUANTILE])
def test_calibration_spends_the_budget_on_the_last_round_and_not_before(quantile):
    def settings(multiplier, gamma):
        return replace(SETTINGS, noise_multiplier=multiplier, gamma=gamma, quantile=quantile, bits=14)

    found = calibrated(settings, rounds=10)
    rounds = [event for _ in range(10) for event in found.events()]
    assert 2.99 < epsilon(rounds, 1e-5, "rdp") <= 3.0
    assert epsilon([*rounds, *found.events()], 1e-5, "rdp") > 3.0
    assert found.gamma == pytest.approx(
        skellam.granularity(clip=1.0, members=100, dimension=1024, sigma_local=found.sigma_local, bits=14)
    )


def test_a_wide_ring_is_not_filled_with_a_grid_that_gains_nothing():
    def settings(multiplier, gamma):
        return replace(SETTINGS, noise_multiplier=multiplier, gamma=gamma, bits=48)

    found = calibrated(settings, rounds=10)
    bound = skellam.sensitivity(1.0, found.gamma, found.dimension)
    assert 1 < bound.l2 * found.gamma < 1.001
    assert 100 < found.sigma_local / found.gamma < 1e4


def test_a_grid_too_coarse_for_the_budget_is_an_error_that_says_so():
    def settings(multiplier, gamma):
        return replace(SETTINGS, noise_multiplier=multiplier, gamma=gamma, bits=10, size=1 << 24)

    with pytest.raises(ConfigError, match=r"raise privacy\.ring_bits"):
        calibrated(settings, rounds=10)


def test_the_quantile_costs_as_much_where_the_server_is_trusted():
    bits = replace(SETTINGS, quantile=QUANTILE).events("t/round-1")[1]
    trusted = replace(SETTINGS, quantile=QUANTILE, trusted_server=True).events("t/round-1")
    assert [event.mechanism for event in trusted] == ["gaussian", "skellam"]
    assert trusted[1] == bits
    assert trusted[1].label == "t/round-1/quantile"
