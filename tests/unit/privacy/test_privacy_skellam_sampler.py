import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import chi2

from fedmesh.errors import ConfigError
from fedmesh.privacy import KeyedNoise, SystemNoise
from fedmesh.privacy.skellam_law import upper_tails
from fedmesh.privacy.skellam_sampler import MAX_SIGMA, MIN_SIGMA, sample

DIGITS = 512


class Script:
    """Words as written, one after the other."""

    def __init__(self, words: Iterable[int]) -> None:
        self.left = list(words)

    def words(self, size: int) -> np.ndarray:
        taken, self.left = self.left[:size], self.left[size:]
        assert len(taken) == size
        return np.array(taken, np.uint64)


def boundary(k: int, variance: float) -> int:
    """P(X <= k) to `DIGITS` bits."""
    tails = upper_tails(Fraction(variance), DIGITS)
    return 2**DIGITS - tails[k] if k >= 0 else tails[-k - 1]


def slow_samples(words: list[int], variance: float) -> list[int]:
    """For each word the smallest k with U < P(X <= k), U the word and then zeros, going up from far below."""
    far = len(upper_tails(Fraction(variance), DIGITS))
    law = [(k, boundary(k, variance)) for k in range(-far, far)]
    return [next(k for k, top in law if word << (DIGITS - 64) < top) for word in words]


def split(number: int) -> list[int]:
    """`DIGITS` bits as words, the first first."""
    return [number >> shift & (2**64 - 1) for shift in range(DIGITS - 64, -1, -64)]


@pytest.mark.parametrize("variance", [MIN_SIGMA**2, 0.0025, 0.7, 4.0, 400.0])
def test_samples_are_the_inverse_of_the_law(variance: float) -> None:
    words = [int(word) for word in KeyedNoise(1, "inverse").words(300)]
    words += [int(w) >> s for s in range(1, 60, 7) for w in KeyedNoise(2, "low").words(3)]  # deep in the lower tail
    words += [2**64 - 1 - w for w in words[-27:]]
    drawn = sample(len(words), variance, Script(words))
    assert drawn.dtype == np.int64
    assert drawn.tolist() == slow_samples(words, variance)


@pytest.mark.parametrize("variance", [0.0025, 4.0, 2500.0])
@pytest.mark.parametrize("k", [-3, -1, 0, 2])
def test_a_tie_is_broken_by_the_next_word(variance: float, k: int) -> None:
    first, second, *_ = split(boundary(k, variance))
    assert sample(1, variance, Script([first - 1])) <= k
    assert sample(1, variance, Script([first + 1])) == k + 1
    assert sample(1, variance, Script([first, second - 9])) == k
    assert sample(1, variance, Script([first, second + 9])) == k + 1


@pytest.mark.parametrize("k", [-7, 0, 5])
def test_a_tie_goes_on_for_as_long_as_it_takes(k: int) -> None:
    words = split(boundary(k, 4.0))
    for depth in (3, 4, 6):
        start = words[: depth - 1]
        below, above = Script([*start, words[depth - 1] - 9]), Script([*start, words[depth - 1] + 9])
        assert sample(1, 4.0, below) == k
        assert sample(1, 4.0, above) == k + 1
        assert not below.left
        assert not above.left


def test_only_the_words_that_tie_draw_more() -> None:
    first, second, *_ = split(boundary(1, 4.0))
    script = Script([first + 1, first, 1 << 63, first, second + 9, second - 9])
    assert sample(4, 4.0, script).tolist() == [2, 2, 0, 1]


def test_the_first_and_the_last_word_lead_into_the_tails() -> None:
    far = -sample(1, 4.0, Script([0, 12345]))[0]
    assert far > 20
    assert sample(1, 4.0, Script([2**64 - 1, 2**64 - 1 - 12345]))[0] == far
    assert sample(1, 4.0, Script([0, 0, 0, 99]))[0] < -far


