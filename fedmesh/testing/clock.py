"""Time that a test moves."""

import threading

__all__ = ["ManualClock"]


class ManualClock:
    """A `fedmesh.clock.Clock` that stands still until it is told to move; safe to share between threads.

    ``now()`` never decreases; ``sleep(s)`` returns at once and moves the clock by ``s``.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds."""
        with self._lock:
            return self._now_s

    def sleep(self, seconds: float) -> None:
        """Moves the clock instead of waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Moves the clock forward.

        Raises:
            ValueError: `seconds` is negative; a monotonic clock does not go back.
        """
        if not seconds >= 0:
            raise ValueError(f"a clock cannot be moved by {seconds} s: it only goes forward")
        with self._lock:
            self._now_s += seconds
