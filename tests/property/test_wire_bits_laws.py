"""Packing is a bijection between values mod 2^b and strings of bytes, and agrees with its slow, obvious twin."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedmesh.errors import DecodeError
from fedmesh.wire import bits

WIDTHS = st.integers(1, 64)
NUMBERS = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1]), max_size=70)


def slow_pack(values, width):
    """The layout, bit by bit."""
    whole, rest = divmod(width, 8)
    octets = [value >> (8 * plane) & 255 for plane in range(whole) for value in values]
    for plane in range(rest):
        for start in range(0, len(values), 8):
            ones = [value >> (8 * whole + plane) & 1 for value in values[start : start + 8]]
            octets.append(sum(one << place for place, one in enumerate(ones)))
    return bytes(octets)


@given(NUMBERS, WIDTHS)
def test_agrees_with_its_twin_and_keeps_the_low_bits(values, width):
    packed = bits.pack(np.array(values, np.uint64), width)
    assert packed == slow_pack(values, width)
    again = bits.unpack(packed, len(values), width, np.uint64)
    assert again.tolist() == [value % (1 << width) for value in values]


@given(NUMBERS, st.integers(1, 16))
def test_every_type_that_holds_the_width_gives_the_same_bytes(values, width):
    narrow = [value % (1 << width) for value in values]
    types = [t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if 8 * np.dtype(t).itemsize >= width]
    assert len({bits.pack(np.array(narrow, t), width) for t in types}) == 1


@given(st.binary(max_size=200), st.integers(0, 300), WIDTHS)
def test_any_bytes_are_refused_or_are_what_would_be_packed(data, count, width):
    try:
        values = bits.unpack(data, count, width, np.uint64)
    except DecodeError:
        return
    assert bits.pack(values, width) == data


@given(st.data(), st.integers(0, 40), WIDTHS)
def test_bytes_of_the_right_length_are_refused_only_for_the_bits_behind_the_end(draw, count, width):
    size = bits.packed_bytes(count, width)
    data = draw.draw(st.binary(min_size=size, max_size=size))
    ends = data[width // 8 * count :][max((count + 7) // 8 - 1, 0) :: max((count + 7) // 8, 1)] if count % 8 else b""
    try:
        values = bits.unpack(data, count, width, np.uint64)
    except DecodeError:
        assert any(end >> (count % 8) for end in ends)
        return
    assert bits.pack(values, width) == data
