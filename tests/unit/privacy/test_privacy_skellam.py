import math
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import chi2

from fedmesh.errors import ConfigError
from fedmesh.privacy import KeyedNoise, SystemNoise
from fedmesh.privacy.rotation import rotate
from fedmesh.privacy.skellam import decode, encode, noise, round_examples, saturate, sensitivity

SEED = b"public"


def coded(x: Any, *, clip: float = 1.0, gamma: float = 1e-3, sigma: float = 0.0, label: int | str = 0) -> np.ndarray:
    """`x` as a device of that name would send it."""
    rng = KeyedNoise(1, "encode", label)
    return encode(x, clip=clip, gamma=gamma, sigma_local=sigma, seed_rotation=SEED, rng=rng)


def opened(total: np.ndarray, size: int, *, gamma: float = 1e-3) -> np.ndarray:
    return decode(total, gamma=gamma, seed_rotation=SEED, size=size)


class HalfUp:
    """Coins that round to the nearest integer, so that a row becomes the same whatever rows there are besides."""

    def words(self, size: int) -> np.ndarray:
        return np.full(size, 0x8000_0000_8000_0000, np.uint64)


def vector(size: int, norm: float, seed: int = 1) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=size)
    return (x * (norm / np.linalg.norm(x))).astype(np.float32)


def slow_encode(x: np.ndarray, clip: float, gamma: float, words: np.ndarray) -> list[int]:
    """Clip, rotate, divide, go up or down: one coordinate at a time, the likely case without a second try."""
    norm = math.sqrt(sum(float(v) ** 2 for v in x))
    scaled = [[float(v) * min(1.0, clip / norm) / gamma for v in x]]
    grid = rotate(np.array(scaled), (np.ones(1), np.ones(1)), SEED)[0]
    halves = words.view(np.uint32)
    return [math.floor(value + int(half) / 2**32) for value, half in zip(grid, halves, strict=True)]


@pytest.mark.parametrize("norm", [0.5, 1.0, 30.0])
def test_encode_is_clip_rotate_divide_round(norm: float) -> None:
    x = vector(200, norm)
    words = KeyedNoise(1, "encode", 0).words(128)
    assert coded(x).tolist() == slow_encode(x, 1.0, 1e-3, words)


def test_noise_is_added_after_rounding_from_the_same_source() -> None:
    x, rng = vector(200, 0.5), KeyedNoise(1, "encode", 0)
    plain = encode(x, clip=1.0, gamma=1e-3, sigma_local=0.0, seed_rotation=SEED, rng=rng)
    assert (coded(x, sigma=0.05) == plain + noise(256, variance=(0.05 / 1e-3) ** 2, rng=rng)).all()


@pytest.mark.parametrize("size", [1, 2, 3, 100, 4097])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sum_of_encoded_vectors_decodes_to_the_sum_of_vectors(size: int, dtype: type) -> None:
    vectors = [vector(size, 0.9, seed).astype(dtype) for seed in range(8)]
    total = sum(coded(x, label=number) for number, x in enumerate(vectors))
    assert total.dtype == np.int64
    error = opened(total, size) - np.sum(vectors, axis=0)
    assert error.shape == (size,)
    assert np.linalg.norm(error) <= 8 * 1e-3 * math.sqrt(len(total))


def test_rounding_is_unbiased() -> None:
    x = vector(50, 0.8)
    rows = np.tile(x, (20_000, 1))
    total = round_examples(rows, clip=1.0, gamma=0.01, seed_rotation=SEED, rng=KeyedNoise(3))
    error = opened(total, 50, gamma=0.01) / len(rows) - x
    assert np.abs(error).max() < 6 * 0.01 * 0.5 / math.sqrt(len(rows))


@pytest.mark.parametrize("clip", [1e-3, 1.0, 100.0])
def test_an_input_a_hundred_times_the_clip_moves_the_sum_by_the_clip(clip: float) -> None:
    """Rounding may add up to what `sensitivity` says, here 2 %; the noise of the others is the same in both sums."""
    gamma, size = clip / 1000, 1000
    others = sum(coded(vector(size, clip, s), clip=clip, gamma=gamma, sigma=clip / 5, label=s) for s in range(5))
    mine = coded(vector(size, 100 * clip), clip=clip, gamma=gamma, label="mine")
    moved = opened(others + mine, size, gamma=gamma) - opened(others, size, gamma=gamma)
    bound = sensitivity(clip, gamma, len(mine)).l2 * gamma
    assert 0.99 * clip < np.linalg.norm(moved) <= bound * (1 + 1e-12)
    assert bound < 1.02 * clip


