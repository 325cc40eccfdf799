"""Each broken noise is caught; noise that is right passes, from generators that the product does not use."""

import numpy as np
import pytest

from fedmesh.errors import ConfigError
from fedmesh.privacy import KeyedNoise, SystemNoise, skellam
from fedmesh.simulation.laboratory.noise_law import ALARM, Law, check_law, check_sums

ROWS, LENGTH = 128, 8192  # 1M coordinates


def independent_skellam(variance, shape, seed=1):
    rng = np.random.default_rng(seed)
    return rng.poisson(variance / 2, shape) - rng.poisson(variance / 2, shape)


def names(report):
    return {check.name for check in report.broken}


@pytest.mark.parametrize("variance", [0.3, 4.0, 1e6, 4e9])
def test_noise_of_skellams_law_passes(variance):
    report = check_law(independent_skellam(variance, (ROWS, LENGTH)), Law("skellam", variance))
    assert report.holds
    assert report.samples == ROWS * LENGTH


def test_the_products_discrete_noise_passes():
    rows = [skellam.noise(LENGTH, variance=4.0, rng=SystemNoise()) for _ in range(ROWS)]
    assert check_law(rows, Law("skellam", 4.0)).holds


def test_the_products_normal_noise_passes():
    rows = [3.0 * SystemNoise().normal(LENGTH) for _ in range(ROWS)]
    assert check_law(rows, Law("gaussian", 9.0)).holds


@pytest.mark.parametrize("factor", [0.98, 1.02])
@pytest.mark.parametrize("kind", ["gaussian", "skellam"])
def test_a_variance_two_percent_off_is_caught(kind, factor):
    if kind == "skellam":
        rows = independent_skellam(4.0 * factor, (ROWS, LENGTH))
    else:
        rows = np.random.default_rng(1).normal(0, 2.0 * factor**0.5, (ROWS, LENGTH))
    assert "variance" in names(check_law(rows, Law(kind, 4.0)))


@pytest.mark.parametrize("variance", [4.0, 4.0 - 1 / 12])  # as it is, and so that it has the right variance rounded
def test_a_rounded_normal_in_place_of_skellam_is_caught(variance):
    rows = np.rint(np.random.default_rng(1).normal(0, variance**0.5, (ROWS, LENGTH)))
    assert "shape" in names(check_law(rows, Law("skellam", 4.0)))


def test_laplacian_noise_of_the_right_variance_is_caught():
    rows = np.random.default_rng(1).laplace(0, 2**-0.5, (16, LENGTH))
    assert {"shape", "Kolmogorov-Smirnov"} <= names(check_law(rows, Law("gaussian", 1.0)))


def test_noise_that_is_used_twice_is_caught():
    rows = independent_skellam(4.0, (ROWS, LENGTH))
    rows[77] = rows[3]
    assert "repetition" in names(check_law(rows, Law("skellam", 4.0)))


def test_noise_that_is_used_again_from_another_place_on_is_caught():
    rows = independent_skellam(4.0, (ROWS, LENGTH))
    rows[77, 10:] = -rows[3, :-10]  # not even the sign is left
    assert names(check_law(rows, Law("skellam", 4.0))) == {"correlation"}


def test_a_seeded_generator_of_the_product_repeats_and_the_systems_does_not():
    keyed = [KeyedNoise(1, "x").normal(LENGTH) for _ in range(2)]
    system = [SystemNoise().normal(LENGTH) for _ in range(2)]
    assert "repetition" in names(check_law(keyed, Law("gaussian", 1.0)))
    assert check_law(system, Law("gaussian", 1.0)).holds


def test_noise_that_misses_the_odd_numbers_is_caught():
    rows = 2 * independent_skellam(2500.0, (16, LENGTH))
    assert "low bits" in names(check_law(rows, Law("skellam", 10_000.0)))


def test_what_is_no_integer_or_not_finite_is_caught():
    rows = independent_skellam(4.0, (4, LENGTH)).astype(float)
    rows[0, 0] = 0.5
    assert "integers" in names(check_law(rows, Law("skellam", 4.0)))
    rows[0, 0] = np.nan
    assert not check_law(rows, Law("skellam", 4.0)).holds


def test_sums_of_survivors_have_their_variance():
    rows = independent_skellam(4.0, (16, 1 << 16))
    assert check_sums(rows, Law("skellam", 4.0), (1, 8, 16)).holds
    common = np.random.default_rng(5).poisson(1.0, 1 << 16) - np.random.default_rng(6).poisson(1.0, 1 << 16)
    together = independent_skellam(2.0, (16, 1 << 16)) + common
    report = check_sums(together, Law("skellam", 4.0), (1, 16))
    assert {"variance of 16 devices", "shape of 16 devices"} == names(report)


def test_right_noise_rarely_looks_unlikely():
    """The combined figure is at least as careful as it says: below 5 % no more often than 5 % of the time, or so."""
    rng = np.random.default_rng(7)
    figures = [check_law(rng.normal(size=(4, 2048)), Law("gaussian", 1.0)).probability for _ in range(100)]
    assert sum(figure < 0.05 for figure in figures) <= 12
    assert min(figures) > ALARM


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ConfigError, match="1,000"):
        check_law(np.zeros((1, 10)), Law("gaussian", 1.0))
    with pytest.raises(ConfigError, match="variance"):
        Law("gaussian", 0.0)
