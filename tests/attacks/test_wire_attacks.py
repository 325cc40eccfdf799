"""Hostile bytes at the wire decoder: refused quickly, in bounded memory, with DecodeError and nothing else."""

import time
import tracemalloc

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh.errors import DecodeError
from fedmesh.wire import dumps, loads

LIMIT = 1 << 20


def refused(message, match, **limits):
    with pytest.raises(DecodeError, match=match):
        loads(bytes.fromhex(message) if isinstance(message, str) else message, **{"max_bytes": LIMIT, **limits})


@given(st.binary(max_size=200))
@settings(max_examples=1000)
def test_noise(data):
    try:
        value = loads(data, max_bytes=LIMIT)
    except DecodeError:
        return
    assert dumps(value) == data


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("", "0 follow"),
        ("0000", "follow the message"),
        ("1817", "shortest"),  # 23 in two bytes
        ("190017", "shortest"),
        ("1a000000ff", "shortest"),
        ("1b00000000ffffffff", "shortest"),
        ("9fff", "indefinite"),
        ("bfff", "indefinite"),
        ("5f4100ff", "indefinite"),
        ("7f6100ff", "indefinite"),
        ("1c", "reserved"),
        ("ff", "not carried"),
        ("f7", "simple value 23"),  # undefined
        ("f8ff", "not carried"),
        ("f0", "not carried"),
        ("fb3ff0000000000000", "shortest"),  # 1.0 as a double
        ("fa3f800000", "shortest"),
        ("f97e01", "shortest"),  # a NaN with a payload
        ("fb7ff8000000000000", "shortest"),
        ("62c328", "UTF-8"),
        ("63eda080", "UTF-8"),  # a lone surrogate
        ("a2616100616101", "repeated"),
        ("a2616200616101", "out of order"),
        ("a26261610061620a", "out of order"),
        ("a18000", "neither text nor an integer"),
        ("a1a000", "neither text nor an integer"),
        ("a1f500", "neither text nor an integer"),
        ("a1410000", "neither text nor an integer"),
        ("a1", "announced"),
        ("a1616100f6", "follow the message"),
    ],
)
def test_encodings_that_dumps_would_not_choose(message, why):
    refused(message, why)


@pytest.mark.parametrize(
    "tag", [0, 1, 2, 3, 4, 5, 24, 25, 28, 29, 30, 35, 36, 37, 43, 64, 85, 100, 256, 258, 260, 261, 43000, 55799]
)
def test_no_tag_runs_anything(tag):
    for content in (0, "2013-03-21T20:04:00Z", b"\x01", [1, 2], {}):
        refused(cbor2.dumps(cbor2.CBORTag(tag, content)), f"tag {tag} is not carried")


@pytest.mark.parametrize(
    "message",
    [
        "5b00000000ffffffff",
        "7bffffffffffffffff",
        "9bffffffffffffffff",
        "bbffffffffffffffff",
        "9a7fffffff00",
        "ba7fffffff00",
        "5bffffffffffffffff",
    ],
)
def test_announced_lengths_are_not_believed(message):
    tracemalloc.start()
    try:
        refused(message, "announced|shortest")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("head", [b"\x9b" + b"\x7f" * 8, b"\xbb" + b"\x7f" * 8])
def test_a_list_that_cannot_fit_is_refused_before_its_items_are_read(head):
    refused(head + bytes(100_000), r"a list or map of \d+ items is announced, 100000 bytes follow")


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x00", b"\xd8\x28"])
def test_nesting_is_bounded(opening):
    refused(opening * 100_000, "nested deeper|not a pair")
    refused(b"\x81" * 5 + b"\x00", "nested deeper than 4", max_depth=4)
    assert loads(b"\x81" * 4 + b"\x00", max_bytes=LIMIT, max_depth=4) == [[[[0]]]]


def test_many_small_items_are_bounded():
    message = dumps([{}] * 5000)
    refused(message, "items", max_items=5000)
    assert len(loads(message, max_bytes=LIMIT, max_items=5001)) == 5000
    nested = b"\x99\x03\xe8" + (b"\x99\x03\xe8" + b"\x80" * 1000) * 1000
    start = time.process_time()
    refused(nested, "items", max_bytes=1 << 21)
    assert time.process_time() - start < 5


def test_the_limit_is_checked_before_anything_is_read():
    refused(dumps(b"x" * 100), "the limit is 50", max_bytes=50)
    refused(memoryview(np.zeros(20)), "160 bytes", max_bytes=100)


@pytest.mark.parametrize("data", [None, "text", 5, [0]])
def test_what_is_not_bytes(data):
    refused_type = pytest.raises(DecodeError, match="a message is bytes")
    with refused_type:
        loads(data, max_bytes=LIMIT)


def array_message(shape, tag, body):
    return cbor2.dumps(cbor2.CBORTag(40, [shape, cbor2.CBORTag(tag, body)]), canonical=True)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (array_message([2], 85, b"1234"), "came with 4 bytes"),
        (array_message([2], 85, b"123456789"), "came with 9 bytes"),
        (array_message([2**32, 2**32], 64, b""), "not carried"),
        (array_message([2**40, 0, 2**40], 64, b""), "not carried"),
        (array_message([2**40], 64, b""), "came with 0 bytes"),
        (array_message([1] * 17, 64, b"1"), "at most 16"),
        (array_message([-1], 64, b""), "not a number"),
        (array_message(["1"], 64, b"1"), "not a number"),
        (array_message([1.0], 64, b"1"), "not a number"),
        (array_message({}, 64, b"1"), "shape"),
        (array_message([1], 65, b"12"), "not carried"),  # big endian
        (array_message([1], 83, bytes(16)), "not carried"),  # float128
        (array_message([1], 2, b"1"), "not carried"),
        (array_message([1], 64, "1"), "came with"),
        (array_message([1], 64, [1]), "came with"),
        (cbor2.dumps(cbor2.CBORTag(40, [[1], 5])), "not carried"),
        (cbor2.dumps(cbor2.CBORTag(40, [[1]])), "not a pair"),
        (cbor2.dumps(cbor2.CBORTag(40, b"")), "not a pair"),
        (cbor2.dumps(cbor2.CBORTag(1040, [[1], cbor2.CBORTag(64, b"1")])), "tag 1040"),
    ],
)
def test_malformed_arrays(message, why):
    refused(message, why)


def test_values_do_not_alias_the_message():
    data = bytearray(dumps(np.arange(4, dtype=np.int32)))
    value = loads(data, max_bytes=LIMIT)
    data[-1] ^= 255
    assert value.tolist() == [0, 1, 2, 3]
