"""Which attempt of a round a member takes part in, from where it hears that the others are.

* The clock of an attempt starts when a quorum is in it, or beyond: nobody runs ahead alone, behind a partition say, and
  so nobody has to be caught up with when it is back.
* When C + 1 members are in a later one, one of them is honest and had a reason: this one follows.
* When its coordinator itself goes one on (its session failed), this one follows at once.
"""

from dataclasses import replace

from fedmesh.mesh.rounds.charter import Charter
from fedmesh.mesh.rounds.keys import Keys
from fedmesh.mesh.rounds.messages import Status
from fedmesh.mesh.rounds.quorum import colluders_for

__all__ = ["Pacing"]


class Pacing:
    """What the others said in one round.

    Attributes:
        established: since when a quorum is in this member's attempt or beyond; None: it is not yet.
    """

    def __init__(self, charter: Charter, keys: Keys, name: str) -> None:
        self._charter, self._keys, self._name = charter, keys, name
        self._seen: dict[str, Status] = {}
        self.established: float | None = None

    @property
    def statuses(self) -> dict[str, Status]:
        """The latest of each other member."""
        return dict(self._seen)

    def take(self, sender: str, status: Status) -> None:
        """Notes it, unless it is older than what is known, with what of it is proven."""
        lock, signed = status.lock, status.signed
        if lock is not None and not (lock.result.round == status.round and lock.is_valid(self._charter, self._keys)):
            lock = None
        if signed is not None and not self._keys.is_signed(sender, signed.signature, signed.digest):
            signed = None
        known = self._seen.get(sender)
        if known is not None:
            if status.attempt < known.attempt:
                return
            if status.attempt == known.attempt:
                signed = known.signed or signed  # messages overtake each other
            if known.lock is not None and (lock is None or lock.attempt < known.lock.attempt):
                lock = known.lock
        self._seen[sender] = replace(status, lock=lock, signed=signed)

    def wanted(self, attempt: int, coordinator: str) -> int:
        """The attempt that this member should be in, which is in `attempt` now."""
        ahead = sorted((status.attempt for status in self._seen.values()), reverse=True)
        place = colluders_for(len(self._charter.members))
        told = ahead[place] if place < len(ahead) else 0
        followed = self._seen.get(coordinator)
        if followed is not None and followed.attempt > attempt:
            told = max(told, attempt + 1)
        return max(attempt, told)

    def enter(self) -> None:
        """This member goes to another attempt."""
        self.established = None

    def pulse(self, attempt: int, now: float) -> None:
        """Starts the attempt's clock when a quorum is there."""
        there = 1 + sum(status.attempt >= attempt for status in self._seen.values())
        if self.established is None and there >= self._charter.quorum:
            self.established = now

    def deadline(self, attempt: int) -> float | None:
        """When the attempt is over, on this member's clock; None as long as it has not started."""
        return None if self.established is None else self.established + self._charter.schedule.window_s(attempt)
