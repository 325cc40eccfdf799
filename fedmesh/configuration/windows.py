"""Hours in which a device may work, as ``22:00-06:00`` or ``mon-fri 01:00-05:30``, in the device's local time."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator

from fedmesh.errors import ConfigError

__all__ = ["Window", "WindowValue"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = r"([01]\d|2[0-3]):([0-5]\d)"
_WINDOW = re.compile(rf"(?:([a-z]{{3}}(?:[-,][a-z]{{3}})*) )?{_CLOCK}-(?:{_CLOCK}|24:00)")


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` up to `end`, minutes since midnight; where `end` is not later it is the next day's.

    Attributes:
        days: on which it begins, Monday is 0.
    """

    days: frozenset[int]
    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The window that `text` spells. Raises: ConfigError: it spells none."""
        match = _WINDOW.fullmatch(text)
        days = _days(match[1]) if match else None
        if match is None or days is None:
            raise ConfigError(f"{text!r:.80} is no window: wanted '22:00-06:00' or 'mon-fri 01:00-05:30'")
        end = 24 * 60 if match[4] is None else 60 * int(match[4]) + int(match[5])
        return cls(days, 60 * int(match[2]) + int(match[3]), end)

    def contains(self, local: datetime) -> bool:
        """Whether the wall clock time `local` lies in it; on a night of 25 hours it may last an hour longer."""
        minute, today = 60 * local.hour + local.minute, local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        begun_today = today in self.days and minute >= self.start
        return begun_today or ((today - 1) % 7 in self.days and minute < self.end)


def _days(text: str | None) -> frozenset[int] | None:
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        ends = part.split("-")
        if len(ends) > 2 or not set(ends) <= set(_DAYS):
            return None
        first, last = _DAYS.index(ends[0]), _DAYS.index(ends[-1])
        found.update((first + step) % 7 for step in range((last - first) % 7 + 1))
    return frozenset(found)


def _window(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return Window.parse(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error


WindowValue = Annotated[Window, BeforeValidator(_window)]
