"""A call at a time that keeps changing: what drives a core that says when it is `due`."""

import asyncio
import math
from collections.abc import Callable

__all__ = ["Alarm"]

_SOONEST_S = 0.001
"""A core that is due at once again and again leaves the loop to others in between."""


class Alarm:
    """Calls `ring` at the time that was `set` last, on the running event loop; none is set at first."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring, self._loop = ring, asyncio.get_running_loop()
        self._at = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        """Instead of the time before; infinite: not at all."""
        if at == self._at:
            return
        self.cancel()
        self._at = at
        if at < math.inf:
            self._handle = self._loop.call_at(max(at, self._loop.time() + _SOONEST_S), self._rang)

    def cancel(self) -> None:
        """None is set any more."""
        self._at = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _rang(self) -> None:
        self._at, self._handle = math.inf, None
        self._ring()
