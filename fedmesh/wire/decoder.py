"""Deterministic CBOR -> plain data, for bytes that a stranger sent.

Why not a library's decoder: this one builds nothing before its bytes are known to be there, counts every item, knows no
tag but the arrays of `fedmesh.wire.arrays`, and refuses any encoding that `dumps` would not have chosen (long heads,
indefinite lengths, unsorted or repeated keys, long floats), so what was signed is what is read. Memory stays
below about twice `max_bytes` plus 100 bytes an item.
"""

import itertools
import math
import operator
import struct
from typing import TYPE_CHECKING, Any

import cbor2

from fedmesh.errors import DecodeError
from fedmesh.wire.arrays import DTYPES, MAX_DIMENSIONS, ROW_MAJOR, is_carried_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["loads"]

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLE_VALUES = {20: False, 21: True, 22: None}
_FIRST_NEGATIVE, _FIRST_BYTES = _NEGATIVE << 5, _BYTES << 5  # heads of the least arguments
_FIRST_TEXT, _FIRST_LIST = _TEXT << 5, _LIST << 5
_LEAST = {24: (1, 24), 25: (2, 1 << 8), 26: (4, 1 << 16), 27: (8, 1 << 32)}
"""Additional information -> bytes of the argument behind the head, and the least that needs so many."""
_FLOATS = {info: struct.Struct(code) for info, code in ((25, ">e"), (26, ">f"), (27, ">d"))}


