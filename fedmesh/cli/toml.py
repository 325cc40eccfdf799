"""Writing TOML, which the standard library only reads: ``loads(dumps(tables)) == tables`` where nothing is None."""

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["dumps"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dumps(tables: Mapping[str, Any]) -> str:
    """`tables` as TOML: nested mappings of strings, booleans, finite numbers and lists; a None becomes a comment."""
    return "\n".join(_lines(tables, ())).strip() + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [
        f"{_key(key)} = {_value(value)}" for key, value in table.items() if not _is_table(value) and value is not None
    ]
    lines += [f"# {_key(key)} is not set" for key, value in table.items() if value is None]
    if path and (lines or not table):
        lines.insert(0, f"[{'.'.join(map(_key, path))}]")
    for key, value in table.items():
        if _is_table(value):
            lines += ["", *_lines(value, (*path, key))]
    return lines


def _is_table(value: Any) -> bool:
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
