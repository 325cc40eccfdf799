"""One member of gossip averaging: trains, averages with the group of the step, and goes on; there is no one in charge.

Sans-IO. A step is over, for a member, in one of three ways (`Outcome`):

* ``mixed``: its input was in the sum, and it took its part of it. Those who are in a sum have signed for the set, so
  that all of them agree about it, and the mean over all members stays what it was, to the last unit.
* ``left-out``: its input was in no sum for certain; it keeps what it has trained.
* ``unsettled``: its input left it, and nobody could say what became of it. It goes back to what it was before any
  training that is in no sum for certain, so that none is ever in two. Only then does the mean move: by the distance
  between what it goes back to and its part, over the number of members, and by no more.

Not guaranteed: that a leader tells the right sum, nor that it tells all the same.
"""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fedmesh.errors import ConfigError, DecodeError, SecAggError
from fedmesh.mesh.gossip.grid import Codes
from fedmesh.mesh.gossip.leading import Leading
from fedmesh.mesh.gossip.messages import Down, Here, Message, Open, Total, Up, Wanted, encode, read, read_sum
from fedmesh.mesh.gossip.mixing import Prepared
from fedmesh.mesh.gossip.rules import Rule
from fedmesh.mesh.gossip.run import Run
from fedmesh.secagg import Identity, Participant, Policy, Roster, SessionHeader

__all__ = ["Member", "Outcome", "Send"]

Outcome = Literal["mixed", "left-out", "unsettled"]

Send = tuple[str, bytes]
"""To whom, and what; it may be lost."""

_KEPT_SUMS = 4
_ASKS = 3  # for a sum that did not come
_SESSION_WAITS = 6  # steps of secure aggregation, and one more for the messages


