"""Plain data -> deterministic CBOR.

Carried: None, bool, int (64-bit magnitudes), float, str, bytes, list and tuple (as list), dict with str or int keys,
numpy scalars (as Python numbers) and numpy arrays of the types in `fedmesh.wire.arrays`. Heads and floats take their
shortest form and map keys ascend by the length of their encoding, then bytewise (RFC 8949 4.2.3): equal values give
equal bytes.
"""

from typing import TYPE_CHECKING, Any

import cbor2

from fedmesh.wire.arrays import ROW_MAJOR, TAGS, is_carried_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["dumps"]

_LARGEST = 1 << 64  # CBOR's own integers; bignums are tags, and not carried
_MAX_DEPTH = 64
_ATOMS = frozenset({type(None), bool, float, str, bytes})
"""What travels as it is, unless it is an instance of a subclass: most of what there is in a message."""


def dumps(value: Any) -> bytes:
    """The bytes of `value`.

    Raises:
        TypeError: something in it cannot travel; the message says where it is and of what type.
        ValueError: an integer is out of range, a text is not Unicode, or it is nested deeper than 64 levels.
    """
    plain = _plain(value, "value", 0)
    try:
        return cbor2.dumps(plain, canonical=True)
    except (cbor2.CBOREncodeError, UnicodeEncodeError) as error:
        raise ValueError(f"the value cannot be written: {error}") from error


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError(f"{where} is nested deeper than {_MAX_DEPTH} levels")
    match value:
        case None | bool() | str() | bytes() | float():
            return _scalar(value)
        case int():
            if not -_LARGEST <= value < _LARGEST:
                raise ValueError(f"{where} is an integer beyond 64 bits")
            return int(value)
        case list() | tuple():
            as_they_are = _as_they_are(depth)
            numbers = int if as_they_are else None
            return [
                item
                if type(item) in as_they_are or (type(item) is numbers and -_LARGEST <= item < _LARGEST)
                else _plain(item, f"{where}[{place}]", depth + 1)
                for place, item in enumerate(value)
            ]
        case dict():
            as_they_are = _as_they_are(depth)
            return {
                key if type(key) is str else _key(key, where): item
                if type(item) in as_they_are
                else _plain(item, f"{where}[{key!r}]", depth + 1)
                for key, item in value.items()
            }
        case _:
            return _of_numpy(value, where, depth)


def _of_numpy(value: Any, where: str, depth: int) -> Any:
    """What is nothing of Python's own; numpy is loaded for it, and is there already where it is numpy's."""
    import numpy as np

    match value:
        case np.ndarray():
            return _array(value, where)
        case np.bool_() | np.integer() | np.floating():
            return _plain(value.item(), where, depth)
        case _:
            raise TypeError(
                f"{where} is of type {type(value).__name__}, which does not travel: use plain data or arrays"
            )


def _as_they_are(depth: int) -> frozenset[type[Any]]:
    """Types that a list or map at `depth` holds without more ado: none where its items would be too deep."""
    return _ATOMS if depth < _MAX_DEPTH else frozenset()


def _scalar(value: Any) -> Any:
    """Subclasses (numpy.float64, numpy.str_, enums) become what they inherit from."""
    kinds: tuple[type[Any], ...] = (bool, float, str, bytes)
    return next((kind(value) for kind in kinds if isinstance(value, kind)), None)


def _key(key: Any, where: str) -> str | int:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int) and not isinstance(key, bool):
        if not -_LARGEST <= key < _LARGEST:
            raise ValueError(f"a key of {where} is an integer beyond 64 bits")
        return int(key)
    raise TypeError(f"a key of {where} is of type {type(key).__name__}: keys are text or integers")


def _array(array: "NDArray[Any]", where: str) -> cbor2.CBORTag:
    dtype = array.dtype.newbyteorder("<") if array.dtype.kind in "iuf" else array.dtype
    if dtype.str not in TAGS or not is_carried_shape(array.shape):
        raise TypeError(f"{where} is an array of {array.dtype} and shape {array.shape}, which does not travel")
    typed = cbor2.CBORTag(TAGS[dtype.str], array.astype(dtype, copy=False).tobytes())
    return cbor2.CBORTag(ROW_MAJOR, [list(array.shape), typed])