def loads(data: bytes, *, max_bytes: int, max_depth: int = 32, max_items: int = 1 << 17) -> Any:
    """The value in `data`: what was given to `dumps`, tuples as lists and numpy scalars as numbers.

    Arrays are copies: writable, aligned, in the machine's byte order.

    Args:
        data: one value, nothing after it.
        max_bytes: longest `data` accepted.
        max_depth: deepest nesting of lists and maps accepted, at most 64.
        max_items: most values (keys and elements included; an array is one) accepted.

    Raises:
        DecodeError: anything else.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DecodeError(f"a message is bytes, not {type(data).__name__}")
    size = memoryview(data).nbytes
    if size > max_bytes:
        raise DecodeError(f"a message of {size} bytes arrived, the limit is {max_bytes}")
    decoder = _Decoder(bytes(data), min(max_depth, 64), max_items)
    value = decoder.value(0)
    decoder.finish()
    return value


class _Decoder:
    """A cursor over the bytes; every read is checked against what is left."""

    __slots__ = ("_at", "_data", "_items_left", "_max_depth")

    def __init__(self, data: bytes, max_depth: int, max_items: int) -> None:
        self._data, self._at = data, 0
        self._max_depth, self._items_left = max_depth, max_items

    def value(self, depth: int) -> Any:
        if depth > self._max_depth:
            raise DecodeError(f"the message is nested deeper than {self._max_depth} levels")
        self._count(1)
        major, argument = self._head()
        match major:
            case 0 | 1:
                return argument if major == _UNSIGNED else -1 - argument
            case 2 | 3:
                return self._take(argument) if major == _BYTES else self._text(argument)
            case 4 | 5:
                return self._list(argument, depth) if major == _LIST else self._map(argument, depth)
            case _:
                return self._array(argument) if major == _TAG else self._simple(argument)

    def finish(self) -> None:
        if self._at != len(self._data):
            raise DecodeError(f"{len(self._data) - self._at} bytes follow the message")

    def _count(self, items: int) -> None:
        self._items_left -= items
        if self._items_left < 0:
            raise DecodeError("the message holds more items than the limit")

    def _require_room(self, items: int) -> None:
        """Every item takes a byte: refuses a length that the rest cannot hold before anything is built for it."""
        if items > len(self._data) - self._at or items > self._items_left:
            raise DecodeError(f"a list or map of {items} items is announced, {len(self._data) - self._at} bytes follow")

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise DecodeError(f"{count} bytes are announced, {len(self._data) - self._at} follow")
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def _head(self) -> tuple[int, int]:
        """Major type and argument (RFC 8949 3); of simple values and floats the additional information instead."""
        first = self._take(1)[0]
        major, info = first >> 5, first & 31
        if major == _SIMPLE or info < 24:
            return major, info
        if info > 27:
            raise DecodeError("indefinite lengths and reserved heads are refused")
        width = 1 << (info - 24)
        argument = int.from_bytes(self._take(width), "big")
        if argument < (24 if width == 1 else 1 << (4 * width)):
            raise DecodeError(f"the number {argument} is not in its shortest form")
        return major, argument

    def _text(self, count: int) -> str:
        try:
            return self._take(count).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError(f"a text is not UTF-8: {error.reason}") from error

    def _list(self, length: int, depth: int) -> list[Any]:
        self._require_room(length)
        if (atoms := self._atoms(length, depth)) is not None:
            return atoms
        return [self.value(depth + 1) for _ in range(length)]

    def _map(self, pairs: int, depth: int) -> dict[str | int, Any]:
        self._require_room(2 * pairs)
        begin, items_left = self._at, self._items_left
        if (atoms := self._atoms(2 * pairs, depth)) is not None:
            if _ascending(keys := atoms[::2]):
                return dict(zip(keys, atoms[1::2], strict=True))
            self._at, self._items_left = begin, items_left
        result: dict[str | int, Any] = {}
        last = (0, b"")
        for _ in range(pairs):
            start = self._at
            if self._data[start : start + 1] and self._data[start] >> 5 not in {_UNSIGNED, _NEGATIVE, _TEXT}:
                raise DecodeError("the key of a map is neither text nor an integer")
            key = self.value(depth + 1)
            order = (self._at - start, self._data[start : self._at])
            if order <= last:
                raise DecodeError(f"the key {_excerpt(key)} is repeated or out of order")
            last = order
            result[key] = self.value(depth + 1)
        return result

    def _atoms(self, count: int, depth: int) -> list[Any] | None:
        """The next `count` items, of a list or map at `depth`, if each is bytes, a text or a number not below 0.

        Nearly every list and map is of such, and one loop reads them three times as fast. None, and nothing is read, if
        one is anything else, or malformed: the reading one by one says what it is. The caller has seen to the room.
        """
        data, at, size = self._data, self._at, len(self._data)
        atoms: list[bytes | str | int] = []
        for _ in range(count if depth < self._max_depth else 0):
            if at == size or (head := data[at]) >= _FIRST_LIST or _FIRST_NEGATIVE <= head < _FIRST_BYTES:
                return None
            start, argument = at + 1, head & 31
            if argument >= 24:
                width, least = _LEAST.get(argument, (0, 0))
                start += width
                argument = int.from_bytes(data[at + 1 : start], "big")
                if width == 0 or start > size or argument < least:
                    return None
            at = start
            if head < _FIRST_NEGATIVE:
                atoms.append(argument)
                continue
            at += argument
            if at > size:
                return None
            try:
                atoms.append(data[start:at] if head < _FIRST_TEXT else data[start:at].decode())
            except UnicodeDecodeError:
                return None
        if len(atoms) < count:
            return None
        self._at, self._items_left = at, self._items_left - count
        return atoms

    def _simple(self, info: int) -> bool | float | None:
        if info in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[info]
        if info not in _FLOATS:
            raise DecodeError(f"the simple value {info} is not carried")
        body = self._take(_FLOATS[info].size)
        number: float = _FLOATS[info].unpack(body)[0]
        if cbor2.dumps(number, canonical=True)[1:] != body:
            raise DecodeError(f"the float {number!r} is not in its shortest form")
        return number

    def _array(self, tag: int) -> "NDArray[Any]":
        if tag != ROW_MAJOR:
            raise DecodeError(f"the tag {tag} is not carried")
        import numpy as np

        self._expect(_LIST, 2, "the array is not a pair of shape and values")
        shape = self._shape()
        major, inner = self._head()
        if major != _TAG or inner not in DTYPES:
            raise DecodeError("the values of an array are of a type that is not carried")
        major, length = self._head()
        dtype = np.dtype(DTYPES[inner])
        if major != _BYTES or length != math.prod(shape) * dtype.itemsize:
            raise DecodeError(f"an array of {dtype} of shape {shape} came with {length} bytes")
        values = np.frombuffer(self._take(length), dtype)
        return values.astype(dtype.newbyteorder("=")).reshape(shape)

    def _shape(self) -> tuple[int, ...]:
        major, dimensions = self._head()
        if major != _LIST or dimensions > MAX_DIMENSIONS:
            raise DecodeError(f"the shape of an array is not a list of at most {MAX_DIMENSIONS} lengths")
        shape = []
        for _ in range(dimensions):
            major, length = self._head()
            if major != _UNSIGNED:
                raise DecodeError("a length in an array's shape is not a number")
            shape.append(length)
        if not is_carried_shape(tuple(shape)):
            raise DecodeError(f"an array of shape {tuple(shape)} is not carried")
        return tuple(shape)

    def _expect(self, major: int, argument: int, otherwise: str) -> None:
        got, value = self._head()
        if (got, value) != (major, argument):
            raise DecodeError(otherwise)


def _ascending(keys: list[Any]) -> bool:
    """Whether all are texts, each once and in the order of their encodings (which among equally long is the texts')."""
    if set(map(type, keys)) - {str}:
        return False
    order = zip(map(len, map(str.encode, keys)), keys, strict=True)
    return all(itertools.starmap(operator.lt, itertools.pairwise(order)))


def _excerpt(key: str | int) -> str:
    text = repr(key)
    return text if len(text) <= 40 else text[:40] + "..."
