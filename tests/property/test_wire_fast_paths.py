"""The fast paths of the wire format say what the slow ones say, errors included."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh.errors import DecodeError
from fedmesh.wire import dumps
from fedmesh.wire.decoder import _Decoder

LIMIT = 1 << 20


class _Slow(_Decoder):
    """Reads every item by itself."""

    __slots__ = ()

    def _atoms(self, count, depth):
        return None


class _Text(str):
    __slots__ = ()


class _Bytes(bytes):
    __slots__ = ()


class _Float(float):
    __slots__ = ()


def read(decoder, data, *, max_depth=32, max_items=1 << 17):
    """The value with its type, or the error's text; and what was left to read."""
    cursor = decoder(data, max_depth, max_items)
    try:
        value = cursor.value(0)
        cursor.finish()
    except DecodeError as error:
        return str(error)
    return repr(value), cursor._at, cursor._items_left


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["x" * n for n in (23, 24, 256)]
)
strings = st.binary(max_size=3) | st.sampled_from([b"y" * n for n in (23, 24, 255, 256)]) | texts
edges = [23, 24, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 63), (1 << 64) - 1]
numbers = st.integers(-30, 300) | st.sampled_from([*edges, *(-edge for edge in edges)])
leaves = strings | numbers | st.none() | st.booleans() | st.floats(allow_nan=False)
maps = st.dictionaries(texts, strings, max_size=5) | st.dictionaries(texts | st.integers(0, 9), leaves, max_size=4)
trees = st.recursive(
    st.lists(strings, max_size=6) | st.lists(strings | numbers, max_size=6) | maps | leaves,
    lambda inner: st.lists(inner | strings, max_size=4) | st.dictionaries(texts, inner | strings, max_size=4),
    max_leaves=8,
)


@given(trees, st.integers(0, 4), st.integers(0, 12))
def test_strings_are_read_together_as_one_by_one(value, max_depth, max_items):
    data = dumps(value)
    assert read(_Decoder, data) == read(_Slow, data)
    limits = {"max_depth": max_depth, "max_items": max_items}
    assert read(_Decoder, data, **limits) == read(_Slow, data, **limits)


@given(trees, st.data())
@settings(max_examples=300)
def test_what_is_refused_one_by_one_is_refused_together_for_the_same_reason(value, data):
    message = bytearray(dumps(value))
    for _ in range(data.draw(st.integers(0, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))])
    assert read(_Decoder, bytes(message)) == read(_Slow, bytes(message))
    assert read(_Decoder, cut) == read(_Slow, cut)


@pytest.mark.parametrize(
    "data",
    [
        b"\xa2\x61b\x40\x61a\x40",  # out of order
        b"\xa2\x61a\x40\x61a\x40",  # twice
        b"\xa2\x62aa\x40\x61b\x40",  # a longer key first
        b"\xa1\x41a\x40",  # bytes as a key
        b"\xa1\x61\xff\x40",  # a key that is no UTF-8
        b"\x81\x78\x05abcde",  # a length in two bytes that fits in one
        b"\x81\x58",  # a length that is cut off
        b"\x82\x41a",  # an item too few
        b"\x81\x5f\x41a\xff",  # of indefinite length
        b"\x81\x18\x17",  # a number in two bytes that fits in one
        b"\x81\x19\x00\xff",  # in three that fits in two
        b"\x82\x1a\x00\x00\xff\xff\x01",  # in five that fits in three
        b"\x81\x1b\x00\x00\x00\x00\xff\xff\xff\xff",  # in nine that fits in five
        b"\x82\x01\x19\x01",  # a number that is cut off
        b"\x81\x1c",  # a reserved head
        b"\xa2\x01\x40\x01\x40",  # a number twice
    ],
)
def test_malformed_strings_are_refused_as_one_by_one(data):
    answer = read(_Decoder, data)
    assert answer == read(_Slow, data)
    assert isinstance(answer, str)


def test_a_map_of_a_hundred_names_is_read_together():
    value = {f"device-{number}": bytes([number]) * 130 for number in range(100)}
    cursor = _Decoder(dumps(value), 1, 201)
    assert cursor.value(0) == value
    assert read(_Decoder, dumps(value), max_items=200) == read(_Slow, dumps(value), max_items=200)


def slow(value):
    """The same value, of which no text, bytes or float is of the very type that travels as it is."""
    if isinstance(value, list):
        return [slow(item) for item in value]
    if isinstance(value, dict):
        return {_Text(key) if isinstance(key, str) else key: slow(item) for key, item in value.items()}
    kind = {str: _Text, bytes: _Bytes, float: _Float}.get(type(value))
    return value if kind is None else kind(value)


@given(trees)
def test_subclasses_are_written_as_what_they_inherit_from(value):
    assert dumps(slow(value)) == dumps(value)


@pytest.mark.parametrize("number", [1 << 64, -(1 << 64) - 1])
def test_a_number_beyond_64_bits_is_refused_in_a_list_too(number):
    with pytest.raises(ValueError, match=r"value\[1\] is an integer beyond 64 bits"):
        dumps([0, number])


@pytest.mark.parametrize("leaf", [None, True, 1.5, "a", b"a", 7, _Text("a")])
@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_every_leaf_may_lie_equally_deep(leaf, wrap):
    value = leaf
    for _ in range(64):
        value = wrap(value)
    dumps(value)
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        dumps(wrap(value))
