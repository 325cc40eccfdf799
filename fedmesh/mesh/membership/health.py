"""How well this member itself keeps up: Lifeguard's local health multiplier (section IV-A).

A member that is slow, overloaded or cut off sees others fail. The more it has reason to doubt itself, the longer it
waits before it says so.
"""

__all__ = ["LocalHealth"]


class LocalHealth:
    """A score from 0, all is well, to `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.score = 0

    @property
    def multiplier(self) -> int:
        """What periods and timeouts of probes are multiplied by."""
        return self.score + 1

    def better(self) -> None:
        """A probe was answered."""
        self.score = max(0, self.score - 1)

    def worse(self, by: int = 1) -> None:
        """A probe failed and helpers said nothing either, this member had to refute, or it stood still for a while."""
        self.score = min(self._limit, self.score + by)
