"""Processor time beside wall time, the best of several, and the counts that a ratio is made of."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Samples:
    """Seconds of one operation, each time that it was done. `cpu_s` counts every thread of this process."""

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """One more sample."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu_s.append(time.process_time() - cpu)
        self.wall_s.append(time.perf_counter() - wall)

    @property
    def best(self) -> "Cost":
        """The least of each: what the operation costs when nobody else is on the machine."""
        return Cost(min(self.cpu_s), min(self.wall_s))

    @property
    def total(self) -> "Cost":
        return Cost(sum(self.cpu_s), sum(self.wall_s))


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of an operation; `extrapolated` when it was counted together from measured parts."""

    cpu_s: float
    wall_s: float
    extrapolated: bool = False

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu_s + other.cpu_s, self.wall_s + other.wall_s, self.extrapolated or other.extrapolated)

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu_s - other.cpu_s, self.wall_s - other.wall_s, self.extrapolated or other.extrapolated)

    def least(self, other: "Cost") -> "Cost":
        """The lesser of each."""
        return Cost(min(self.cpu_s, other.cpu_s), min(self.wall_s, other.wall_s))

    def times(self, count: int) -> "Cost":
        """This often, which was not run."""
        return Cost(self.cpu_s * count, self.wall_s * count, extrapolated=True)


def best_of(repeats: int, operation: Callable[[], object]) -> Cost:
    """Seconds of one call, the least of `repeats`."""
    samples = Samples()
    for _ in range(repeats):
        with samples.timed():
            operation()
    return samples.best