def expected(variance: float, cells: range) -> np.ndarray:
    """Probabilities of the values in `cells`, and of all others last."""
    inside = np.array([ive(abs(k), variance) for k in cells])
    return np.append(inside, 1 - inside.sum())


@pytest.mark.parametrize(
    ("sigma", "reach"), [(0.05, 1), (0.3, 3), (2.0, 9), (16.0, 60)], ids=["0.05", "0.3", "2", "16"]
)
def test_a_million_samples_pass_chi_square_against_the_exact_law(sigma: float, reach: int) -> None:
    draws = sample(1 << 20, sigma**2, KeyedNoise(5, "chi-square"))
    cells = range(-reach, reach + 1)
    counts = np.array([np.count_nonzero(draws == k) for k in cells])
    counts = np.append(counts, len(draws) - counts.sum())
    wanted = expected(sigma**2, cells) * len(draws)
    many = wanted > 5
    statistic = ((counts - wanted)[many] ** 2 / wanted[many]).sum()
    assert chi2.sf(statistic, many.sum() - 1) > 1e-4


@pytest.mark.parametrize("sigma", [0.05, 1.0, 50.0, 2000.0, 30_000.0])
def test_mean_variance_and_symmetry(sigma: float) -> None:
    size = 1 << 19
    draws = sample(size, sigma**2, KeyedNoise(6, "moments")).astype(float) / sigma
    kurtosis = 3 + 1 / sigma**2
    assert abs(draws.mean()) < 6 / math.sqrt(size)
    assert abs(draws.var() - 1) < 6 * math.sqrt((kurtosis - 1) / size)
    assert abs((draws**3).mean()) < 6 * math.sqrt((15 + 40 / sigma**2 + 1 / sigma**4) / size)


def test_tails_are_as_heavy_as_the_law_says() -> None:
    draws = np.abs(sample(1 << 21, 4.0, KeyedNoise(7, "tails")))
    for k in (8, 9, 10):
        wanted = len(draws) * 2 * upper_tails(Fraction(4), 64)[k - 1] / 2**64
        assert abs(np.count_nonzero(draws >= k) - wanted) < 6 * math.sqrt(wanted)


def test_one_stream_gives_independent_samples() -> None:
    noise = KeyedNoise(8, "stream")
    first, second = sample(100_000, 25.0, noise), sample(100_000, 25.0, noise)
    for a, b in ((first, second), (first[1:], first[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 6 / math.sqrt(len(a))


def test_a_variance_beyond_one_table_is_a_sum_of_parts() -> None:
    words = [int(word) for word in KeyedNoise(9, "parts").words(4)]
    half = sample(4, 2.0**28, Script(words))
    assert sample(2, 2.0**29, Script(words)).tolist() == (half[:2] + half[2:]).tolist()


def test_the_variance_is_not_rounded() -> None:
    """A table is of one float; its neighbour has another, and their laws differ in the last digits."""
    one, two = 4.0, math.nextafter(4.0, 5.0)
    assert boundary(0, one) != boundary(0, two)
    first, second, *_ = split(boundary(0, one))
    other = split(boundary(0, two))[0]
    assert sample(1, one, Script([first, second - 9]))[0] == 0
    assert other < first  # the wider law has less below 1
    assert sample(1, two, Script([first]))[0] == 1


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf, (MIN_SIGMA / 2) ** 2, (MAX_SIGMA * 1.001) ** 2])
def test_a_variance_out_of_range_is_refused(variance: float) -> None:
    with pytest.raises(ConfigError, match="variance of Skellam noise"):
        sample(1, variance, SystemNoise())


def test_the_limits_themselves_are_served() -> None:
    assert sample(1000, MIN_SIGMA**2, SystemNoise()).tolist() == [0] * 1000
    assert abs(sample(1, 1e10, KeyedNoise(1))[0]) < 1e6
    assert sample(0, 4.0, SystemNoise()).shape == (0,)
