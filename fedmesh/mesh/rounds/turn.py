"""What whoever coordinates an attempt has at hand: facts of the round, and how to reach the others."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedmesh.mesh.rounds.charter import Charter
from fedmesh.mesh.rounds.keys import Keys
from fedmesh.mesh.rounds.messages import Message, Status
from fedmesh.mesh.rounds.result import Result
from fedmesh.mesh.rounds.sessions import Sessions

__all__ = ["Turn"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One attempt of one round.

    Attributes:
        name: of who coordinates. order: the round's ranking; deputies: who keeps what a successor needs.
        before: the last result; parent: its hash.
        statuses: name -> the latest of everybody, this member's own included.
        alive: whom the membership holds alive, this member included.
        handovers: attempt -> what this member keeps of that session. resumed: attempt -> how often it tried to go on.
        send: puts a message on its way; to this member itself, too.
    """

    charter: Charter
    keys: Keys
    name: str
    attempt: int
    before: Result
    parent: bytes
    sessions: Sessions
    statuses: Callable[[], Mapping[str, Status]]
    alive: Callable[[], frozenset[str]]
    deputies: Callable[[], tuple[str, ...]]
    handovers: Mapping[int, bytes]
    resumed: Counter[int]
    send: Callable[[str, Message], None]

    @property
    def round(self) -> int:
        """The round's number."""
        return self.before.round + 1