class Member:
    """What its methods return is to be sent; `due` is when `tick` is to be called.

    Args:
        run: the run. name: this member's.
        identity: its key pair. roster: keys of all members.
        rule: of what it puts into sums.
        codes: the model to begin with, int64 [P]. step: the last one that it began before.
        settled: that model without trainings that are in no sum; None: there are none in it.
        floor: what this device insists on besides, by its operator.
        store_path: where it remembers what it has signed, see `Participant`.
        max_bytes: longest message.

    Raises:
        ConfigError: it is no member of the run.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        *,
        identity: Identity,
        roster: Roster,
        rule: Rule,
        codes: Codes,
        settled: Codes | None = None,
        step: int = -1,
        floor: Policy | None = None,
        store_path: Path | None = None,
        max_bytes: int = 1 << 26,
    ) -> None:
        run.group(0, name)  # refuses who is no member
        self.name, self.rule, self._run, self._max_bytes = name, rule, run, max_bytes
        self._identity, self._roster = identity, roster
        self.codes = codes
        """The model. Keep it on the disk when a step is over."""
        self.settled = codes if settled is None else settled
        """It without trainings that are in no sum for certain: after a crash in a step a member goes on from there."""
        self.step = step
        """The step that it is in, or was in last."""
        self.outcome: Outcome | None = None
        """How the step ended; None: it is under way, or there was none."""
        self.survivors: tuple[str, ...] = ()
        """Who is in the sum that the step ended with; empty: there was none."""
        self.counts: Counter[str] = Counter()
        """What was refused, by reason: ``name``, ``malformed``, ``turn``, ``session``, ``sum``."""
        floor = Policy() if floor is None else floor
        least = max(floor.min_survivors, rule.fewest)
        policy = replace(floor, modular=rule.modular, privacy=rule.privacy, min_survivors=least)
        self._participant = Participant(name, identity, roster, policy, store_path)
        self._sums: dict[int, Total] = {}
        self._came: dict[str, tuple[int, float]] = {}  # the latest step that each has said that it is in, and when
        self._is_begun = False
        self._outgoing: list[tuple[str, Message]] = []
        self._prepared: Prepared | None = None
        self._header: SessionHeader | None = None
        self._leading: Leading | None = None
        self._leader = ""
        self._alive: frozenset[str] = frozenset()
        self._has_left = False  # the input has
        self._deadline, self._asks = math.inf, 0

    def __repr__(self) -> str:
        return f"Member({self.name!r}, step={self.step}, outcome={self.outcome!r})"

    @property
    def due(self) -> float:
        """When `tick` is to be called, at the latest; every call may change it."""
        leading = math.inf if self._leading is None else self._leading.due
        return min(leading, self._deadline if self.is_under_way else math.inf)

    def begin(self, step: int, prepared: Prepared | None, alive: Collection[str], now: float) -> list[Send]:
        """Enters a step with what it has paid for and trained, and tells its group.

        Args:
            step: above the last one; may skip some, as a member does that was away.
            prepared: made from `codes`, for this step (`Mixing.prepare`); None: it takes no part.
            alive: who may take part, as far as is known. now: seconds on a clock that only goes forward, when trained.

        Raises:
            ConfigError: the step is not above the last one, or that one is not over.
        """
        if step <= self.step or self.is_under_way:
            raise ConfigError(f"step {step} was asked to begin, and step {self.step} is {self.outcome or 'under way'}")
        self.step, self.outcome, self.survivors, self._leading, self._header = step, None, (), None, None
        self._has_left, self._asks, self._deadline = False, 0, now + self._run.step_s
        self._alive = frozenset(alive) | {self.name}
        self._prepared, self._is_begun = prepared, True
        if prepared is None:
            self.outcome = "left-out"
            return []
        group = self._run.group(step, self.name)
        self._outgoing += [(name, Here(step)) for name in group if name != self.name and name in self._alive]
        self._follow(group, now)
        return self._done(now)

    @property
    def is_under_way(self) -> bool:
        """Whether a step was begun here and is not over."""
        return self._is_begun and self.outcome is None

    @property
    def is_joined(self) -> bool:
        """Whether the step that it is in has a session, which nobody joins any more."""
        return self._header is not None or (self._leading is not None and self._leading.is_open)

    def alive_changed(self, alive: Collection[str], now: float) -> list[Send]:
        """Others may take part than before: who leads may be another, and who is gone is not waited for."""
        self._alive = frozenset(alive) | {self.name}
        if not self.is_under_way:
            return []
        group = self._run.group(self.step, self.name)
        if not self.is_joined and self._prepared is not None and not self._run.can_sum(group, self._alive, self.rule):
            self._end("left-out", self._prepared.left_out)
        elif self._leading is not None:
            self._leading.expect(self._alive, now)
        elif self._leader not in self._alive:
            if self._header is None:
                self._follow(group, now)
            elif self._asks == 0:
                self._deadline = min(self._deadline, now)  # it asks the others at once
        return self._done(now)

    def _follow(self, group: tuple[str, ...], now: float) -> None:
        """Goes by the first of the group that is alive; this member sums if that is itself."""
        self._leader = next(name for name in group if name in self._alive)
        if self._leader != self.name:
            return
        self._leading = Leading(
            self._run, self.step, name=self.name, identity=self._identity, roster=self._roster, rule=self.rule
        )
        self._leading.gather(self.name, self._alive, now)
        for sender, (step, at) in self._came.items():
            if step == self.step:
                self._leading.gather(sender, self._alive, now, since=at)

    def received(self, sender: str, data: bytes, now: float) -> list[Send]:
        """A message came; `sender` is the name in the certificate of its link."""
        if sender not in self._run.members:
            self.counts["name"] += 1
            return []
        message = read(data, self._run.id, self.counts, max_bytes=self._max_bytes)
        if message is None:
            return []
        return self.take(sender, message, now)

    def take(self, sender: str, message: Message, now: float) -> list[Send]:
        """A message that was decoded came, of a member of the run."""
        self._take(sender, message, now)
        return self._done(now)

    def tick(self, now: float) -> list[Send]:
        """Does what is due."""
        if self._leading is not None:
            self._leading.pulse(now)
        if self.is_under_way and now >= self._deadline:
            self._run_out(now)
        return self._done(now)

    def _run_out(self, now: float) -> None:
        """No sum came. Whose input has left it asks the others some times, and then gives up."""
        if self._prepared is None:
            return
        if not self._has_left:
            self._end("left-out", self._prepared.left_out)
        elif self._asks == _ASKS or self._header is None:
            self._end("unsettled", self.settled)
        else:
            self._asks, self._deadline = self._asks + 1, now + self._run.wait_s
            self._outgoing += [(name, Wanted(self.step)) for name in self._header.cohort if name != self.name]

    def _end(self, outcome: Outcome, codes: Codes) -> None:
        self.outcome, self.codes, self._prepared = outcome, codes, None

    def _done(self, now: float) -> list[Send]:
        """What is to be sent; what a leader has to say to itself is taken at once."""
        sends: list[Send] = []
        while True:
            if self._leading is not None:
                self._outgoing += self._leading.outgoing
                self._leading.outgoing = []
            if not self._outgoing:
                return sends
            outgoing, self._outgoing = self._outgoing, []
            for to, message in outgoing:
                if to == self.name:
                    self._take(to, message, now)
                else:
                    sends.append((to, encode(message, self._run.id)))

    def _take(self, sender: str, message: Message, now: float) -> None:
        try:
            match message:
                case Here(step):
                    self._here(sender, step, now)
                case Open():
                    self._open(sender, message, now)
                case Up(step, data):
                    if self._leading is not None and step == self.step:
                        self._leading.take(sender, data, now)
                case Down(step, data):
                    self._down(sender, step, data)
                case Total():
                    self._sum(message)
                case Wanted(step):
                    if step in self._sums and sender in self._sums[step].cohort:
                        self._outgoing.append((sender, self._sums[step]))
        except SecAggError:
            self.counts["session"] += 1

    def _here(self, sender: str, step: int, now: float) -> None:
        if self._came.get(sender, (-1, now))[0] < step:
            self._came[sender] = step, now
        if self._leading is not None and step == self.step:
            self._leading.gather(sender, self._alive, now)

    def _open(self, sender: str, message: Open, now: float) -> None:
        """Joins the first session of its group that it is asked to; nothing but the list of names is believed."""
        group = self._run.group(self.step, self.name) if self.step >= 0 else ()
        names = frozenset(message.cohort)
        is_ours = message.step == self.step and sender in group and self.name in names and names <= frozenset(group)
        if not is_ours or self.outcome or self._header is not None or self._prepared is None:
            self.counts["turn"] += 1
            return
        header = self._run.header(self.step, tuple(name for name in group if name in names), self.rule)
        advert = self._participant.begin(header, self._prepared.vector)
        self._header, self._leader = header, sender
        self._deadline = min(self._deadline, now + _SESSION_WAITS * self._run.wait_s)
        self._outgoing.append((sender, Up(self.step, advert)))

    def _down(self, sender: str, step: int, data: bytes) -> None:
        if step != self.step or sender != self._leader or self._header is None or self.outcome:
            self.counts["turn"] += 1
            return
        reply = self._participant.handle(data)
        self._has_left = self._has_left or self._participant.step == "masked"
        if reply is not None:
            self._outgoing.append((sender, Up(step, reply)))

    def _sum(self, message: Total) -> None:
        """Takes its part of a sum that enough of those in it have signed for."""
        header, prepared = self._header, self._prepared
        if message.step != self.step or header is None or prepared is None or self.outcome:
            return
        try:
            result = read_sum(message, header)
            result.verify(header, self._roster)
        except (DecodeError, SecAggError):
            self.counts["sum"] += 1
            return
        if result.aggregator != self._leader:  # anybody who took part has these signatures, and could sign another sum
            self.counts["sum"] += 1
            return
        self._sums[self.step] = message
        self._sums = dict(list(self._sums.items())[-_KEPT_SUMS:])
        if self.name not in result.survivors:
            self._end("left-out", prepared.left_out)
            return
        place, self.survivors = result.survivors.index(self.name), result.survivors
        self.settled = self.rule.mixed(result.total, len(result.survivors), place, self.step)
        self._end("mixed", self.settled)
