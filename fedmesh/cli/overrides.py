"""``--set table.key=value``: the value is written as in TOML, and a bare word is a string."""

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from fedmesh.errors import ConfigError

__all__ = ["parse"]

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_BARE = re.compile(r"[^\s\"'\[\]{}=,#]+")
_EXAMPLE = "wanted table.key=value, as in --set privacy.epsilon=3"


def parse(assignments: Iterable[str]) -> dict[str, Any]:
    """Dotted key -> value; of a key that comes twice the last value.

    Raises:
        ConfigError: an assignment is not of that form.
    """
    return dict(_one(assignment) for assignment in assignments)


def _one(assignment: str) -> tuple[str, Any]:
    key, equals, text = (part.strip() for part in assignment.partition("="))
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(f"--set {assignment!r} is not an assignment: {_EXAMPLE}")
    if not text:
        raise ConfigError(f"--set {assignment!r} has no value: {_EXAMPLE}; the empty text is {key}='\"\"'")
    return key, _value(text, assignment)


def _value(text: str, assignment: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if _BARE.fullmatch(text):
            return text
        raise ConfigError(f"--set {assignment!r} has a value that is not TOML: {error}") from error
    if set(parsed) != {"value"}:
        raise ConfigError(f"--set {assignment!r} holds more than one value: {_EXAMPLE}")
    return parsed["value"]
