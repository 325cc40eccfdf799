"""The types of what a coordinator sends as a task: a dataclass takes anything, and a device computes with it."""

import math
from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from fedmesh.errors import ConfigError

__all__ = ["check_fields"]

_LONGEST_TEXT = 200


def check_fields(kind: type, values: Mapping[str, Any]) -> None:
    """Holds the plain fields of `values` against the annotations of the dataclass `kind`; nested ones check themselves.

    A float may be a whole number and is finite, a bool is no number, texts have 1 to 200 characters.

    Raises:
        ConfigError: one is of another type, or not finite.
    """
    for field in fields(kind):
        if field.name in values and not _is(values[field.name], field.type):
            found = values[field.name]
            raise ConfigError(f"{field.name} of a task is {found!r:.80}, wanted {_named(field.type)}")


def _is(value: Any, wanted: Any) -> bool:
    origin, parts = get_origin(wanted), get_args(wanted)
    if isinstance(wanted, UnionType):
        return any(_is(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_is(item, parts[0]) for item in value)
    if origin is not None:  # a mapping, which is checked by who reads it
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return _is_plain(value, wanted)


def _is_plain(value: Any, wanted: Any) -> bool:
    if wanted is float:
        return type(value) in {int, float} and math.isfinite(value)
    if wanted is str:
        return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT
    return type(value) is wanted if wanted in {int, bool, type(None)} else True


def _named(wanted: Any) -> str:
    return str(getattr(wanted, "__name__", wanted))
