"""Strategies, clients and models are found by entry points: fedmesh never imports a plug-in by name."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedmesh.errors import ConfigError

__all__ = ["CLIENTS", "MODELS", "STRATEGIES", "available", "load"]

STRATEGIES = "fedmesh.strategies"
CLIENTS = "fedmesh.clients"
MODELS = "fedmesh.models"


def available(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point of every plug-in of `group` that is installed, by name."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load(group: str, name: str) -> Any:
    """The object that entry point `name` of `group` names.

    Raises:
        ConfigError: there is none of that name, or importing it fails.
    """
    found = available(group)
    if name not in found:
        kind = group.rpartition(".")[2]
        raise ConfigError(f"{name!r} is not one of the {kind} installed: {', '.join(found) or 'none'}")
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the entry point {name!r} of {group} cannot be loaded: {error}") from error
