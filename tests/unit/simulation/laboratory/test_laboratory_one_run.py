import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedmesh.errors import ConfigError
from fedmesh.simulation.laboratory.one_run import best_bound, count_right, lower_bound, p_value


def slow_p_value(canaries, guesses, right, epsilon, delta):
    """The theorem, term by term."""
    share = math.exp(epsilon) / (1 + math.exp(epsilon))
    pmf = [math.comb(guesses, k) * share**k * (1 - share) ** (guesses - k) for k in range(guesses + 1)]
    tail = sum(pmf[right:])
    steepest = max((sum(pmf[right - i : right]) / i for i in range(1, right + 1)), default=0.0)
    return min(1.0, tail + 2 * canaries * delta * steepest)


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "delta", "published"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_published_bounds(canaries, guesses, right, delta, published):
    assert lower_bound(canaries, guesses, right, delta=delta) == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize("guesses", [10, 100, 1000])
def test_all_right_has_a_closed_form_without_delta(guesses):
    closed = -math.log(0.05 ** (-1 / guesses) - 1)
    assert lower_bound(guesses, guesses, guesses, delta=0.0) == pytest.approx(closed, abs=1e-6)


def test_without_delta_it_is_a_binomial_tail():
    share = math.exp(0.7) / (1 + math.exp(0.7))
    expected = stats.binom.sf(69, 100, share)
    assert p_value(1000, 100, 70, epsilon=0.7, delta=0.0) == pytest.approx(expected, rel=1e-12)


@given(
    guesses=st.integers(0, 25),
    missed=st.integers(0, 25),
    abstained=st.integers(0, 50),
    epsilon=st.floats(0, 5),
    delta=st.floats(0, 0.01),
)
def test_the_bound_is_the_theorem(guesses, missed, abstained, epsilon, delta):
    right, canaries = max(0, guesses - missed), guesses + abstained
    fast = p_value(canaries, guesses, right, epsilon=epsilon, delta=delta)
    assert fast == pytest.approx(slow_p_value(canaries, guesses, right, epsilon, delta), rel=1e-9, abs=1e-12)


def test_the_bound_grows_with_right_guesses_and_falls_with_delta_and_confidence():
    by_right = [lower_bound(500, 100, right, delta=1e-5) for right in range(50, 101, 5)]
    by_guesses = [lower_bound(500, count, count, delta=1e-5) for count in (1, 5, 20, 100, 500)]
    by_delta = [lower_bound(500, 100, 90, delta=delta) for delta in (0.0, 1e-6, 1e-4, 1e-3)]
    by_confidence = [lower_bound(500, 100, 90, delta=1e-5, confidence=c) for c in (0.5, 0.9, 0.99)]
    assert by_right == sorted(by_right)
    assert by_guesses == sorted(by_guesses)
    assert by_delta == sorted(by_delta, reverse=True)
    assert by_confidence == sorted(by_confidence, reverse=True)
    assert by_right[0] == 0.0


def test_guesses_by_coin_refute_nothing():
    rng = np.random.default_rng(1)
    bounds = [best_bound(rng.normal(size=1000), rng.random(1000) < 0.5, delta=1e-5).epsilon for _ in range(40)]
    assert sum(bound > 0 for bound in bounds) <= 5


def test_randomized_response_is_not_refuted():
    rng = np.random.default_rng(2)
    included = rng.random(4000) < 0.5
    told = np.where(rng.random(4000) < 1 / (1 + math.exp(-1.0)), included, ~included)
    found = best_bound(told.astype(float), included, delta=0.0)
    assert 0.7 < found.epsilon <= 1.0


def test_both_ends_of_the_ranking_are_guessed():
    scores, included = np.array([3.0, -1.0, 2.0, 0.0]), np.array([True, False, False, True])
    assert count_right(scores, included, 1) == 2
    assert count_right(scores, included, 2) == 2


def test_what_are_no_guesses_is_refused():
    with pytest.raises(ConfigError, match="no counts"):
        lower_bound(10, 11, 5, delta=0.0)
    with pytest.raises(ConfigError, match="not a number"):
        best_bound(np.array([0.0, math.nan]), np.array([True, False]), delta=0.0)
    with pytest.raises(ConfigError, match="2 canaries"):
        best_bound(np.zeros(3), np.zeros(2, bool), delta=0.0)
    with pytest.raises(ConfigError, match="delta"):
        p_value(10, 5, 5, epsilon=1.0, delta=1.0)
    with pytest.raises(ConfigError, match="confidence"):
        lower_bound(10, 5, 5, delta=0.0, confidence=1.0)
    with pytest.raises(ConfigError, match="negative"):
        p_value(10, 5, 5, epsilon=-1.0, delta=0.0)
