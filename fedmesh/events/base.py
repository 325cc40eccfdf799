"""What every event is, and who listens."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "Event",
    "EventSink",
    "Notice",
    "OfTask",
    "ignore",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Root of all facts."""


@dataclass(frozen=True, slots=True)
class OfTask(Event):
    """What one of several tasks that run side by side has told. `run` is 0 before it has an id."""

    task: str
    run: int
    event: Event


@dataclass(frozen=True, slots=True)
class Notice(Event):
    """Something that an operator should know, in words: what is wrong or waited for, and what to do about it."""

    text: str


EventSink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The sink for those who do not listen."""
