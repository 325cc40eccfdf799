"""Strategies, clients, models and features are found by entry points: fedmesh never imports a plug-in by name."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedmesh.errors import ConfigError

__all__ = ["CLIENTS", "FEATURES", "MODELS", "STRATEGIES", "available", "find", "load"]

STRATEGIES = "fedmesh.strategies"
CLIENTS = "fedmesh.clients"
MODELS = "fedmesh.models"
FEATURES = "fedmesh.features"


def available(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point of every plug-in of `group` that is installed, by name."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def find(group: str, name: str) -> EntryPoint:
    """Entry point `name` of `group`, not imported yet.

    Raises:
        ConfigError: there is none of that name.
    """
    found = available(group)
    if name not in found:
        kind = group.rpartition(".")[2]
        raise ConfigError(f"{name!r} is not one of the {kind} installed: {', '.join(found) or 'none'}")
    return found[name]


def load(group: str, name: str) -> Any:
    """The object that entry point `name` of `group` names.

    Raises:
        ConfigError: there is none of that name, or importing it fails.
    """
    point = find(group, name)
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the entry point {name!r} of {group} cannot be loaded: {error}") from error
