import ast
import copy
import os
import pickle
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

import fedmesh.privacy
from fedmesh.errors import ConfigError
from fedmesh.privacy import KeyedNoise, SystemNoise
from fedmesh.privacy.noise import draw_words


def test_the_same_seed_and_labels_repeat_the_draws() -> None:
    first, second = KeyedNoise(3, "round", 5), KeyedNoise(3, "round", 5)
    for size in (10, 100_001, 3):
        assert (first.normal(size) == second.normal(size)).all()
        assert (first.uniform(size) == second.uniform(size)).all()


@pytest.mark.parametrize(
    "other",
    [(4, "a", 1), (3, "b", 1), (3, "a", 2), (3, "a"), (3, "a", 1, ""), (3, "a", "1"), (3, 1, "a"), (3, "a1"), (3,)],
)
def test_any_other_seed_or_labels_give_independent_draws(other: tuple[int, ...]) -> None:
    one, two = KeyedNoise(3, "a", 1).normal(4000), KeyedNoise(*other).normal(4000)
    assert not np.isin(one, two).any()
    assert abs(np.corrcoef(one, two)[0, 1]) < 6 / np.sqrt(4000)


def test_labels_do_not_run_together() -> None:
    assert (KeyedNoise(1, "ab", "c").normal(4) != KeyedNoise(1, "a", "bc").normal(4)).all()


def test_keyed_draws_are_pinned() -> None:
    """Golden values: a run of last year can be repeated. Normals only to the last bits, which are the processor's."""
    noise = KeyedNoise(1, "golden", 2)
    assert noise.uniform(2).tolist() == pytest.approx(GOLDEN_UNIFORMS, abs=0)
    assert noise.normal(2).tolist() == pytest.approx(GOLDEN_NORMALS, rel=1e-14)


def test_words_are_the_stream_that_uniforms_are_made_of() -> None:
    words, uniforms = KeyedNoise(1, "words"), KeyedNoise(1, "words")
    for size in (5, 40_000, 1):
        assert ((words.words(size) >> np.uint64(11)) * 2.0**-53 == uniforms.uniform(size)).all()


def test_a_numpy_generator_draws_words_of_64_bits_for_tests() -> None:
    words = draw_words(np.random.default_rng(1), 1000)
    assert words.dtype == np.uint64
    assert words.max() >= 1 << 63


GOLDEN_UNIFORMS = [0.9775840988984964, 0.2719683643144343]
GOLDEN_NORMALS = [-0.11122733062842585, 1.4232180158697965]


def test_normals_follow_the_normal_law_in_the_bulk() -> None:
    """Chi-square over 64 equally likely cells at a million draws: mean 63, standard deviation 11.2."""
    edges = [NormalDist().inv_cdf(k / 64) for k in range(1, 64)]
    counts = np.bincount(np.searchsorted(edges, KeyedNoise(11, "chi-square").normal(1_000_000)), minlength=64)
    expected = 1_000_000 / 64
    assert 30 < ((counts - expected) ** 2 / expected).sum() < 110


@pytest.mark.parametrize("sigma", [3.0, 4.0, 4.5])
def test_normals_follow_the_normal_law_in_the_tails(sigma: float) -> None:
    draws = KeyedNoise(12, "tails").normal(4_000_000)
    expected = len(draws) * 2 * NormalDist().cdf(-sigma)
    assert abs(np.count_nonzero(np.abs(draws) > sigma) - expected) < 5 * np.sqrt(expected)


def test_the_two_normals_of_a_pair_are_independent() -> None:
    draws = KeyedNoise(13, "pairs").normal(1 << 15)
    cosines, sines = draws[: 1 << 14], draws[1 << 14 :]
    for power in (1, 2):
        assert abs(np.corrcoef(cosines**power, sines**power)[0, 1]) < 6 / 128


def test_low_bits_of_normals_are_used() -> None:
    """Rounded to float32, the draws leave no value out near 1: the holes of a coarse generator would show here."""
    draws = KeyedNoise(14, "low-bits").normal(1_000_000)
    mantissas = (np.abs(draws[(np.abs(draws) >= 1) & (np.abs(draws) < 2)]) - 1) * 2**23
    low = np.bincount(np.round(mantissas).astype(np.int64) % 256, minlength=256)
    expected = low.sum() / 256
    assert 150 < ((low - expected) ** 2 / expected).sum() < 370  # mean 255, standard deviation 22.6


def test_the_system_does_not_repeat_itself() -> None:
    assert (SystemNoise().normal(100) != SystemNoise().normal(100)).all()


def test_a_forked_process_draws_other_system_noise() -> None:
    noise = SystemNoise()
    noise.normal(10)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, noise.normal(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reader, 32))
    os.close(reader)
    os.close(writer)
    assert (theirs != noise.normal(4)).all()


def test_neither_seed_nor_key_shows() -> None:
    noise = KeyedNoise(987654321, "label")
    assert "987654321" not in repr(noise)
    assert "987654321" not in str(vars(noise))
    with pytest.raises(TypeError):
        pickle.dumps(noise)
    with pytest.raises(TypeError):
        copy.deepcopy(noise)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="-1"):
        KeyedNoise(-1)


def test_a_seed_of_any_size_counts_in_full() -> None:
    assert (KeyedNoise(2**300).normal(4) != KeyedNoise(2**300 + 1).normal(4)).all()


def test_no_module_of_privacy_draws_from_numpy_or_torch() -> None:
    forbidden = {"random", "randn", "rand", "randint", "randperm", "default_rng", "bernoulli", "manual_seed", "normal_"}
    for path in Path(fedmesh.privacy.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            assert name not in forbidden, f"{path.name}:{node.lineno} uses {name}"
