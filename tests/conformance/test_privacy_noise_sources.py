"""What every NoiseSource promises."""

import numpy as np
import pytest

from fedmesh.privacy import KeyedNoise, NoiseSource, SystemNoise

SOURCES = [pytest.param(SystemNoise, id="system"), pytest.param(lambda: KeyedNoise(7, "conformance"), id="keyed")]


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> NoiseSource:
    return request.param()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 32767, 32768, 32769, 70001])
def test_draws_have_the_size_and_type_asked_for(source: NoiseSource, size: int) -> None:
    for draw in (source.normal(size), source.uniform(size)):
        assert draw.shape == (size,)
        assert draw.dtype == np.float64
        assert draw.flags.writeable
        assert np.isfinite(draw).all()


def test_uniforms_are_multiples_of_two_to_the_minus_53_below_one(source: NoiseSource) -> None:
    u = source.uniform(100_000)
    assert u.min() >= 0
    assert u.max() < 1
    assert (u * 2**53 == np.floor(u * 2**53)).all()
    assert abs(u.mean() - 0.5) < 6 * np.sqrt(1 / 12 / len(u))  # six standard errors: one run in 5e8 fails by chance


def test_normals_have_the_moments_of_the_standard_normal(source: NoiseSource) -> None:
    x = source.normal(200_000)
    error = 6 / np.sqrt(len(x))
    assert abs(x.mean()) < error
    assert abs(x.var() - 1) < error * np.sqrt(2)
    assert abs((x**4).mean() - 3) < error * np.sqrt(96)


def test_no_call_repeats_another(source: NoiseSource) -> None:
    draws = np.concatenate([source.normal(1000) for _ in range(4)] + [source.uniform(1000) for _ in range(4)])
    assert len(np.unique(draws)) == len(draws)


def test_the_kind_is_one_of_two(source: NoiseSource) -> None:
    assert source.kind in {"system", "keyed"}


@pytest.mark.parametrize("size", [0, 1, 32767, 32768, 32769, 70001])
def test_words_have_the_size_and_type_asked_for(source: NoiseSource, size: int) -> None:
    words = source.words(size)
    assert words.shape == (size,)
    assert words.dtype == np.uint64
    assert words.flags.writeable


def test_all_bits_of_words_are_fair_and_independent_of_their_neighbours(source: NoiseSource) -> None:
    words = source.words(100_000)
    bits = np.unpackbits(words.view(np.uint8)).reshape(len(words), 64)
    error = 6.5 / 2 / np.sqrt(len(words))
    assert (np.abs(bits.mean(axis=0) - 0.5) < error).all()
    assert (np.abs((bits[1:] ^ bits[:-1]).mean(axis=0) - 0.5) < error).all()
    assert (np.abs((bits[:, 1:] ^ bits[:, :-1]).mean(axis=0) - 0.5) < error).all()


def test_no_words_come_twice(source: NoiseSource) -> None:
    words = np.concatenate([source.words(40_000) for _ in range(3)])
    assert len(np.unique(words)) == len(words)
