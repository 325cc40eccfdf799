"""Laws of the wire format."""

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmesh.errors import DecodeError
from fedmesh.wire import dumps, loads

LIMIT = 1 << 20

integers = st.integers(-(2**64), 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
scalars = st.none() | st.booleans() | integers | st.floats(allow_nan=False) | texts | st.binary(max_size=30)
dtypes = st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)


def trees(leaves):
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | integers, inner, max_size=4),
        max_leaves=12,
    )


@given(trees(scalars))
def test_loads_inverts_dumps(value):
    again = loads(dumps(value), max_bytes=LIMIT)
    assert again == value
    assert repr(again) == repr(value) or isinstance(value, dict | list)  # 1 stays 1, 1.0 stays 1.0, -0.0 keeps its sign


@given(trees(scalars))
def test_another_implementation_reads_the_same(value):
    assert cbor2.loads(dumps(value)) == value


@given(arrays)
def test_arrays_come_back_bit_for_bit(array):
    again = loads(dumps({"a": [array]}), max_bytes=LIMIT)["a"][0]
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()
    assert again.flags.writeable
    assert again.flags.aligned


@given(st.dictionaries(texts | integers, scalars, max_size=6), st.randoms())
def test_the_order_of_insertion_does_not_show(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert dumps(dict(items)) == dumps(value)


@given(trees(scalars | arrays), st.data())
@settings(max_examples=200)
def test_there_is_one_encoding_of_a_value(value, data):
    """Whatever is accepted is what dumps would have written, however a message was altered."""
    message = bytearray(dumps(value))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place] = data.draw(st.integers(0, 255))
    try:
        altered = loads(bytes(message), max_bytes=LIMIT)
    except DecodeError:
        return
    assert dumps(altered) == bytes(message)


@given(trees(scalars | arrays), st.data())
def test_no_prefix_is_a_message(value, data):
    message = dumps(value)
    cut = message[: data.draw(st.integers(0, len(message) - 1))]
    try:
        loads(cut, max_bytes=LIMIT)
    except DecodeError:
        return
    raise AssertionError(cut.hex())
