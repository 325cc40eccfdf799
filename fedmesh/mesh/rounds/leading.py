"""Coordinating an attempt: find out where everybody stands, get at a result, have it voted on.

What it does, in this order of preference, once a quorum has reported:

1. somebody is locked on a result: that one is proposed, the lock of the latest attempt first;
2. a set of survivors has enough signatures and its masked sum is kept, here or by somebody who reported: that session
   goes on, and no device trains or is charged again;
3. the charter allows another attempt and enough are ready: a new session, with new keys and fresh noise. If so many
   have been in a session of this attempt that too few are left, it is lost, and the next attempt begins;
4. it allows none: the round is given up, and everybody goes on with the next.
"""

import math
from collections.abc import Mapping

from fedmesh.errors import RoundError
from fedmesh.mesh.rounds.carrying import Carrying, best_sets
from fedmesh.mesh.rounds.messages import Ask, HandoverKept, HandoverWanted, Readiness, Status, Step, Vote
from fedmesh.mesh.rounds.quorum import quorum_for
from fedmesh.mesh.rounds.result import Certificate, Result, void
from fedmesh.mesh.rounds.sessions import Outcome
from fedmesh.mesh.rounds.turn import Turn
from fedmesh.mesh.rounds.voting import Phase, Proof, vote_statement

__all__ = ["Leading"]

_GONE = frozenset({Readiness.OUT, Readiness.NEXT})
_TRIES = 2  # at one session of another: who signed its set may be gone, or not mean it


