"""Masked vectors look like noise to the tests that catch weak generators. Seeds are fixed: no test here is a dice.

The linear complexity of a random sequence of n bits is n/2, give or take a few; a Mersenne Twister's is at most 19,937.
"""

import hashlib
import itertools
import math

import numpy as np
import pytest

from fedmesh.secagg.masks import add_mask, expand

LENGTH = 60_000


def linear_complexity(ones):
    """Berlekamp-Massey over GF(2): polynomials are integers, and so is the sequence, its last bit low."""
    connection, previous = 1, 1
    length, since, history = 0, 1, 0
    for place, one in enumerate(ones):
        history = history << 1 | one
        if (connection & history).bit_count() & 1:
            corrected = connection ^ (previous << since)
            if 2 * length <= place:
                length, previous, since = place + 1 - length, connection, 1
            else:
                since += 1
            connection = corrected
        else:
            since += 1
    return length


def seed(*parts):
    return hashlib.sha256(repr(parts).encode()).digest()


def masked(vector, *parts):
    result = vector.copy()
    add_mask(result, seed(*parts))
    return result


def test_the_measure_finds_short_recurrences():
    assert linear_complexity([0] * 100) == 0
    assert linear_complexity([1] * 100) == 1
    assert linear_complexity([0, 0, 0, 0, 1]) == 5
    ones = [1, 0, 0, 0, 0, 0, 0]
    for place in range(7, 500):
        ones.append(ones[place - 7] ^ ones[place - 6])  # x^7 + x + 1, primitive
    assert linear_complexity(ones) == 7


def test_the_measure_finds_a_mersenne_twister():
    """What Flower 1.41 masks with: 19,937 of 60,000."""
    words = np.random.RandomState(5).randint(0, 2**32, 41_000, np.uint64)
    assert linear_complexity((words & 1).tolist()) == 19_937


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_bit_0_of_a_masked_vector_of_zeros_has_half_its_length_as_linear_complexity(dtype):
    vector = masked(np.zeros(LENGTH, dtype), "complexity", dtype.__name__)
    assert abs(linear_complexity((vector & 1).tolist()) - LENGTH // 2) <= 16


def is_uniform(octets):
    """Chi-square over 256 values within five standard deviations of its mean."""
    counts = np.bincount(octets, minlength=256)
    expected = len(octets) / 256
    chi_square = float(((counts - expected) ** 2).sum() / expected)
    return abs(chi_square - 255) < 5 * math.sqrt(2 * 255)


def octets_of(array):
    return array.view(np.uint8).reshape(len(array), -1).T


EXTREMES = {
    "zeros": np.zeros(1_000_000, np.int64),
    "largest": np.full(1_000_000, 127, np.int64),
    "alternating": np.tile([127, -127], 500_000),
    "small": np.random.default_rng(3).integers(-2, 3, 1_000_000),
}


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("name", EXTREMES)
def test_every_byte_of_a_masked_vector_is_uniform(name, dtype):
    vector = masked(EXTREMES[name].astype(dtype), "bytes", name)
    assert all(is_uniform(octets) for octets in octets_of(vector))


@pytest.mark.parametrize("name", EXTREMES)
def test_differences_between_rounds_of_one_vector_are_uniform(name):
    vector = EXTREMES[name].astype(np.uint32)
    rounds = [masked(vector, "round", number) for number in range(4)]
    for earlier, later in itertools.pairwise(rounds):
        assert all(is_uniform(octets) for octets in octets_of(later - earlier))
        assert all(is_uniform(octets) for octets in octets_of(later ^ earlier))


def test_neighbouring_elements_are_independent():
    vector = masked(np.zeros(1_000_000, np.uint16), "neighbours")
    low = (vector & 15).astype(np.uint8)
    assert is_uniform(low[:-1] << 4 | low[1:])
    assert is_uniform(low[:-64] << 4 | low[64:])


def test_seeds_that_differ_in_one_bit_give_unrelated_masks():
    first = expand(bytes(32), 500_000, np.uint16)
    for bit in (0, 7, 128, 255):
        other = (1 << bit).to_bytes(32, "little")
        assert is_uniform(((expand(other, 500_000, np.uint16) - first) & 255).astype(np.uint8))


def test_the_uniformity_test_finds_a_bias():
    """One value in fifty replaced by zero is seen."""
    vector = expand(seed("biased"), 1_000_000, np.uint16)
    vector[::50] = 0
    assert not is_uniform(octets_of(vector)[0])
