"""A strategy's state as plain data, so that a resumed run goes on as if it had never stopped. No pickle.

A strategy that offers ``snapshot()`` and ``restore(state)`` is asked. Any other Flower strategy (FedAdam with its
moments, wrappers around another strategy) is read attribute by attribute; functions are left alone, and what is neither
plain data, an array, a Flower record, a seeded generator nor a strategy is refused by name when the run begins.

Not covered: Flower's own strategies draw nodes from Python's global generator, which is nobody's state.
"""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import Strategy

from fedmesh import wire
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.flower.records import decode_arrays, decode_values, encode_arrays, encode_values

__all__ = ["Stateful", "restore", "snapshot"]

_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    functools.partial,
    np.ufunc,
    type,
)
_INT64 = range(-(1 << 63), 1 << 63)


@runtime_checkable
class Stateful(Protocol):
    """A strategy that knows its own state."""

    def snapshot(self) -> Mapping[str, Any]:
        """Plain data: None, numbers, text, bytes, lists, dicts and numpy arrays."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `snapshot` gave."""
        ...


def snapshot(strategy: Strategy) -> bytes:
    """The strategy's state.

    Raises:
        ConfigError: an attribute cannot be written; the message names it.
    """
    return wire.dumps(_state(strategy))


def restore(strategy: Strategy, state: bytes) -> None:
    """Puts the strategy into the state that `snapshot` of a like strategy gave.

    Raises:
        ConfigError: the state is of a strategy of another kind.
    """
    try:
        _set_state(strategy, wire.loads(state, max_bytes=len(state), max_items=len(state) + 1))
    except (DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"the journal's state does not fit {type(strategy).__name__}: {error}") from error


def _state(strategy: Strategy) -> dict[str, Any]:
    name = type(strategy).__name__
    if isinstance(strategy, Stateful):
        return {"class": name, "own": _write(dict(strategy.snapshot()), name)}
    values = {key: value for key, value in vars(strategy).items() if not isinstance(value, _FUNCTIONS)}
    return {"class": name, "attributes": [[key, _write(value, f"{name}.{key}")] for key, value in values.items()]}


def _set_state(strategy: Strategy, content: Mapping[str, Any]) -> None:
    if content["class"] != type(strategy).__name__:
        raise ConfigError(f"the journal holds the state of {content['class']}, this is {type(strategy).__name__}")
    if isinstance(strategy, Stateful):
        strategy.restore(_read(content["own"]))
        return
    for key, value in content["attributes"]:
        if isinstance(value, dict) and value["t"] == "strategy":
            _set_state(getattr(strategy, key), value["v"])
        else:
            setattr(strategy, key, _read(value))


def _write(value: Any, where: str) -> Any:
    """Plain data that `wire` carries, with a tag ("t") around what it would change (order, tuples, numpy scalars)."""
    if value is None or isinstance(value, bool | str | bytes):
        return value
    if type(value) is float or (type(value) is int and value in _INT64):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        return value
    if isinstance(value, list):
        return [_write(item, f"{where}[{i}]") for i, item in enumerate(value)]
    for kind, (accepts, write, _) in _KINDS.items():
        if accepts(value):
            return {"t": kind, "v": write(value, where)}
    raise ConfigError(
        f"{where} is a {type(value).__name__}, which cannot be journaled, so the run could not be resumed: give the "
        "strategy snapshot() and restore(state) methods that use plain data"
    )


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(item) for item in value]
    if isinstance(value, dict):
        return _KINDS[value["t"]][2](value["v"])
    return value


def _write_pairs(value: Mapping[Any, Any], where: str) -> list[Any]:
    return [[_write(key, where), _write(item, f"{where}[{key!r}]")] for key, item in value.items()]


def _read_generator(state: Any) -> np.random.Generator:
    plain = _read(state)
    kind = getattr(np.random, plain["bit_generator"])
    if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)):
        raise DecodeError(f"{plain['bit_generator']!r} is not one of numpy's generators")
    bits = kind()
    bits.state = plain
    return np.random.Generator(bits)


_Kind = tuple[Callable[[Any], bool], Callable[[Any, str], Any], Callable[[Any], Any]]
_KINDS: dict[str, _Kind] = {
    "strategy": (lambda v: isinstance(v, Strategy), lambda v, _: _state(v), lambda v: v),
    "arrays": (lambda v: isinstance(v, ArrayRecord), lambda v, _: encode_arrays(v), decode_arrays),
    "values": (
        lambda v: isinstance(v, ConfigRecord | MetricRecord),
        lambda v, _: encode_values(v),
        decode_values,
    ),
    "dict": (
        lambda v: type(v) is dict,
        _write_pairs,
        lambda v: {_key(_read(key)): _read(item) for key, item in v},
    ),
    "tuple": (
        lambda v: isinstance(v, tuple),
        lambda v, where: _write(list(v), where),
        lambda v: tuple(_read(v)),
    ),
    "set": (
        lambda v: isinstance(v, set | frozenset),
        lambda v, where: _write(sorted(v), where),
        lambda v: set(_read(v)),
    ),
    "int": (lambda v: type(v) is int, lambda v, _: str(v), int),
    "scalar": (
        lambda v: isinstance(v, np.number),
        lambda v, _: np.asarray(v),
        lambda v: v[()],
    ),
    "mask": (
        lambda v: isinstance(v, np.bool_) or (isinstance(v, np.ndarray) and v.dtype == np.bool_),
        lambda v, _: np.asarray(v).astype(np.uint8),
        lambda v: v.astype(np.bool_)[()],
    ),
    "generator": (
        lambda v: isinstance(v, np.random.Generator),
        lambda v, where: _write(v.bit_generator.state, where),
        _read_generator,
    ),
}


def _key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key
