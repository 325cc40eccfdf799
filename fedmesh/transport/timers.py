"""Time as a transport sees it: monotonic seconds, and calls at a time; a test moves its own."""

import asyncio
from collections.abc import Callable
from typing import Protocol

__all__ = ["LoopTimers", "Timer", "Timers"]


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """It is not made."""
        ...


class Timers(Protocol):
    """Monotonic time, and calls at a time."""

    def now(self) -> float:
        """Seconds."""
        ...

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Calls once, on the event loop."""
        ...


class LoopTimers:
    """The running event loop's own."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        """Seconds."""
        return self._loop.time()

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """As `Timers`."""
        return self._loop.call_at(when, call)
