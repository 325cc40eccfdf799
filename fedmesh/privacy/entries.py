"""What the lines of a ledger say, apart from how they are chained: JSON objects <-> entries. See docs/ledger.md.

Entry 0 is the opening; every other one is a charge, the budget of a task, or the settlement of an earlier charge.
Format 1 knows charges only, and the example level only. An object that is not exactly one of these is refused: what
this version does not know, it cannot count.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from fedmesh.errors import ConfigError, LedgerError
from fedmesh.privacy.settings import Level
from fedmesh.types import PrivacyEvent

__all__ = [
    "FORMAT",
    "FORMAT_1",
    "Charge",
    "Entry",
    "Opening",
    "Settlement",
    "TaskBudget",
    "check_budget",
    "check_settlement",
    "damaged",
    "entry_body",
    "opening_body",
    "read_entry",
    "read_opening",
]

FORMAT_1 = "fedmesh-ledger/1"
FORMAT = "fedmesh-ledger/2"
_NO_LESS = frozenset({"noise_multiplier", "variance"})
"""Parameters of which more costs less; of all others, less costs less."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Entry 0: the device's whole budget on one level, in the format of the lines that follow."""

    epsilon: float
    delta: float
    level: Level = "example"
    format: str = FORMAT


@dataclass(frozen=True, slots=True)
class Charge:
    """What was paid for, and the release that may be repeated for nothing because it repeats its noise."""

    event: PrivacyEvent
    release_id: str | None = None


@dataclass(frozen=True, slots=True)
class TaskBudget:
    """What one task may spend of the device's budget. `name` is what stands before the first slash of its labels."""

    name: str
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        """Raises: ConfigError: the name or the budget means nothing."""
        if not self.name or "/" in self.name:
            raise ConfigError(f"a task's name in a ledger is {self.name!r}: it must not be empty or hold a slash")
        check_budget(self.epsilon, self.delta)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the charge of entry `entry` cost in truth: `event`, which is no more than what was charged."""

    entry: int
    event: PrivacyEvent


Entry = Charge | TaskBudget | Settlement


def check_budget(epsilon: float, delta: float) -> None:
    """Raises: ConfigError: it means nothing."""
    if not (math.isfinite(epsilon) and epsilon > 0 and 0 < delta < 1):
        raise ConfigError(f"a budget of epsilon {epsilon} at delta {delta} means nothing: e.g. epsilon 8, delta 1e-5")


def check_settlement(charged: PrivacyEvent, settled: PrivacyEvent) -> str | None:
    """Why `settled` cannot stand for `charged`; None if it can: it is the same, but for parameters that cost less."""
    if (charged.mechanism, charged.count) != (settled.mechanism, settled.count):
        return "is of another mechanism or count"
    if set(charged.parameters) != set(settled.parameters):
        return "has other parameters"
    for name, value in settled.parameters.items():
        paid = charged.parameters[name]
        if not (value >= paid if name in _NO_LESS else value <= paid):
            return f"costs more: its {name} is {value:g}, {paid:g} was charged"
    return None


def opening_body(opening: Opening) -> dict[str, Any]:
    """Entry 0 as JSON."""
    body = {"delta": opening.delta, "entry": 0, "epsilon": opening.epsilon, "format": opening.format}
    return body if opening.format == FORMAT_1 else {**body, "level": opening.level}


def entry_body(entry: Entry, number: int) -> dict[str, Any]:
    """Entry `number` >= 1 as JSON."""
    match entry:
        case TaskBudget(name, epsilon, delta):
            return {"delta": delta, "entry": number, "epsilon": epsilon, "task": name}
        case Settlement(settled, event):
            return {"entry": number, "settles": settled, **_event_body(event)}
        case Charge(event, release_id):
            return {"entry": number, "label": event.label, "release": release_id, **_event_body(event)}


def read_opening(body: Mapping[str, Any]) -> Opening:
    """The inverse of `opening_body`. Raises: LedgerError: it is not one."""
    match body:
        case {"format": "fedmesh-ledger/1", "epsilon": epsilon, "delta": delta, "entry": 0, **rest} if not rest:
            level: Any = "example"
        case {
            "format": "fedmesh-ledger/2",
            "epsilon": epsilon,
            "delta": delta,
            "level": level,
            "entry": 0,
            **rest,
        } if not rest:
            pass
        case {"format": str(name)} if name not in {FORMAT_1, FORMAT}:
            raise LedgerError(
                f"the privacy ledger has format {name!r}, this version reads {FORMAT_1!r} and {FORMAT!r}: use the "
                "version that wrote it"
            )
        case _:
            raise damaged(0, "states no budget")
    if not _numbers(epsilon, delta) or level not in get_args(Level):
        raise damaged(0, "states no budget")
    return Opening(float(epsilon), float(delta), level, body["format"])


def read_entry(body: Mapping[str, Any], number: int, form: str) -> Entry:
    """The inverse of `entry_body`, in a ledger of format `form`. Raises: LedgerError: it is not one."""
    entry = _read(body)
    if entry is None or (form == FORMAT_1 and not isinstance(entry, Charge)):
        raise damaged(number, "is not an entry of its format")
    if isinstance(entry, Settlement) and not 0 < entry.entry < number:
        raise damaged(number, "settles what is not before it")
    return entry


def damaged(number: int, what: str) -> LedgerError:
    """The error of a ledger whose entry `number` is not what was written."""
    return LedgerError(
        f"the privacy ledger is damaged: entry {number} {what}. Restore it from a copy; without it nobody can say what "
        "this device has spent, and it must not train"
    )


def _read(body: Mapping[str, Any]) -> Entry | None:
    match body:
        case {
            "count": int(),
            "entry": int(),
            "label": str(),
            "mechanism": str(),
            "parameters": dict(),
            "release": str() | None as release,
            **rest,
        } if not rest:
            event = _event(body, body["label"])
            return None if event is None else Charge(event, release)
        case {
            "count": int(),
            "entry": int(),
            "mechanism": str(),
            "parameters": dict(),
            "settles": int(settled),
            **rest,
        } if not rest:
            event = _event(body, "") if _numbers(settled) else None
            return None if event is None else Settlement(settled, event)
        case {"delta": delta, "entry": int(), "epsilon": epsilon, "task": str(name), **rest} if not rest:
            return _task_budget(name, epsilon, delta)
    return None


def _event_body(event: PrivacyEvent) -> dict[str, Any]:
    return {"count": event.count, "mechanism": event.mechanism, "parameters": dict(event.parameters)}


def _event(body: Mapping[str, Any], label: str) -> PrivacyEvent | None:
    count, parameters = body["count"], body["parameters"]
    if count < 1 or not _numbers(count, *parameters.values()):
        return None
    return PrivacyEvent(body["mechanism"], {name: float(value) for name, value in parameters.items()}, count, label)


def _task_budget(name: str, epsilon: object, delta: object) -> TaskBudget | None:
    if not _numbers(epsilon, delta):
        return None
    try:
        return TaskBudget(name, float(epsilon), float(delta))  # type: ignore[arg-type]  # _numbers has looked
    except ConfigError:
        return None


def _numbers(*values: object) -> bool:
    """Finite JSON numbers that a float64 holds: Python's reader takes NaN and Infinity too, and true is an int."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= sys.float_info.max for v in values)
