"""A member's way through the steps of a run: which one it begins, and when. Sans-IO; the steps are `Member`'s.

Nobody counts the steps for all. Each member says at which step it is, and goes on when its own is over. It begins a
step when enough of its group are there for a sum, so that nobody pays for a training that no sum can take; it passes a
step that its group cannot make; and who is behind goes to where C + 1 members say that they are, one of whom is honest.

Guaranteed: a step is begun once at most; nobody is led beyond the steps that honest members have come to. Not
guaranteed: that all are in one step. Who is not at its group's is left out of its sum.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fedmesh.mesh.gossip.grid import Codes
from fedmesh.mesh.gossip.member import Member, Outcome
from fedmesh.mesh.gossip.messages import At, Trains, encode, read
from fedmesh.mesh.gossip.mixing import Prepared
from fedmesh.mesh.gossip.run import Run
from fedmesh.secagg.header import SessionHeader

__all__ = ["Begin", "Course", "Effect", "Ended", "Say"]

_NOWHERE = At(0, Trains.NO, is_open=False, asks=False)
_BEATS = 0.25  # waits between two questions


@dataclass(frozen=True, slots=True)
class Say:
    """Send this; it may be lost."""

    to: str
    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Begin:
    """Write down that the step is begun; then pay, train from `codes`, and call `Course.trained` or `Course.failed`."""

    step: int
    codes: Codes


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """A step is over: keep the model before the next one begins.

    Attributes:
        survivors: who is in the sum, if there was one.
        codes, settled: as `Member`'s.
    """

    step: int
    outcome: Outcome
    survivors: tuple[str, ...]
    codes: Codes
    settled: Codes


Effect = Say | Begin | Ended


class Course:
    """Of one member. What its methods return is to be done in this order; `due` is when `tick` is to be called.

    Args:
        run: the run. name: this member's.
        steps: how many there are, from 1. at: the first that was not begun before.
        max_bytes: longest message.

    Attributes:
        at: the step that it is in, or will begin next; `steps` + 1 when all are over.
        member: who trains and sums; None: this device does not, or not yet.
        counts: as `Member.counts`, of what is refused here.
    """

    def __init__(self, run: Run, name: str, *, steps: int, at: int = 1, max_bytes: int = 1 << 26) -> None:
        self.at = min(at, steps + 1)
        self.member: Member | None = None
        self.counts: Counter[str] = Counter()
        self._run, self._name, self._steps, self._max_bytes = run, name, steps, max_bytes
        self._trains = Trains.SOON
        self._is_training = False
        self._others: frozenset[str] = frozenset()
        self._said: dict[str, At] = {}
        self._heard: set[str] = set()  # since the step was entered
        self._unsure: dict[str, float] = {}  # of whom it is not known yet whether they come, and since when
        self._waits_since = self._beat = 0.0

    def __repr__(self) -> str:
        return f"Course({self._name!r}, at={self.at})"

    @property
    def is_over(self) -> bool:
        """Whether all steps are."""
        return self.at > self._steps

    @property
    def due(self) -> float:
        """When `tick` is to be called, at the latest."""
        if self.is_over or self._is_training:
            return math.inf
        return self.member.due if self._is_summing and self.member is not None else self._beat

    @property
    def here(self) -> frozenset[str]:
        """Who is there and trains, itself included."""
        others = {name for name in self._others if self._of(name).trains is Trains.YES}
        return frozenset(others | ({self._name} if self._trains is Trains.YES else set()))

    def start(self, now: float) -> list[Effect]:
        """Tells where it is."""
        self._waits_since, self._beat = now, now + _BEATS * self._run.wait_s
        return self._tell(self._others, asks=True)

    def able(self, trains: Trains, now: float) -> list[Effect]:
        """This device would train from now on, soon, or not."""
        if trains is self._trains:
            return []
        self._trains = trains
        return [*self._tell(self._others), *self._on(now)]

    def alive_changed(self, alive: Iterable[str], now: float) -> list[Effect]:
        """Whom the membership holds alive."""
        others = frozenset(alive) & frozenset(self._run.members) - {self._name}
        new, self._others = others - self._others, others
        return [*self._tell(new, asks=True), *self._on(now)]

    def received(self, sender: str, data: bytes, now: float) -> list[Effect]:
        """A message came; `sender` is the name in the certificate of its link."""
        if sender not in self._run.members or sender == self._name:
            self.counts["name"] += 1
            return []
        message = read(data, self._run.id, self.counts, max_bytes=self._max_bytes)
        if message is None:
            return []
        if isinstance(message, At):
            return [*self._hear(sender, message), *self._on(now)]
        if self.member is None:
            return []
        said = self._says(self.member.take(sender, message, now))
        return [*said, *self._on(now)]

    def trained(self, step: int, prepared: Prepared | None, now: float) -> list[Effect]:
        """This device has paid and trained; None: it could not pay, and takes no part any more."""
        self._is_training = False
        if self.member is None or step != self.at:
            return self._on(now)
        if prepared is None:
            self._trains = Trains.NO
        effects = self._says(self.member.begin(step, prepared, self._company, now))
        return [*effects, *self._on(now)]

    def failed(self, step: int, now: float) -> list[Effect]:
        """It could not train: the step is over for it."""
        self._is_training = False
        return self._enter(step + 1, now) if step == self.at else self._on(now)

    def tick(self, now: float) -> list[Effect]:
        """Does what is due."""
        if self.is_over or self._is_training:
            return []
        if self._is_summing and self.member is not None:
            return [*self._says(self.member.tick(now)), *self._on(now)]
        effects: list[Effect] = []
        if now >= self._beat:
            self._beat = now + _BEATS * self._run.wait_s
            unheard = self._mates - self._heard
            effects += self._tell(unheard or self._mates, asks=True)
        return [*effects, *self._on(now)]

    # Where the others are.

    def _of(self, name: str) -> At:
        return self._said.get(name, _NOWHERE)

    def _hear(self, sender: str, message: At) -> list[Effect]:
        self._said[sender] = message
        self._heard.add(sender)
        return self._tell([sender]) if message.asks else []

    def _tell(self, names: Iterable[str], *, asks: bool = False) -> list[Effect]:
        joined = self.member is not None and self._is_summing and self.member.is_joined
        said = encode(At(self.at, self._trains, is_open=not joined, asks=asks), self._run.id)
        return [Say(name, said) for name in sorted(names)]

    @property
    def _group(self) -> tuple[str, ...]:
        return () if self.is_over else self._run.group(self.at, self._name)

    @property
    def _mates(self) -> frozenset[str]:
        """Who is alive of its group, but itself."""
        return self._others & frozenset(self._group)

    @property
    def _company(self) -> frozenset[str]:
        """Those who may come to its session: not past the step, and willing."""
        return frozenset(
            name for name in self._mates if self._of(name).step <= self.at and self._of(name).trains is Trains.YES
        )

    @property
    def _coming(self) -> frozenset[str]:
        """Those of its group that begin the step now, or are in the one before it; itself."""
        mates = {
            name
            for name in self._mates & self._heard
            if self._of(name).trains is Trains.YES
            and (self._of(name).step == self.at - 1 or (self._of(name).step == self.at and self._of(name).is_open))
        }
        return frozenset(mates | {self._name})

    @property
    def _reach(self) -> int:
        """The step that C + 1 members say that they are at, or beyond."""
        said = sorted([self.at, *(each.step for each in self._said.values())], reverse=True)
        league = SessionHeader.colluders_for(len(self._run.members))
        return said[league] if league < len(said) else self.at

    # What comes next.

    @property
    def _is_summing(self) -> bool:
        return self.member is not None and self.member.is_under_way

    def _says(self, sends: Iterable[tuple[str, bytes]]) -> list[Effect]:
        return [Say(to, data) for to, data in sends]

    def _enter(self, step: int, now: float) -> list[Effect]:
        self.at = min(step, self._steps + 1)
        self._waits_since, self._beat = now, now + _BEATS * self._run.wait_s
        self._heard.clear()
        self._unsure.clear()
        mates = self._mates
        return [*self._tell(mates, asks=True), *self._tell(self._others - mates), *self._on(now)]

    def _on(self, now: float) -> list[Effect]:
        """Goes on, as far as it goes by itself."""
        member = self.member
        if self.is_over or self._is_training:
            return []
        if member is not None and member.step == self.at:
            return self._end(member, now)
        if (reach := self._reach) > self.at:
            return self._enter(reach, now)
        if member is not None and self._may_begin(member, now):
            self._is_training = True
            return [Begin(self.at, member.codes)]
        return self._enter(self.at + 1, now) if self._may_pass(now) else []

    def _end(self, member: Member, now: float) -> list[Effect]:
        """The step is under way here, or has just ended."""
        effects: list[Effect] = []
        if member.is_under_way:
            # Who is past the step may have told the sum that is still on its way here.
            here = self._mates if member.is_joined else self._company
            effects += self._says(member.alive_changed(here, now))
        if member.outcome is None:
            return effects
        effects.append(Ended(self.at, member.outcome, member.survivors, member.codes, member.settled))
        return [*effects, *self._enter(self.at + 1, now)]

    def _may_begin(self, member: Member, now: float) -> bool:
        """Enough of its group are there; for those who may still come it waits a little."""
        if self._trains is not Trains.YES:
            return False
        waited_for = {name for name in self._mates if name not in self._heard or self._of(name).trains is Trains.SOON}
        self._unsure = {name: self._unsure.get(name, now) for name in waited_for}
        if any(now < since + self._run.wait_s for since in self._unsure.values()):
            return False
        return self._run.can_sum(self._group, self._coming, member.rule)

    def _may_pass(self, now: float) -> bool:
        """Its group cannot make a sum, though more than half of all members are there: those of other groups may."""
        if self._trains is not Trains.YES or 2 * len(self.here) <= len(self._run.members):
            self._waits_since = now
        return now >= self._waits_since + 2 * self._run.wait_s
