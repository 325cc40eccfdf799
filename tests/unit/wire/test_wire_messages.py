"""What travels, as which bytes, and what does not."""

import datetime as dt
import enum
import subprocess
import sys

import numpy as np
import pytest

from fedmesh.wire import dumps, loads
from fedmesh.wire.arrays import DTYPES, TAGS

# Golden bytes: checked by hand against RFC 8949 and RFC 8746. Only added to, never edited.
GOLDEN = [
    (None, "f6"),
    (False, "f4"),
    (True, "f5"),
    (0, "00"),
    (24, "1818"),
    (-1, "20"),
    (2**64 - 1, "1bffffffffffffffff"),
    (-(2**64), "3bffffffffffffffff"),
    (0.0, "f90000"),
    (-0.0, "f98000"),
    (1.5, "f93e00"),
    (100000.0, "fa47c35000"),
    (1.1, "fb3ff199999999999a"),
    (float("inf"), "f97c00"),
    (float("nan"), "f97e00"),
    ("", "60"),
    ("ü", "62c3bc"),
    (b"\x01\x02", "420102"),
    ([1, [2, 3]], "8201820203"),
    ({"b": 1, "aa": 2, "a": 3}, "a361610361620162616102"),
    ({10: 0, -1: 1, "a": 2}, "a30a00200161610 2".replace(" ", "")),
    (np.array([1, 256], np.uint16), "d828828102d8454401000001"),
    (np.array([[1.0], [2.0]], np.float32), "d82882820201d855480000803f00000040"),
    (np.array(7, np.int8), "d8288280d8484107"),
    (np.zeros((0, 3), np.int64), "d82882820003d84f40"),
]


@pytest.mark.parametrize(("value", "encoded"), GOLDEN, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_golden_bytes(value, encoded):
    assert dumps(value).hex() == encoded
    again = loads(bytes.fromhex(encoded), max_bytes=100)
    assert dumps(again).hex() == encoded
    assert type(again) is type(value)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
def test_every_number_type_in_either_byte_order_and_any_layout(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    wanted = dumps(array)
    variants = (array.astype(array.dtype.newbyteorder(">")), np.asfortranarray(array), array[::-1][::-1])
    for variant in variants:
        assert dumps(variant) == wanted
    again = loads(wanted, max_bytes=1000)
    assert again.dtype == np.dtype(dtype)
    assert again.dtype.isnative
    assert np.array_equal(again, array)


def test_numpy_scalars_travel_as_numbers():
    value = {"i": np.int64(3), "f": np.float64(0.5), "h": np.float32(0.25), "b": np.bool_(True), "s": np.str_("x")}
    assert dumps(value) == dumps({"i": 3, "f": 0.5, "h": 0.25, "b": True, "s": "x"})


def test_tuples_come_back_as_lists():
    assert loads(dumps((1, (2,))), max_bytes=10) == [1, [2]]


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"state": [1, {2}]}, r"value\['state'\]\[1\] is of type set"),
        (object(), "value is of type object"),
        (Colour.RED, "type Colour"),
        (dt.date(2020, 1, 1), "type date"),
        (1j, "type complex"),
        (bytearray(b"1"), "type bytearray"),
        ({1.5: 0}, "a key of value is of type float"),
        ({True: 0}, "a key of value is of type bool"),
        ({None: 0}, "a key of value is of type NoneType"),
        ({b"k": 0}, "a key of value is of type bytes"),
        (np.array([True]), "array of bool"),
        (np.array([1j]), "array of complex128"),
        (np.array(["text"]), "array of <U4"),
        (np.array([object()]), "array of object"),
        (np.array(["2020"], "datetime64[Y]"), "array of datetime64"),
        (np.zeros(1, [("a", "f4")]), "array of"),
        (np.zeros((2**50, 0), np.uint8), "shape"),
    ],
)
def test_what_does_not_travel_is_named(value, where):
    with pytest.raises(TypeError, match=where):
        dumps(value)


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1, {2**64: 0}])
def test_integers_beyond_64_bits(value):
    with pytest.raises(ValueError, match="beyond 64 bits"):
        dumps(value)


def test_text_that_is_not_unicode():
    with pytest.raises(ValueError, match="cannot be written"):
        dumps(["\ud800"])


def test_a_list_that_holds_itself():
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="nested deeper"):
        dumps(value)


def test_the_deepest_value_that_can_be_written_can_be_read():
    value = 0
    for _ in range(64):
        value = [value]
    assert loads(dumps(value), max_bytes=100, max_depth=64) == value


def test_a_dict_with_equal_keys_of_two_types():
    assert loads(dumps({1: "a", "1": "b"}), max_bytes=100) == {1: "a", "1": "b"}


def test_types_of_arrays_go_by_the_names_that_numpy_gives_them():
    assert [np.dtype(name).str for name in DTYPES.values()] == list(TAGS)


def test_a_message_without_arrays_loads_no_numpy():
    script = """
import sys
from fedmesh.wire import dumps, loads
value = {"list": [None, True, 1, 1.1, 0.5, b"bytes", "text"], "none": []}
assert loads(dumps(value), max_bytes=100) == value
print("numpy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
