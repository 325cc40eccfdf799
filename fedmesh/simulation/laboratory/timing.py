"""How long a step took, for people."""

import time

__all__ = ["Stopwatch"]


class Stopwatch:
    """Seconds since it was made, or since the last `lap`."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._begun = self._begun, time.monotonic()
        return self._begun - before
