"""One event of each kind that there is, and what a registry exports of them."""

import typing
from dataclasses import MISSING, fields
from typing import Any

from prometheus_client import CollectorRegistry

from fedmesh import events
from fedmesh.events import Event

_WORDS: dict[str, Any] = {"stage": "train", "survivors": 9, "device": 3}
_OF_TYPE: dict[Any, Any] = {int: 1, float: 1.5, str: "word", bool: True, Event: events.RunFinished(1.5)}


def _one(kind: type[Event]) -> Event:
    hints = typing.get_type_hints(kind)
    values = {}
    for field in fields(kind):
        if field.default is MISSING:
            plain = [arm for arm in typing.get_args(hints[field.name]) or (hints[field.name],) if arm in _OF_TYPE]
            values[field.name] = _WORDS.get(field.name, _OF_TYPE[plain[0]])
    return kind(**values)


_PUBLIC = [getattr(events, name) for name in events.__all__]
EVERY_EVENT: tuple[Event, ...] = tuple(
    _one(kind) for kind in _PUBLIC if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
)


def samples(registry: CollectorRegistry) -> dict[tuple[object, ...], float]:
    """(name, (label, value)...), labels in order -> value of every sample."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
