"""Writing TOML, which the standard library only reads: ``loads(dumps(tables)) == tables`` where nothing is None."""

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["dumps"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dumps(tables: Mapping[str, Any]) -> str:
    """`tables` as TOML: nested mappings of strings, booleans, finite numbers and lists; a None becomes a comment.

    A list of mappings becomes an array of tables.
    """
    return "\n".join(_lines(tables, ())).strip() + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...], *, one_of_many: bool = False) -> list[str]:
    lines = [
        f"{_key(key)} = {_value(value)}" for key, value in table.items() if not _is_table(value) and value is not None
    ]
    lines += [f"# {_key(key)} is not set" for key, value in table.items() if value is None]
    name = ".".join(map(_key, path))
    if one_of_many:
        lines.insert(0, f"[[{name}]]")
    elif path and (lines or not table):
        lines.insert(0, f"[{name}]")
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", *_lines(value, (*path, key))]
        elif _is_table(value):
            for item in value:
                lines += ["", *_lines(item, (*path, key), one_of_many=True)]
    return lines


def _is_table(value: Any) -> bool:
    """Whether `value` is a mapping, or some in a list."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"{type(value).__name__} has no place in a scenario")
