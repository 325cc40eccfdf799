"""Summing for a group in one step, by the first of it that is alive: an untrusted server for some seconds.

It learns what every member learns, the sum. It can stop a step, leave members out and announce a wrong sum; it cannot
see an input, nor have a sum of fewer than the session's floor.
"""

import math

from fedmesh.errors import SecAggError
from fedmesh.mesh.gossip.messages import Down, Message, Open, Total, total_of
from fedmesh.mesh.gossip.rules import Rule
from fedmesh.mesh.gossip.run import Run
from fedmesh.secagg import Aggregator, Identity, Roster

__all__ = ["Leading"]


class Leading:
    """One group's step, by its leader.

    Attributes:
        outgoing: (to, message), for the caller to take away; some may be for the leader itself.
        is_over: it came to a sum, which is told to all who took part, or to nothing.
    """

    def __init__(self, run: Run, step: int, *, name: str, identity: Identity, roster: Roster, rule: Rule) -> None:
        self._run, self._step, self._name = run, step, name
        self._identity, self._roster, self._rule = identity, roster, rule
        self._group = run.group(step, name)
        self._here: set[str] = set()
        self._aggregator: Aggregator | None = None
        self._close_at = math.inf
        self.outgoing: list[tuple[str, Message]] = []
        self.is_over = False

    @property
    def is_open(self) -> bool:
        """Whether its session has begun."""
        return self._aggregator is not None

    @property
    def due(self) -> float:
        """When `pulse` has something to do, at the latest."""
        return math.inf if self.is_over else self._close_at

    def gather(self, sender: str, alive: frozenset[str], now: float, *, since: float | None = None) -> None:
        """A member is in the step, `since` then. When all that are alive are, or had their time, the session begins."""
        if self._aggregator is not None or sender not in self._group or self.is_over:
            return
        began = now if since is None else since
        self._close_at = min(self._close_at, began + self._run.wait_s + self._run.train_s)
        self._here.add(sender)
        self.expect(alive, now)

    def expect(self, alive: frozenset[str], now: float) -> None:
        """Nobody else will come, or answer: who is not among these is not waited for."""
        aggregator = self._aggregator
        if self.is_over or not self._here:
            return
        if aggregator is None and alive & set(self._group) <= self._here:
            self._open(now)
        elif aggregator is not None and not aggregator.awaiting & alive:
            self._close_at = min(self._close_at, now)

    def take(self, sender: str, data: bytes, now: float) -> None:
        """A message of secure aggregation. Raises: SecAggError: it is refused."""
        aggregator = self._aggregator
        if aggregator is None or self.is_over:
            return
        before = aggregator.step
        try:
            messages = aggregator.handle(sender, data)
        except SecAggError:
            self.is_over = aggregator.step == "aborted"
            raise
        self._on(aggregator, before, messages, now)

    def pulse(self, now: float) -> None:
        """Goes on without those that are not heard of in time."""
        if self.is_over or now < self._close_at:
            return
        aggregator = self._aggregator
        if aggregator is None:
            self._open(now)
            return
        before = aggregator.step
        try:
            messages = aggregator.advance()
        except SecAggError:  # too few are left: nobody was told anything
            self.is_over = True
            return
        self._on(aggregator, before, messages, now)

    def _open(self, now: float) -> None:
        cohort = tuple(name for name in self._group if name in self._here)
        try:
            header = self._run.header(self._step, cohort, self._rule)
            self._aggregator = Aggregator(header, self._identity, self._roster)
        except SecAggError:  # too few are here
            self.is_over = True
            return
        self._close_at = now + self._run.wait_s
        self.outgoing += [(name, Open(self._step, cohort)) for name in cohort]

    def _on(self, aggregator: Aggregator, before: str, messages: list[tuple[str, bytes]], now: float) -> None:
        self.outgoing += [(name, Down(self._step, data)) for name, data in messages]
        if aggregator.step != before:
            self._close_at = now + self._run.wait_s
        if aggregator.result is not None:
            total: Total = total_of(aggregator.result, aggregator.header)
            self.outgoing += [(name, total) for name in total.cohort]
            self.is_over = True
