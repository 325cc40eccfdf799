"""A feature map as a file: deterministic CBOR behind its SHA-256, bounded on the way in; never pickle."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.features.feature_map import FINEST, MOST_COMPONENTS, MOST_FEATURES, FeatureMap
from fedmesh.files import write_atomically
from fedmesh.wire import dumps, loads

__all__ = ["decode", "digest", "encode", "load", "save"]

MAX_BYTES = 1 << 26
_CHECKSUM = 32
_FORMAT = "fedmesh.features/1"
_KEYS = {"format", "name", "options", "input_shape", "centre", "spread", "whitening", "bias"}
_MAX_ITEMS, _MAX_DEPTH = 1024, 8


def encode(features: FeatureMap) -> bytes:
    """The file's content; equal maps give equal bytes."""
    body = dumps(
        {
            "format": _FORMAT,
            "name": features.name,
            "options": features.options,
            "input_shape": list(features.input_shape),
            "centre": features.centre,
            "spread": features.spread,
            "whitening": features.whitening,
            "bias": features.bias,
        }
    )
    return hashlib.sha256(body).digest() + body


def digest(features: FeatureMap) -> bytes:
    """SHA-256 of the map, 32 bytes: what a task may pin, and the file's first bytes."""
    return encode(features)[:_CHECKSUM]


def decode(data: bytes) -> FeatureMap:
    """The map in a file's content.

    Raises:
        DecodeError: damaged, oversized, or not a map.
        ConfigError: its extractor is not installed here, or refuses its options.
    """
    if len(data) > MAX_BYTES:
        raise DecodeError(f"a feature map has {len(data)} bytes, at most {MAX_BYTES} are read")
    checksum, body = data[:_CHECKSUM], data[_CHECKSUM:]
    if hashlib.sha256(body).digest() != checksum:
        raise DecodeError("the feature map is damaged: its SHA-256 differs")
    return _checked(loads(body, max_bytes=MAX_BYTES, max_depth=_MAX_DEPTH, max_items=_MAX_ITEMS))


def save(features: FeatureMap, path: Path) -> None:
    """Writes the file, whole or not at all. Raises: ConfigError: it cannot be written."""
    write_atomically(path, encode(features))


def load(path: Path, *, sha256: bytes | None = None) -> FeatureMap:
    """The map in a file.

    Args:
        sha256: the `digest` that it must have, 32 bytes; None: any.

    Raises:
        ConfigError: missing, unreadable, damaged, another map than the one pinned, or not usable here.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give the features.cbor of a run") from error
    try:
        found = decode(data)
    except DecodeError as error:
        raise ConfigError(f"{path} is no feature map: {error}; take it from the run again") from error
    if sha256 is not None and data[:_CHECKSUM] != sha256:
        raise ConfigError(
            f"{path} is another feature map (SHA-256 {data[:8].hex()}...) than the one pinned ({sha256[:8].hex()}...)"
        )
    return found


def _checked(value: Any) -> FeatureMap:
    if not isinstance(value, dict) or set(value) != _KEYS or value["format"] != _FORMAT:
        raise DecodeError(f"wanted the keys of {_FORMAT}")
    name, options, shape, bias = value["name"], value["options"], value["input_shape"], value["bias"]
    if not isinstance(name, str) or not isinstance(options, dict) or not all(map(_is_option, options.items())):
        raise DecodeError("the extractor's name or options are not plain")
    if not (isinstance(shape, list) and 1 <= len(shape) <= 4 and all(type(side) is int and side > 0 for side in shape)):
        raise DecodeError(f"the examples' shape is {shape!r}")
    if math.prod(shape) > MAX_BYTES:
        raise DecodeError(f"examples of shape {shape} are larger than any that is handled")
    if not isinstance(bias, float) or not math.isfinite(bias):
        raise DecodeError(f"the bias is {bias!r}")
    centre, spread, whitening = value["centre"], value["spread"], value["whitening"]
    _check_arrays(centre, spread, whitening)
    return FeatureMap(name, options, tuple(shape), centre, spread, whitening, bias)


def _is_option(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], int | float | str | bool)


def _check_arrays(centre: NDArray[Any], spread: NDArray[Any], whitening: NDArray[Any]) -> None:
    arrays = (
        ("centre", centre, np.float64, 1),
        ("spread", spread, np.float64, 1),
        ("whitening", whitening, np.int32, 2),
    )
    for what, array, dtype, axes in arrays:
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != axes:
            raise DecodeError(f"{what} is no {np.dtype(dtype).name} array of {axes} axes")
    size, components = whitening.shape
    if not (1 <= components <= MOST_COMPONENTS and 1 <= size <= MOST_FEATURES):
        raise DecodeError(f"{size} features and {components} components are not handled")
    if not centre.shape == spread.shape == (size,):
        raise DecodeError(f"shapes {centre.shape}, {spread.shape} and {whitening.shape} do not belong together")
    if not (np.isfinite(centre).all() and np.isfinite(spread).all() and (spread > 0).all()):
        raise DecodeError("the moments are not finite, or a spread is not positive")
    if np.abs(whitening.astype(np.int64)).max() > FINEST:
        raise DecodeError(f"the whitening reaches beyond {FINEST}: its sums would not be exact")
