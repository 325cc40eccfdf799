"""A token bucket: how much may be sent so that over any while it is no more than so many bytes a second."""

import math

from fedmesh.errors import ConfigError

__all__ = ["Bucket"]

_BURST_S = 0.05


class Bucket:
    """Over any `t` seconds at most ``rate * (t + 0.05)`` bytes are taken, and what was taken last.

    Args:
        rate: bytes a second, or None: no limit.
    """

    def __init__(self, rate: float | None, now: float) -> None:
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigError(f"a limit of {rate} bytes a second: it has to be positive, or left out")
        self._rate, self._at = rate, now
        self._tokens = 0.0 if rate is None else rate * _BURST_S

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._rate is not None

    def wait_s(self, now: float) -> float:
        """Seconds until something may be taken; 0: now."""
        if self._rate is None:
            return 0.0
        self._tokens = min(self._rate * _BURST_S, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return 0.0 if self._tokens > 0 else max(0.001, -self._tokens / self._rate)

    def take(self, size: int) -> None:
        """So many bytes were sent; the debt is waited for."""
        if self._rate is not None:
            self._tokens -= size
