"""A coordinator's session of secure aggregation, carried from step to step.

Before the set of survivors is put to the devices, the session's masked sum goes to deputies: it is all that a successor
needs that only its coordinator has, and as long as one input. The devices are asked as soon as all deputies have it, or
the step's time is over.
"""

from collections.abc import Mapping

from fedmesh.errors import RoundError
from fedmesh.mesh.rounds.messages import Handover, Readiness, Step
from fedmesh.mesh.rounds.sessions import Outcome, Outgoing, Summing
from fedmesh.mesh.rounds.turn import Turn

__all__ = ["Carrying", "best_sets"]


class Carrying:
    """One session.

    Args:
        turn: the attempt that it is carried in. summing: the session; of: the attempt that it belongs to.
        is_resumed: whether it was begun by another.
    """

    def __init__(self, turn: Turn, summing: Summing, of: int, now: float, *, is_resumed: bool = False) -> None:
        self._turn, self._summing, self._of = turn, summing, of
        self._last: dict[str, bytes] = {}
        self._held: Outgoing = []
        self._unkept: set[str] = set()
        self._is_handed_over = is_resumed
        self.deadline = now
        self._post(summing.begin(), now)

    @property
    def outcome(self) -> Outcome | None:
        """What it came to, once it is over."""
        return self._summing.outcome

    @property
    def of(self) -> int:
        """The attempt that the session belongs to."""
        return self._of

    @property
    def has_failed(self) -> bool:
        """Whether it is given up."""
        return self._summing.has_failed

    def take(self, sender: str, data: bytes, now: float) -> None:
        """Takes a device's message. Raises: RoundError: it is refused."""
        self._go_on(self._summing.take(sender, data), now)

    def kept(self, sender: str, now: float) -> None:
        """A deputy has the masked sum."""
        self._unkept.discard(sender)
        if self._held and not self._unkept:
            self._release(now)

    def pulse(self, now: float) -> None:
        """Closes a step whose time is over, or in which only those are awaited who will not answer any more."""
        is_over = bool(self._summing.awaiting) and not self._held and not self._awaited()
        is_due = now >= self.deadline or is_over
        if not is_due or self.outcome is not None or self.has_failed:
            return
        if self._held:
            self._release(now)
            return
        # Holds for a session that asks nobody any more, because what came of it is still being worked out.
        self.deadline = now + self._turn.charter.schedule.step_s
        try:
            self._go_on(self._summing.close_step(), now)
        except RoundError:
            if not self.has_failed:
                raise

    def _awaited(self) -> frozenset[str]:
        """Of those who have not answered, who may: nobody who is held dead, nor who says that it cannot train."""
        awaited = self._summing.awaiting & self._turn.alive()
        if not self._summing.is_training:  # later on, who has signed a set says that it is out of the round
            return awaited
        statuses = self._turn.statuses()
        return frozenset(n for n in awaited if n not in statuses or statuses[n].readiness is not Readiness.OUT)

    def again(self) -> None:
        """Sends once more what is not answered."""
        if self._held:
            self._hand_over(self._unkept)
            return
        for name in sorted(self._summing.awaiting & self._last.keys()):
            self._turn.send(name, Step(self._turn.round, self._of, True, self._last[name]))

    def _go_on(self, outgoing: Outgoing, now: float) -> None:
        if not outgoing:
            return
        deputies = self._turn.deputies()
        if self._summing.handover is None or self._is_handed_over or not deputies:
            self._post(outgoing, now)
            return
        self._is_handed_over = True
        self._held, self._unkept = outgoing, set(deputies)
        self.deadline = now + self._turn.charter.schedule.step_s
        self._hand_over(self._unkept)

    def _hand_over(self, names: set[str]) -> None:
        data = self._summing.handover
        if data is not None:
            for name in sorted(names):
                self._turn.send(name, Handover(self._turn.round, self._of, data))

    def _release(self, now: float) -> None:
        held, self._held, self._unkept = self._held, [], set()
        self._post(held, now)

    def _post(self, outgoing: Outgoing, now: float) -> None:
        schedule = self._turn.charter.schedule
        self.deadline = now + (schedule.train_s if self._summing.is_training else schedule.step_s)
        self._last = dict(outgoing)
        for name, data in outgoing:
            self._turn.send(name, Step(self._turn.round, self._of, True, data))


def best_sets(turn: Turn) -> list[tuple[int, Mapping[str, bytes]]]:
    """The signed sets of survivors in this round, as (attempt, signatures), those that most have signed first."""
    found: dict[tuple[int, bytes], dict[str, bytes]] = {}
    for name, status in turn.statuses().items():
        if status.signed is not None:
            found.setdefault((status.signed.attempt, status.signed.digest), {})[name] = status.signed.signature
    ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(attempt, signatures) for (attempt, _), signatures in ranked]