@pytest.mark.parametrize("value", [1e9, -3e38, 1e300, 1.7e308])
def test_one_huge_weight_is_bounded(value: float) -> None:
    x = np.zeros(100)
    x[7] = value
    back = opened(coded(x), 100)
    np.testing.assert_allclose(back[7], math.copysign(1.0, value), atol=0.02)
    assert np.linalg.norm(back) < 1.02


def test_many_huge_weights_are_bounded() -> None:
    assert np.linalg.norm(opened(coded(np.full(1000, 1.7e308)), 1000)) < 1.02
    assert np.linalg.norm(opened(coded(np.full(1000, np.finfo(np.float32).max, np.float32)), 1000)) < 1.02


def test_tiny_weights_vanish_without_harm() -> None:
    for value in (0.0, 5e-324, 1e-200):
        assert np.abs(coded(np.full(100, value))).max() <= 1


def test_a_clip_as_small_as_floats_go_still_bounds() -> None:
    x = np.full(4, 1e-160)  # its square is no float
    values = encode(x, clip=1e-300, gamma=1e-303, sigma_local=0.0, seed_rotation=SEED, rng=KeyedNoise(1))
    assert np.linalg.norm(values) <= sensitivity(1e-300, 1e-303, 4).l2
    assert np.linalg.norm(values) > 990


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_not_finite_counts_as_zero(broken: float) -> None:
    x = vector(100, 5.0)
    x[[3, 50]] = broken
    assert not coded(x).any()
    assert (coded(x, sigma=0.1) == coded(np.zeros(100), sigma=0.1)).all()


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_the_length_does_not_depend_on_the_data(sigma: float) -> None:
    inputs = [np.zeros(300), vector(300, 1.0), vector(300, 1e9), np.full(300, math.nan), np.eye(1, 300)[0] * 1e30]
    assert {coded(x, sigma=sigma).shape for x in inputs} == {(512,)}


def test_the_noise_of_zero_inputs_has_the_variance_asked_for() -> None:
    size = 1 << 20
    for ratio in (2.0, 250.0):
        drawn = coded(np.zeros(size, np.float32), gamma=0.01, sigma=0.01 * ratio)
        assert abs(drawn.var() / ratio**2 - 1) < 0.007  # five standard errors
        assert abs(drawn.mean()) < 5 * ratio / math.sqrt(size)


@pytest.mark.parametrize("survivors", [1, 3, 10])
def test_the_variance_of_a_sum_is_that_of_its_survivors(survivors: int) -> None:
    size = 1 << 18
    total = sum(coded(np.zeros(size), gamma=0.1, sigma=1.3, label=n) for n in range(survivors))
    assert abs(opened(total, size, gamma=0.1).var() / (survivors * 1.3**2) - 1) < 0.014  # five standard errors


def test_a_million_zeros_with_sigma_2_pass_chi_square_against_the_exact_law() -> None:
    drawn = coded(np.zeros(1 << 20), gamma=0.5, sigma=1.0, label="chi-square")
    counts = np.bincount(np.clip(drawn, -10, 10) + 10, minlength=21)
    law = np.array([ive(abs(k), 4.0) for k in range(-10, 11)])
    law[[0, -1]] += (1 - law.sum()) / 2
    statistic = ((counts - law * len(drawn)) ** 2 / (law * len(drawn))).sum()
    assert chi2.sf(statistic, 20) > 1e-4


def test_the_noise_of_a_sum_of_devices_is_skellam_again() -> None:
    total = sum(coded(np.zeros(1 << 18), gamma=1.0, sigma=1.0, label=n) for n in range(4))
    counts = np.bincount(np.clip(total, -9, 9) + 9, minlength=19)
    law = np.array([ive(abs(k), 4.0) for k in range(-9, 10)])
    law[[0, -1]] += (1 - law.sum()) / 2
    statistic = ((counts - law * len(total)) ** 2 / (law * len(total))).sum()
    assert chi2.sf(statistic, 18) > 1e-4


def test_examples_are_each_clipped_and_summed() -> None:
    rows = np.stack([vector(60, norm, seed) for seed, norm in enumerate([0.1, 0.9, 5.0, 1e20])])
    clipped = rows / np.maximum(1.0, np.linalg.norm(rows.astype(float), axis=1, keepdims=True))
    total = round_examples(rows, clip=1.0, gamma=1e-4, seed_rotation=SEED, rng=KeyedNoise(4))
    assert np.linalg.norm(opened(total, 60, gamma=1e-4) - clipped.sum(axis=0)) < 4 * 1e-4 * 8


