"""Flower's `Array` to numpy and back, bounded and without numpy's trust in headers.

Flower carries an array as an ``.npy`` file. ``np.load`` evaluates the header as a Python literal and allocates what it
claims before it has seen the data, so a hundred bytes can ask for all memory. Here the header has to look exactly as
numpy writes it, and its claim is held against the bytes that came.
"""

import re
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.common.constant import SType
from numpy.typing import NDArray

from fedmesh.errors import DecodeError

__all__ = ["pack", "unpack", "vector", "vector_record"]

MAX_HEADER_BYTES = 1024

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"(?P<header>\{'descr': '(?P<descr>[<|][a-z]\d{1,2})', 'fortran_order': False, "
    rb"'shape': \((?P<count>\d{1,15}),\), \} {0,512}\n)",
    re.DOTALL,
)
"""numpy.lib.format, version 1.0, of one dimension."""


def pack(values: NDArray[Any]) -> Array:
    """The array as Flower carries it."""
    return Array(np.ascontiguousarray(values))


def unpack(array: Array, *, dtype: str, max_bytes: int) -> NDArray[Any]:
    """A one-dimensional array of `dtype`, read-only, over the message's own bytes.

    Args:
        array: as it came in a message.
        dtype: numpy's name, e.g. ``"uint8"``.
        max_bytes: most that the values may take.

    Raises:
        DecodeError: it is not such an array, it is larger, or its header and its length disagree.
    """
    if array.stype != SType.NUMPY:
        raise DecodeError(f"an array serialised as {array.stype!r} came; wanted {SType.NUMPY!r}")
    data = array.data
    if len(data) > max_bytes + MAX_HEADER_BYTES:
        raise DecodeError(f"an array of {len(data)} bytes came; at most {max_bytes} bytes of values are taken")
    found = _HEADER.match(data)
    if found is None:
        raise DecodeError("an array came that is no .npy file of one dimension, format 1.0")
    stated = int.from_bytes(found["length"], "little")
    start = 10 + stated
    if len(found["header"]) != stated or found["descr"] != np.dtype(dtype).str.encode():
        raise DecodeError(f"an array of {found['descr']!r} came; wanted {np.dtype(dtype).str!r}")
    count = int(found["count"])
    if len(data) - start != count * np.dtype(dtype).itemsize or len(data) - start > max_bytes:
        raise DecodeError(f"an array says it holds {count} values of {dtype}, but {len(data) - start} bytes follow")
    return np.frombuffer(data, dtype=dtype, offset=start)


def vector_record(name: str, values: NDArray[Any]) -> ArrayRecord:
    """A record that holds one array under `name`."""
    return ArrayRecord({name: pack(values)})


def vector(record: ArrayRecord, name: str, *, dtype: str, max_bytes: int) -> NDArray[Any]:
    """The one array of a record, as by `unpack`.

    Raises:
        DecodeError: the record holds anything else than one such array called `name`.
    """
    if list(record) != [name]:
        raise DecodeError(f"a record with the arrays {sorted(record)} came; wanted exactly {name!r}")
    return unpack(record[name], dtype=dtype, max_bytes=max_bytes)
