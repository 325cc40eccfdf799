"""Whether a model that was just swapped in does well on real requests: a judge over a window of them.

Bad, at once: a logit that is not finite, or more failures than the window may hold. Bad, at the window's end: it is
much slower than the one before it was on its last requests. Good otherwise, or when the time is up with nothing bad: a
node without requests does not try a model for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

from fedmesh.errors import ConfigError

__all__ = ["Health", "HealthLimits", "Outcome", "Verdict", "median_of"]

Outcome = Literal["good", "failed", "not finite"]


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """What a new model is held to.

    Attributes:
        window: requests that it is tried on.
        failures: the share of them that may fail.
        slowdown: how many times the median of the model before it an example may take, ...
        least_s: ... where that is more than this many seconds.
        deadline_s: how long it is tried.
    """

    window: int = 50
    failures: float = 0.02
    slowdown: float = 10.0
    least_s: float = 0.05
    deadline_s: float = 600.0

    def __post_init__(self) -> None:
        if self.window < 1 or not 0 <= self.failures < 1 or self.slowdown <= 0 or self.deadline_s <= 0:
            raise ConfigError(
                f"{self} cannot be kept: a window of 1 or more, failures from 0 and below 1, the rest above 0"
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it; `reason` says why a bad one is bad."""

    good: bool
    reason: str = ""


class Health:
    """Judges one model; for any number of threads.

    Args:
        baseline_s: the median seconds of an example under the model before; None: its speed is not judged.
        now: monotonic seconds.
    """

    def __init__(self, limits: HealthLimits, *, baseline_s: float | None, now: float) -> None:
        self._limits, self._baseline_s, self._until = limits, baseline_s, now + limits.deadline_s
        self._lock = Lock()
        self._spent: list[float] = []
        self._failed = 0
        self._verdict: Verdict | None = None

    def observe(self, outcome: Outcome, seconds: float, now: float) -> Verdict | None:
        """One request, and the seconds of one of its examples; the verdict, once there is one."""
        with self._lock:
            if self._verdict is None:
                self._spent.append(seconds)
                self._failed += outcome == "failed"
                self._verdict = self._judged(outcome)
        return self.verdict(now)

    def verdict(self, now: float) -> Verdict | None:
        """What came of it; None: it is still tried."""
        with self._lock:
            if self._verdict is None and now >= self._until:
                self._verdict = self._judged_by_speed()
            return self._verdict

    def _judged(self, outcome: Outcome) -> Verdict | None:
        limits = self._limits
        if outcome == "not finite":
            return Verdict(good=False, reason="its logits are not finite")
        if self._failed > limits.failures * limits.window:
            return Verdict(good=False, reason=f"{self._failed} of {len(self._spent)} requests failed")
        return self._judged_by_speed() if len(self._spent) >= limits.window else None

    def _judged_by_speed(self) -> Verdict:
        typical, limits = median_of(self._spent), self._limits
        if self._baseline_s is not None and typical is not None:
            allowed = max(limits.slowdown * self._baseline_s, limits.least_s)
            if typical > allowed:
                return Verdict(good=False, reason=f"an example takes {typical:.3g} s, {allowed:.3g} s are allowed")
        return Verdict(good=True)


def median_of(values: Sequence[float]) -> float | None:
    """The median; None: there are no values."""
    from statistics import median  # it brings fractions along, which a node without a model does without

    return median(values) if values else None