def test_removing_an_example_changes_the_sum_by_at_most_delta_2() -> None:
    rows = np.stack([vector(60, 3.0, seed) for seed in range(20)])
    rows[4, 5], rows[11, 0] = math.nan, 1e30
    parameters = {"clip": 1.0, "gamma": 0.05, "seed_rotation": SEED}
    bound = sensitivity(1.0, 0.05, 64)
    for number in range(20):
        alone = round_examples(rows[number : number + 1], rng=KeyedNoise(5, number), **parameters)
        assert int((alone**2).sum()) <= bound.square_limit
        assert np.abs(alone).sum() <= bound.l1

    whole = round_examples(rows, rng=HalfUp(), **parameters)
    for number in range(20):
        change = whole - round_examples(np.delete(rows, number, axis=0), rng=HalfUp(), **parameters)
        assert int((change**2).sum()) <= bound.square_limit
        assert np.linalg.norm(change) > 15 or (number == 4 and not change.any())


def test_examples_that_are_not_finite_leave_the_others_alone() -> None:
    rows = np.stack([vector(30, 1.0, seed) for seed in range(3)])
    broken = np.vstack([rows, np.full((2, 30), math.inf)])
    broken[4, 3:] = 1.0
    common = {"clip": 1.0, "gamma": 1e-3, "seed_rotation": SEED}
    one = round_examples(rows, rng=KeyedNoise(7), **common)
    assert (round_examples(broken, rng=KeyedNoise(7), **common) == one).all()


def test_examples_in_blocks_are_summed_as_one() -> None:
    """5000 rows of 128 take three blocks."""
    rows = np.tile(vector(100, 1.0), (5000, 1))
    total = round_examples(rows, clip=1.0, gamma=1e-4, seed_rotation=SEED, rng=KeyedNoise(8))
    np.testing.assert_allclose(opened(total, 100, gamma=1e-4) / 5000, rows[0], atol=1e-5)


def test_no_examples_give_zeros() -> None:
    total = round_examples(np.zeros((0, 5)), clip=1.0, gamma=1.0, seed_rotation=SEED, rng=SystemNoise())
    assert total.tolist() == [0] * 8


def test_saturate_clips_and_brings_closer() -> None:
    values = np.array([-9, -3, 0, 3, 9])
    assert saturate(values, 3).tolist() == [-3, -3, 0, 3, 3]
    assert saturate(values, 0).tolist() == [0] * 5
    with pytest.raises(ConfigError, match="limit"):
        saturate(values, -1)


def test_noise_alone() -> None:
    assert noise(5, variance=0, rng=SystemNoise()).tolist() == [0] * 5
    assert noise(1 << 16, variance=9.0, rng=SystemNoise()).var() == pytest.approx(9, rel=0.05)


def test_a_numpy_generator_serves_tests() -> None:
    x = vector(10, 0.5)
    rng = np.random.default_rng(1)
    values = encode(x, clip=1.0, gamma=1e-3, sigma_local=0.01, seed_rotation=5, rng=rng)
    assert np.abs(decode(values, gamma=1e-3, seed_rotation=5, size=10) - x).max() < 0.06


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": 0.0}, "clip is"),
        ({"gamma": math.nan}, "gamma is"),
        ({"gamma": 1e-12}, "raise gamma"),
        ({"sigma_local": -1.0}, "sigma_local"),
        ({"sigma_local": math.nan}, "sigma_local"),
        ({"sigma_local": 1e9}, "variance"),
        ({"delta": np.zeros((2, 3))}, "shape"),
        ({"delta": np.zeros(0)}, "0 values"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    right = {"delta": np.ones(8), "clip": 1.0, "gamma": 1e-2, "sigma_local": 0.1, "seed_rotation": b"", "rng": None}
    with pytest.raises(ConfigError, match=message):
        encode(**{**right, "rng": KeyedNoise(1), **change})


def test_a_sum_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape \(8,\).*16"):
        decode(np.zeros(8, np.int64), gamma=1.0, seed_rotation=b"", size=9)
    with pytest.raises(ConfigError, match="rows of a matrix"):
        round_examples(np.zeros(8), clip=1.0, gamma=1.0, seed_rotation=b"", rng=KeyedNoise(1))


def test_memory_is_a_few_vectors() -> None:
    x = vector(1 << 18, 1.0)
    coded(x, sigma=0.05)  # the table is made
    tracemalloc.start()
    coded(x, sigma=0.05)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * len(x)


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; from fedmesh.privacy.skellam import encode, decode;"
        "sys.exit(str({'torch', 'opacus', 'dp_accounting', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stderr.strip() == "set()"
