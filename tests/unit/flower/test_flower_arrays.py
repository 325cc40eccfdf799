import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from fedmesh.errors import DecodeError
from fedmesh.flower.arrays import pack, unpack, vector, vector_record


def npy_with_header(header: bytes, body: bytes, version: bytes = b"\x01\x00") -> Array:
    data = b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + body
    return Array("uint8", (4,), "numpy.ndarray", data)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32", "int64"])
def test_unpack_is_the_inverse_of_pack(dtype: str) -> None:
    values = np.arange(100).astype(dtype)
    assert np.array_equal(unpack(pack(values), dtype=dtype, max_bytes=values.nbytes), values)


def test_it_reads_what_flower_writes_and_the_other_way_round() -> None:
    values = np.arange(9, dtype=np.float32)
    assert np.array_equal(unpack(Array(values), dtype="float32", max_bytes=36), values)
    assert np.array_equal(pack(values).numpy(), values)


def test_the_values_are_not_copied_and_cannot_be_written() -> None:
    array = pack(np.arange(4, dtype=np.uint8))
    values = unpack(array, dtype="uint8", max_bytes=4)
    assert not values.flags.writeable
    assert not values.flags.owndata


def test_the_limit_holds() -> None:
    array = pack(np.zeros(1001, np.uint8))
    assert len(unpack(array, dtype="uint8", max_bytes=1001)) == 1001
    with pytest.raises(DecodeError):
        unpack(array, dtype="uint8", max_bytes=1000)
    with pytest.raises(DecodeError, match="at most"):
        unpack(pack(np.zeros(10_000, np.uint8)), dtype="uint8", max_bytes=1000)


@pytest.mark.parametrize("claimed", [2**62, 2**40, 5, 3, -4])
def test_a_header_that_claims_another_length_is_refused_without_allocating(claimed: int) -> None:
    header = repr({"descr": "|u1", "fortran_order": False, "shape": (claimed,)}).encode()
    with pytest.raises(DecodeError):
        unpack(npy_with_header(header, b"abcd"), dtype="uint8", max_bytes=1 << 60)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (4,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': ()}",
        b"{'descr': '|u1', 'fortran_order': False}",
        b"{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (4,)}",
        b"__import__('os').system('false')",
        b"(" * 900,
        b"\0" * 30,
        b"",
    ],
)
def test_hostile_headers_are_refused(header: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack(npy_with_header(header, b"abcd"), dtype="uint8", max_bytes=4)


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"not an array at all", b"\x93NUMPY\x03\x00" + b"\0" * 20])
def test_what_is_no_npy_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack(Array("uint8", (4,), "numpy.ndarray", data), dtype="uint8", max_bytes=4)


def test_another_serialisation_is_refused() -> None:
    with pytest.raises(DecodeError, match="pickle"):
        unpack(Array("uint8", (4,), "pickle", b"abcd"), dtype="uint8", max_bytes=4)


def test_every_truncation_is_refused() -> None:
    stream = io.BytesIO()
    np.save(stream, np.arange(16, dtype=np.uint8))
    data = stream.getvalue()
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            unpack(Array("uint8", (16,), "numpy.ndarray", data[:length]), dtype="uint8", max_bytes=16)


def test_a_record_holds_exactly_the_named_array() -> None:
    record = vector_record("delta", np.zeros(4, np.uint8))
    assert vector(record, "delta", dtype="uint8", max_bytes=4).tolist() == [0, 0, 0, 0]
    for other in (ArrayRecord(), vector_record("model", np.zeros(4, np.uint8))):
        with pytest.raises(DecodeError, match="exactly 'delta'"):
            vector(other, "delta", dtype="uint8", max_bytes=4)
