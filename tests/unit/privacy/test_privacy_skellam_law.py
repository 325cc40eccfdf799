from fractions import Fraction
from math import factorial

import pytest

from fedmesh.privacy.skellam_law import TAIL_ERROR, upper_tails


def slow_tails(variance: Fraction, bits: int) -> list[int]:
    """2^bits P(X > k) from the definition, the difference of two Poissons of mean v / 2, normalised."""
    terms = 120
    poisson = [int((variance / 2) ** m * 2**400 / factorial(m)) for m in range(terms)]
    masses = [sum(a * b for a, b in zip(poisson[k:], poisson, strict=False)) for k in range(terms)]
    total = masses[0] + 2 * sum(masses[1:])
    return [(sum(masses[k + 1 :]) << bits) // total for k in range(terms)]


@pytest.mark.parametrize("variance", [Fraction(1, 1000), Fraction(0.05**2), Fraction(1), Fraction(7, 3), Fraction(16)])
def test_tails_agree_with_the_difference_of_two_poissons(variance: Fraction) -> None:
    exact = slow_tails(variance, 100)
    tails = upper_tails(variance, 100)
    assert max(abs(tail - wanted) for tail, wanted in zip(tails, exact, strict=False)) <= TAIL_ERROR
    assert exact[len(tails)] <= 1


@pytest.mark.parametrize("sigma", [2.0**-20, 0.05, 0.3, 1.0, 2.0, 17.5, 400.0, 2000.0])
@pytest.mark.parametrize("bits", [16, 128])
def test_more_bits_confirm_fewer(sigma: float, bits: int) -> None:
    variance = Fraction(sigma) ** 2
    coarse, fine = upper_tails(variance, bits), upper_tails(variance, 320)
    assert len(coarse) < len(fine)
    for low, high in zip(coarse, fine, strict=False):
        assert abs((low << (320 - bits)) - high) < TAIL_ERROR << (320 - bits)
    assert fine[len(coarse)] < 1 << (320 - bits)


def test_tails_fall_from_just_under_one_half() -> None:
    tails = upper_tails(Fraction(9), 128)
    assert 2**126 < tails[0] < 2**127
    assert list(tails) == sorted(tails, reverse=True)
    assert tails[-1] < 2**20
