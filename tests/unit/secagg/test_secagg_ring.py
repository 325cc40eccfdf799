"""The ring: how many bits a session takes, and what does not fit."""

import math

import numpy as np
import pytest

from fedmesh.errors import SecAggError
from fedmesh.secagg.ring import Ring


@pytest.mark.parametrize(
    ("members", "weight_cap", "value_bits", "sigma", "bits"),
    [
        (100, 1, 8, 0.0, 15),  # the design's three
        (100, 255, 8, 0.0, 23),
        (100, 255, 16, 0.0, 31),
        (4, 1, 2, 0.0, 5),
        (4, 1, 1, 0.0, 4),
        (128, 255, 16, 0.0, 31),
        (128, 1, 8, 0.0, 16),  # 2^15 itself does not fit below 2^15: one bit more
        (127, 1, 8, 0.0, 15),
        (100, 1, 8, 10.0, 15),  # 2 * (12800 + 1200) = 28000
        (100, 1, 8, 29.87, 16),  # 2 * (12800 + 3584.4) = 32768.8
        (100, 1, 8, 29.86, 15),  # 2 * (12800 + 3583.2) = 32766.4
        (128, 2**40, 13, 0.0, 61),
        (128, 2**40, 14, 0.0, 62),
    ],
)
def test_the_least_width_without_overflow(members, weight_cap, value_bits, sigma, bits):
    assert Ring.bits_for(members, weight_cap, value_bits, sigma) == bits


def test_the_width_follows_its_formula_and_carries_the_weights():
    for members in (4, 7, 32, 100, 128):
        for weight_cap in (1, 2, 255, 1000):
            for value_bits in range(1, 17):
                for sigma in (0.0, 0.5, 100.0):
                    bits = Ring.bits_for(members, weight_cap, value_bits, sigma)
                    bound = 2 * (members * weight_cap * 2 ** (value_bits - 1) + 12 * sigma * math.sqrt(members))
                    assert 2 ** (bits - 1) <= bound < 2**bits
                    assert members * weight_cap <= 2 ** (bits - 1) - 1
                    assert Ring(bits).largest_value(members, weight_cap) >= 2 ** (value_bits - 1) - 1


@pytest.mark.parametrize(
    ("members", "weight_cap", "value_bits", "sigma"),
    [
        (128, 2**40, 15, 0.0),
        (100, 1, 62, 0.0),
        (100, 1, 10**9, 0.0),
        (100, 1, 8, 1e30),
        (100, 1, 8, math.inf),
        (100, 1, 8, math.nan),
        (100, 1, 8, -1.0),
        (0, 1, 8, 0.0),
        (100, 0, 8, 0.0),
        (100, 1, 0, 0.0),
    ],
)
def test_what_fits_no_ring_is_refused(members, weight_cap, value_bits, sigma):
    with pytest.raises(SecAggError) as refusal:
        Ring.bits_for(members, weight_cap, value_bits, sigma)
    assert refusal.value.code == "ring"


@pytest.mark.parametrize("bits", [1, 0, -3, 63, 64, 15.0, "15", None, True])
def test_a_ring_has_2_to_62_bits(bits):
    with pytest.raises(SecAggError, match="wanted 2 to 62") as refusal:
        Ring(bits)
    assert refusal.value.code == "ring"


@pytest.mark.parametrize(
    ("bits", "dtype"), [(2, "u2"), (15, "u2"), (16, "u2"), (17, "u4"), (32, "u4"), (33, "u8"), (62, "u8")]
)
def test_elements_are_as_narrow_as_they_can_be(bits, dtype):
    ring = Ring(bits)
    assert ring.dtype == np.dtype(dtype)
    assert ring.lift(np.array([-1, 0, 1])).dtype == ring.dtype
    assert ring.unpack(ring.pack(ring.lift(np.arange(5))), 5).dtype == ring.dtype
    assert ring.centre(ring.lift(np.arange(2))).dtype == np.int64


def test_lifting_and_centring_by_hand():
    ring = Ring(3)
    assert ring.lift(np.array([-4, -1, 0, 3, 4, 8, -9])).tolist() == [4, 7, 0, 3, 4, 0, 7]
    assert ring.centre(np.arange(8, dtype=np.uint16)).tolist() == [0, 1, 2, 3, -4, -3, -2, -1]
    assert ring.centre(np.array([8, 65535], np.uint16)).tolist() == [0, -1]
    assert ring.reduce(np.array([8, 65535], np.uint16)).tolist() == [0, 7]


def test_inputs_are_left_as_they_were():
    ring, vector, elements = Ring(4), np.array([-1, 5]), np.array([17, 3], np.uint16)
    ring.lift(vector)
    ring.reduce(elements)
    ring.centre(elements)
    ring.pack(elements)
    assert vector.tolist() == [-1, 5]
    assert elements.tolist() == [17, 3]


def test_the_largest_value_is_what_a_full_cohort_can_sum():
    assert Ring(15).largest_value(100, 1) == 163
    assert Ring(15).largest_value(100, 255) == 0
    assert Ring(62).largest_value(1, 1) == 2**61 - 1
    for bits, members, cap in ((15, 100, 1), (23, 100, 255), (31, 7, 13)):
        largest = Ring(bits).largest_value(members, cap)
        assert members * cap * largest <= 2 ** (bits - 1) - 1 < members * cap * (largest + 1)


def test_packed_elements_take_their_bits():
    vector = np.zeros(1_000_000, np.int64)
    assert len(Ring(15).pack(Ring(15).lift(vector))) == 15 * 125_000
    assert len(Ring(23).pack(Ring(23).lift(vector))) == 23 * 125_000


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint16, np.bool_])
def test_an_input_is_int64(dtype):
    with pytest.raises(SecAggError, match="int64") as refusal:
        Ring(15).lift(np.zeros(3, dtype))
    assert refusal.value.code == "input"


@pytest.mark.parametrize("data", [b"", bytes(5), bytes(7), b"\x00\x00" + b"\xff" * 4])
def test_bytes_of_another_length_or_with_bits_behind_the_end_are_refused(data):
    with pytest.raises(SecAggError, match="masked vector") as refusal:
        Ring(12).unpack(data, 2)
    assert refusal.value.code == "malformed"
