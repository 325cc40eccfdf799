import math
from fractions import Fraction

import pytest

from fedmesh.errors import ConfigError
from fedmesh.privacy.sensitivity import Sensitivity, granularity, sensitivity


def test_delta_2_is_the_smaller_of_the_certain_and_the_likely_norm() -> None:
    c, d = 50.0, 1024
    assert sensitivity(5.0, 0.1, d).l2 == pytest.approx(math.sqrt(c * c + d / 4 + c + 16))
    assert sensitivity(0.001, 1.0, 2).l2 == pytest.approx(math.sqrt(1e-6 + 0.5 + 0.001 + math.sqrt(2) / 2))
    assert sensitivity(0.5, 1.0, 1).l2 == pytest.approx(math.sqrt(0.25 + 0.25 + 0.5 + 0.5))  # below 0.5 + 1


def test_delta_1_is_of_integers() -> None:
    short, long = sensitivity(1.0, 1.0, 10_000), sensitivity(1e4, 1.0, 100)
    assert short.l1 == short.l2**2
    assert long.l1 == 10 * long.l2


def test_fine_grids_add_almost_nothing_to_the_clip() -> None:
    for gamma in (1e-2, 1e-4, 1e-6):
        norm = sensitivity(1.0, gamma, 256).l2 * gamma
        assert 1 < norm < 1 + 17 * gamma


@pytest.mark.parametrize("l2", [0.1, 1.0, math.sqrt(2), 3.9999999, 1e5 + 0.1, 2.0**31])
def test_the_square_limit_is_exact(l2: float) -> None:
    limit = Sensitivity(l2, 1.0).square_limit
    assert limit <= Fraction(l2) ** 2 < limit + 1


def test_gamma_solves_the_equation_of_the_ring() -> None:
    gamma = granularity(clip=2.0, members=50, dimension=4096, sigma_local=0.3, bits=16, spread=5.0, rho=1.2)
    deviation = math.sqrt(1.2 * (2.0 * 50) ** 2 / 4096 + 50 * (gamma**2 / 4 + 0.3**2))
    assert 2 * 5 * deviation / gamma == pytest.approx(2**16)


def test_gamma_without_noise_or_for_more_members() -> None:
    common = {"clip": 1.0, "dimension": 64, "bits": 16}
    quiet = granularity(members=10, sigma_local=0.0, **common)
    assert 0 < quiet < granularity(members=10, sigma_local=0.1, **common)
    assert quiet < granularity(members=11, sigma_local=0.0, **common)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["clip", "gamma"])
def test_what_is_no_positive_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        sensitivity(**{"clip": 1.0, "gamma": 1.0, "d": 4, name: value})


def test_a_grid_too_fine_for_64_bits_is_refused() -> None:
    assert sensitivity(2.0**30, 1.0, 4).square_limit < 2**62
    with pytest.raises(ConfigError, match="raise gamma"):
        sensitivity(2.0**31, 1.0, 4)
    with pytest.raises(ConfigError, match="raise gamma"):
        sensitivity(1.0, 1e-300, 4)


def test_a_ring_too_small_for_its_members_is_refused() -> None:
    with pytest.raises(ConfigError, match="4 bits is too small for 100 members"):
        granularity(clip=1.0, members=100, dimension=64, sigma_local=1.0, bits=4)
    with pytest.raises(ConfigError, match="sigma_local"):
        granularity(clip=1.0, members=100, dimension=64, sigma_local=-1.0, bits=16)