class Leading:
    """One attempt, by its coordinator.

    Attributes:
        certificate: what it came to. has_failed: it comes to nothing, the next attempt may begin.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.certificate: Certificate | None = None
        self.has_failed = False
        self._settle_at: float | None = None
        self._patience: float | None = None  # until when those are waited for who are not ready yet
        self._has_begun = self._is_waiting = False
        self._has_fetched = False
        self._fetching: float | None = None  # until when a handover is waited for
        self._carrying: Carrying | None = None
        self._ask: Ask | None = None
        self._votes: dict[str, bytes] = {}

    @property
    def due(self) -> float:
        """When `pulse` has something to do, at the latest."""
        if not self._has_begun:
            return math.inf if self._settle_at is None or self._is_waiting else self._settle_at
        if self._fetching is not None:
            return self._fetching
        return math.inf if self._carrying is None or self._ask is not None else self._carrying.deadline

    def pulse(self, now: float) -> None:
        """Does what is due."""
        if not self._has_begun:
            self._gather(now)
        elif self._fetching is not None:
            self._fetched(now)
        elif self._carrying is not None and self._ask is None:
            self._carrying.pulse(now)
            self._look(self._carrying)

    def again(self) -> None:
        """Sends once more what is not answered."""
        if self._ask is not None:
            for name in self._turn.charter.names:
                if name not in self._votes:
                    self._turn.send(name, self._ask)
        elif self._carrying is not None:
            self._carrying.again()

    def take(self, sender: str, message: Step | Vote | HandoverKept, now: float) -> None:
        """What members answer. Raises: RoundError: a message of secure aggregation is refused."""
        if isinstance(message, Vote):
            self._voted(sender, message)
            return
        carrying = self._carrying
        if carrying is None or self._ask is not None or message.attempt != carrying.of:
            return
        if isinstance(message, Step):
            carrying.take(sender, message.data, now)
        else:
            carrying.kept(sender, now)
        self._look(carrying)

    def _voted(self, sender: str, vote: Vote) -> None:
        """A member's answer; with a quorum of them the next phase begins."""
        ask, turn = self._ask, self._turn
        if ask is None or self.certificate is not None or sender in self._votes:
            return
        if (vote.phase, vote.attempt, vote.digest) != (ask.phase, ask.attempt, ask.result.hash):
            return
        if not turn.keys.is_signed(sender, vote.signature, vote_statement(ask.phase, ask.attempt, ask.result)):
            return
        self._votes[sender] = vote.signature
        if len(self._votes) < turn.charter.quorum:
            return
        if ask.phase is Phase.CERTIFY:
            self.certificate = Certificate(ask.result, self._votes)
            return
        self._put(Phase(ask.phase + 1), ask.result, Proof(ask.phase, ask.attempt, ask.result, self._votes), {})

    def _gather(self, now: float) -> None:
        """Begins when everybody who is alive has reported, or a quorum has and the others had their time.

        Who is in a later attempt has reported: it does not come back to this one.
        """
        turn = self._turn
        statuses = turn.statuses()
        here = {name for name, status in statuses.items() if status.attempt == turn.attempt}
        past = {name for name, status in statuses.items() if status.attempt > turn.attempt}
        if len(here) < turn.charter.quorum:
            self._settle_at, self._is_waiting = None, False
            return
        if self._settle_at is None:
            self._settle_at = now + turn.charter.schedule.step_s
        if now >= self._settle_at or turn.alive() & turn.charter.members.keys() <= here | past:
            self._has_begun = self._begin(now)
            self._is_waiting = not self._has_begun and now >= self._settle_at

    def _begin(self, now: float) -> bool:
        """Whether there was something to begin; if not, it is looked at again with the next report."""
        turn = self._turn
        locks = [status.lock for status in turn.statuses().values() if status.lock is not None]
        if locks:
            lock = max(locks, key=lambda lock: lock.attempt)
            self._put(Phase.PREPARE, lock.result, lock, {})
            return True
        if self._resume(now):
            return True
        holder = None if self._has_fetched else self._holder()
        if holder is None:
            return self._begin_anew(now)
        self._has_fetched, self._fetching = True, now + turn.charter.schedule.step_s
        turn.send(holder[0], HandoverWanted(turn.round, holder[1]))
        return True

    def _resume(self, now: float) -> bool:
        """Whether a session of an earlier attempt goes on."""
        turn = self._turn
        for attempt, signatures in best_sets(turn):
            handover = turn.handovers.get(attempt)
            if turn.resumed[attempt] >= _TRIES:
                continue
            summing = None if handover is None else turn.sessions.resume(handover, signatures)
            if summing is not None:
                turn.resumed[attempt] += 1
                self._carrying = Carrying(turn, summing, attempt, now, is_resumed=True)
                return True
        return False

    def _holder(self) -> tuple[str, int] | None:
        """Who has the masked sum of a set that enough may have signed."""
        least = quorum_for(self._turn.charter.fewest)
        wanted = [
            attempt
            for attempt, signatures in best_sets(self._turn)
            if len(signatures) >= least and self._turn.resumed[attempt] < _TRIES
        ]
        for attempt in wanted:
            for name, status in sorted(self._turn.statuses().items()):
                if attempt in status.holding and name != self._turn.name and name in self._turn.alive():
                    return name, attempt
        return None

    def _fetched(self, now: float) -> None:
        if self._resume(now):
            self._fetching = None
        elif self._fetching is not None and now >= self._fetching:
            self._fetching = None
            self._has_begun = self._begin_anew(now)
            self._is_waiting = not self._has_begun and now >= (self._settle_at or now)

    def _begin_anew(self, now: float) -> bool:
        turn = self._turn
        if turn.attempt >= turn.charter.attempts:
            self._put(Phase.PREPARE, void(turn.charter, turn.before, turn.parent), None, {})
            return True
        statuses = turn.statuses()
        cohort = sorted(name for name, status in statuses.items() if _would_train(status, turn.attempt))
        if len(cohort) < turn.charter.fewest:
            out = sum(status.readiness in _GONE for status in statuses.values())
            self.has_failed = len(turn.charter.members) - out < turn.charter.fewest  # it waits only for who may come
            return self.has_failed
        if self._has_late(statuses, now):
            return False
        try:
            summing = turn.sessions.open(turn.round, turn.attempt, tuple(cohort), turn.before)
        except RoundError:
            self.has_failed = True
            return True
        if summing is not None:
            self._carrying = Carrying(turn, summing, turn.attempt, now)
        return summing is not None

    def _has_late(self, statuses: Mapping[str, Status], now: float) -> bool:
        """Whether somebody would train a little later: once there are enough, the others have one step's time."""
        turn = self._turn
        if self._patience is None:
            self._patience = self._settle_at = now + turn.charter.schedule.step_s
        return now < self._patience and any(
            status.readiness is Readiness.LATER and status.attempt == turn.attempt and name in turn.alive()
            for name, status in statuses.items()
        )

    def _look(self, carrying: Carrying) -> None:
        """Whether the session is over."""
        outcome = carrying.outcome
        if carrying.has_failed or (outcome is not None and len(outcome.survivors) < self._turn.charter.fewest):
            self.has_failed = True
        elif outcome is not None:
            self._put(Phase.PREPARE, self._result(outcome, carrying.of), None, dict(outcome.signatures))

    def _result(self, outcome: Outcome, attempt: int) -> Result:
        turn = self._turn
        return Result(
            turn.charter.hash, turn.round, attempt, turn.parent, tuple(sorted(outcome.survivors)), outcome.context,
            outcome.model, outcome.state, outcome.privacy,
        )  # fmt: skip

    def _put(self, phase: Phase, result: Result, proof: Proof | None, survivors: dict[str, bytes]) -> None:
        self._ask, self._votes = Ask(phase, self._turn.attempt, result, proof, survivors), {}
        for name in self._turn.charter.names:
            self._turn.send(name, self._ask)


def _would_train(status: Status, attempt: int) -> bool:
    return status.readiness is Readiness.READY and status.attempt == attempt
