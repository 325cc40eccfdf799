"""Which bytes packed integers are, and what is refused."""

import numpy as np
import pytest

from fedmesh.errors import DecodeError
from fedmesh.wire import bits

# Golden bytes: worked out by hand from the layout in the module. Only added to, never edited.
GOLDEN = [
    ([], 7, "u2", ""),
    ([1], 1, "u1", "01"),
    ([1, 0, 1, 1, 0, 0, 0, 0, 1], 1, "u2", "0d01"),
    ([1, 2, 3], 2, "u1", "0506"),
    ([0, 5, 7], 3, "u8", "060406"),
    ([0x12, 0xFE], 8, "u2", "12fe"),
    ([0x101, 0x0FF, 0x1AB], 9, "u2", "01ffab05"),
    ([0x7FFF, 0x0001, 0x4280], 15, "u2", "ff018001" + "05" + "01" * 4 + "05"),
    ([0x0102, 0xA0B0], 16, "u2", "02b001a0"),
    ([0x010203, 0x1FFFFF], 21, "u4", "03ff02ff" + "0302020202"),
    ([0x0102030405060708], 64, "u8", "0807060504030201"),
    ([0x2000000000000001], 62, "u8", "01000000000000" + "000000000001"),
]


@pytest.mark.parametrize(("values", "width", "dtype", "packed"), GOLDEN, ids=lambda v: None)
def test_golden_bytes(values, width, dtype, packed):
    array = np.array(values, dtype)
    assert bits.pack(array, width).hex() == packed
    again = bits.unpack(bytes.fromhex(packed), len(values), width, dtype)
    assert again.dtype == np.dtype(dtype)
    assert np.array_equal(again, array)


@pytest.mark.parametrize("width", range(1, 65))
def test_length_is_the_bits_and_less_than_a_byte_for_each_bit_plane(width):
    for count in (0, 1, 7, 8, 9, 1000):
        length = bits.packed_bytes(count, width)
        assert length == len(bits.pack(np.zeros(count, np.uint64), width))
        assert 0 <= length - (count * width + 7) // 8 < max(width % 8, 1)


@pytest.mark.parametrize(("width", "dtype"), [(1, "u1"), (8, "u1"), (15, "u2"), (23, "u4"), (42, "u8"), (64, "u8")])
def test_chunks_join_without_a_seam(width, dtype):
    count = 3 * (1 << 19) // np.dtype(dtype).itemsize + 13
    values = np.random.default_rng(width).integers(0, 1 << width, count, np.uint64).astype(dtype)
    packed = bits.pack(values, width)
    assert np.array_equal(bits.unpack(packed, count, width, dtype), values)
    whole = bits.packed_bytes(8, width)
    assert bits.pack(values[:8], width) == b"".join(_of_first_values(packed, count, width))
    assert len(b"".join(_of_first_values(packed, count, width))) == whole


def _of_first_values(packed, count, width):
    """The bytes of the first eight values in every plane."""
    for plane in range(width // 8):
        yield packed[plane * count :][:8]
    for plane in range(width % 8):
        yield packed[width // 8 * count + plane * ((count + 7) // 8) :][:1]


def test_strided_and_foreign_arrays_pack_like_their_values():
    values = np.arange(40, dtype=np.uint16)
    assert bits.pack(values[::-3], 6) == bits.pack(values[::-3].copy(), 6)
    assert bits.pack(values.astype(">u2"), 11) == bits.pack(values, 11)


def test_the_result_is_writable_and_apart_from_the_data():
    data = bytearray(b"\x01\x02")
    values = bits.unpack(memoryview(data), 2, 8, "u1")
    values += np.uint8(1)
    assert values.tolist() == [2, 3]
    assert data == b"\x01\x02"


@pytest.mark.parametrize("length", [0, 1, 7, 9, 1000])
def test_a_wrong_length_is_refused(length):
    with pytest.raises(DecodeError, match=f"{length} bytes arrived where 4 values of 15 bits take 11"):
        bits.unpack(bytes(length), 4, 15, np.uint16)


@pytest.mark.parametrize("width", [1, 7, 9, 15, 63])
def test_a_bit_behind_the_last_value_is_refused(width):
    packed = bytearray(bits.pack(np.zeros(5, np.uint64), width))
    for plane in range(width % 8):
        for bit in range(5, 8):
            altered = packed.copy()
            altered[width // 8 * 5 + plane] |= 1 << bit
            with pytest.raises(DecodeError, match="behind the last value"):
                bits.unpack(altered, 5, width, np.uint64)


@pytest.mark.parametrize(("width", "dtype"), [(0, "u2"), (65, "u8"), (17, "u2"), (-1, "u2"), (8, "i8"), (8, "f8")])
def test_a_width_that_no_type_has_is_the_callers_mistake(width, dtype):
    with pytest.raises(ValueError, match="1 to 64 bits"):
        bits.pack(np.zeros(3, dtype), width)
    with pytest.raises(ValueError, match="1 to 64 bits"):
        bits.unpack(bytes(3), 3, width, dtype)


def test_only_vectors_are_packed():
    with pytest.raises(ValueError, match="one dimension"):
        bits.pack(np.zeros((2, 2), np.uint16), 3)
