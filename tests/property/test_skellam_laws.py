"""Laws of the distributed Skellam mechanism, for every vector that a device can hand in."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmesh.privacy import KeyedNoise
from fedmesh.privacy.skellam import decode, dimension, encode, noise, round_examples, saturate, sensitivity

ANY = st.floats(allow_nan=True, allow_infinity=True)
VECTORS = arrays(np.float64, st.integers(1, 40), elements=ANY)
PLAIN = arrays(np.float64, st.integers(1, 40), elements=st.floats(-10, 10))
CLIPS = st.sampled_from([1e-6, 0.3, 1.0, 1e4])
STEPS = st.sampled_from([1e-4, 0.03, 0.7, 3.0])
"""gamma in units of the clip."""
SEEDS = st.integers(0, 2**64) | st.binary(max_size=40)
INTEGERS = arrays(np.int64, 16, elements=st.integers(-(2**20), 2**20))


@settings(deadline=None, max_examples=100)
@given(VECTORS, CLIPS, STEPS, SEEDS, st.integers(0, 9))
def test_no_vector_is_longer_than_its_sensitivity(
    x: np.ndarray, clip: float, step: float, seed: int | bytes, label: int
) -> None:
    gamma = clip * step
    with np.errstate(all="raise", under="ignore"):
        values = encode(x, clip=clip, gamma=gamma, sigma_local=0, seed_rotation=seed, rng=KeyedNoise(1, label))
    bound = sensitivity(clip, gamma, dimension(len(x)))
    assert values.shape == (dimension(len(x)),)
    assert values.dtype == np.int64
    assert sum(int(v) ** 2 for v in values) <= bound.square_limit
    assert sum(abs(int(v)) for v in values) <= bound.l1 * (1 + 1e-12)
    if not np.isfinite(x).all():
        assert not values.any()


@settings(deadline=None, max_examples=100)
@given(PLAIN, CLIPS, STEPS, SEEDS)
def test_decoding_gives_the_clipped_vector_back_within_the_grid(
    x: np.ndarray, clip: float, step: float, seed: int | bytes
) -> None:
    """Every rotated coordinate is off by less than one step, so the vector by less than sqrt(d) steps."""
    gamma = clip * step
    values = encode(x, clip=clip, gamma=gamma, sigma_local=0, seed_rotation=seed, rng=KeyedNoise(2))
    clipped = x * min(1.0, clip / max(float(np.linalg.norm(x)), 1e-300))
    back = decode(values, gamma=gamma, seed_rotation=seed, size=len(x))
    assert np.linalg.norm(back - clipped) <= gamma * math.sqrt(len(values)) * (1 + 1e-9)


@settings(deadline=None, max_examples=60)
@given(INTEGERS, INTEGERS, SEEDS, st.integers(9, 16))
def test_decoding_is_linear(a: np.ndarray, b: np.ndarray, seed: int | bytes, size: int) -> None:
    """decode(a + b) == decode(a) + decode(b) but for float rounding."""
    whole, one, two = (decode(v, gamma=0.5, seed_rotation=seed, size=size) for v in (a + b, a, b))
    np.testing.assert_allclose(whole, one + two, atol=1e-8)


@settings(deadline=None, max_examples=60)
@given(st.lists(PLAIN.map(lambda x: np.resize(x, 20)), min_size=1, max_size=6), st.integers(16, 40))
def test_a_sum_in_the_ring_is_the_exact_sum(vectors: list[np.ndarray], bits: int) -> None:
    """Mod 2^bits and lifted around zero, whatever the order: as long as the sum fits, nothing is lost."""
    coded = [
        encode(x, clip=1.0, gamma=0.01, sigma_local=0.05, seed_rotation=3, rng=KeyedNoise(3, number))
        for number, x in enumerate(vectors)
    ]
    wrapped = sum(values % (1 << bits) for values in coded) % (1 << bits)
    half = 1 << (bits - 1)
    lifted = (wrapped + half) % (1 << bits) - half
    assert (lifted == sum(coded)).all()


@settings(deadline=None, max_examples=100)
@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 20)), elements=ANY), STEPS)
def test_an_example_adds_no_more_than_the_sensitivity(rows: np.ndarray, gamma: float) -> None:
    """The sum over rows is the sum of what each row adds alone: none sees another."""
    bound = sensitivity(1.0, gamma, dimension(rows.shape[1]))
    parameters = {"clip": 1.0, "gamma": gamma, "seed_rotation": 7}
    alone = [round_examples(row[np.newaxis], rng=KeyedNoise(4, n), **parameters) for n, row in enumerate(rows)]
    total = round_examples(rows, rng=KeyedNoise(5), **parameters)
    for values in alone:
        assert int((values**2).sum()) <= bound.square_limit
    assert math.sqrt(int(((total - sum(alone)) ** 2).sum())) <= 2 * len(rows) * math.sqrt(len(total))


@settings(deadline=None, max_examples=100)
@given(INTEGERS, INTEGERS, st.integers(0, 2**20))
def test_saturation_moves_no_two_vectors_apart(a: np.ndarray, b: np.ndarray, limit: int) -> None:
    before, after = np.abs(a - b), np.abs(saturate(a, limit) - saturate(b, limit))
    assert (after <= before).all()
    assert np.abs(saturate(a, limit)).max() <= limit
    inside = np.abs(a) <= limit
    assert (saturate(a, limit)[inside] == a[inside]).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.floats(1e-9, 1e4), st.integers(0, 2**32))
def test_noise_repeats_with_its_key_and_has_its_length(d: int, variance: float, seed: int) -> None:
    first, second = (noise(d, variance=variance, rng=KeyedNoise(seed)) for _ in range(2))
    assert first.shape == (d,)
    assert (first == second).all()
    assert (np.abs(first) <= 20 * math.sqrt(variance) + 20).all()
