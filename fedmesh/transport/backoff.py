"""How long to wait before connecting again: doubling, and drawn at random so that a fleet does not return as one."""

import random

__all__ = ["Backoff"]


class Backoff:
    """Waits of `first_s`, twice that, and so on to `longest_s`, each multiplied by a number from a half to one."""

    def __init__(self, chance: random.Random, *, first_s: float = 0.5, longest_s: float = 60.0) -> None:
        self._chance, self._first_s, self._longest_s = chance, first_s, longest_s
        self._failures = 0

    def next_s(self) -> float:
        """Seconds to wait after one more failure."""
        wait_s = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return wait_s * (0.5 + self._chance.random() / 2)

    def reset(self) -> None:
        """It worked: the next failure is the first."""
        self._failures = 0
