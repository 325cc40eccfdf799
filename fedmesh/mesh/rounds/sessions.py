"""The seam to secure aggregation: what the rounds ask of it, and what it says of itself.

The rounds carry its messages as bytes and judge none of them: a device's protection against its coordinator is in
`fedmesh.secagg` and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fedmesh.mesh.rounds.messages import Readiness, SetSignature
from fedmesh.mesh.rounds.result import Result

__all__ = ["Outcome", "Outgoing", "Sessions", "Summing"]

Outgoing = list[tuple[str, bytes]]
"""To whom, and a message of secure aggregation."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a session came to, as far as the result names it.

    Attributes:
        survivors: whose inputs are in the sum. context: of their signatures. model, state: what came of the sum; the
            coordinator holds both, by their hashes, when it says so. privacy: facts.
        signatures: of survivors over their set.
    """

    survivors: tuple[str, ...]
    context: bytes
    model: bytes
    state: bytes
    signatures: Mapping[str, bytes]
    privacy: Mapping[str, float] = field(default_factory=dict)


class Summing(Protocol):
    """A coordinator's side of one session."""

    @property
    def awaiting(self) -> frozenset[str]:
        """Who has not answered in this step."""
        ...

    @property
    def is_training(self) -> bool:
        """Whether devices train in this step: it has more time."""
        ...

    @property
    def has_failed(self) -> bool:
        """Whether it was given up; nothing was revealed."""
        ...

    @property
    def outcome(self) -> Outcome | None:
        """What it came to, once it is over."""
        ...

    @property
    def handover(self) -> bytes | None:
        """What a deputy needs to go on, from when the masked inputs are in: their sum, as long as one input is."""
        ...

    def begin(self) -> Outgoing:
        """The first messages of the session; of one that was resumed, those that ask for what it needs to be over."""
        ...

    def take(self, sender: str, data: bytes) -> Outgoing:
        """Takes a device's message. Raises: RoundError: it is refused."""
        ...

    def close_step(self) -> Outgoing:
        """Goes on without those who have not answered. Raises: RoundError: it has failed."""
        ...


class Sessions(Protocol):
    """A member's secure aggregation, in one run: it sums for others, and is a device itself."""

    def readiness(self, number: int, attempt: int) -> Readiness:
        """Whether this device would train in this attempt: its budget, its battery, what it signed already."""
        ...

    def open(self, number: int, attempt: int, cohort: tuple[str, ...], before: Result) -> Summing | None:
        """A new session with new keys; this member coordinates it. None: not yet; `Member.changed` is called then.

        Raises:
            RoundError: there can be none.
        """
        ...

    def resume(self, handover: bytes, signatures: Mapping[str, bytes]) -> Summing | None:
        """Goes on with another's session, behind the set that these have signed; None: they are too few, or it is none.

        Only signatures over one digest are given; whether that is the handover's is looked at here.
        """
        ...

    def answer(self, number: int, attempt: int, sender: str, data: bytes) -> bytes | None:
        """This device's answer to its coordinator; the same one to the same message, also the last, until `close`.

        None: it comes later, by `Member.answered`.

        Raises:
            RoundError: it is refused.
        """
        ...

    def signed(self, number: int) -> SetSignature | None:
        """The set of survivors that this device has signed in the round, as long as it can reveal for it; else None."""
        ...

    def holds(self, digest: bytes) -> bool:
        """Whether this member has the model, or the strategy's state, of that SHA-256."""
        ...

    def close(self, number: int) -> None:
        """The round is over: whatever is left of its sessions is forgotten."""
        ...
