"""Names of a package that are loaded when they are first used (PEP 562), so that importing it stays light."""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

__all__ = ["load"]


def load(package: str, homes: Mapping[str, str], name: str) -> Any:
    """What the ``__getattr__`` of `package` answers; from then on the name is an ordinary one of the package.

    Args:
        package: its ``__name__``.
        homes: name -> module of the package that has it.
        name: what was asked for.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(import_module(f"{package}.{homes[name]}"), name)
    setattr(sys.modules[package], name, value)
    return value
