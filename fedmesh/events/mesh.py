"""A member of a mesh, and its runs without a coordinator."""

from dataclasses import dataclass

from fedmesh.events.base import Event

__all__ = [
    "AttemptBegun",
    "ListAccepted",
    "MemberChanged",
    "PeerFound",
    "RoundCertified",
    "RunDeclined",
    "RunEnded",
    "RunForked",
    "RunJoined",
    "StepAveraged",
]


@dataclass(frozen=True, slots=True)
class PeerFound(Event):
    """A member answered at an address that `source` named: one word, as ``seed``, ``known`` or ``nearby``."""

    device: str
    source: str


@dataclass(frozen=True, slots=True)
class MemberChanged(Event):
    """What this member of a mesh holds another to be: alive, suspect, dead, left, or removed from the roster."""

    device: str
    state: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class ListAccepted(Event):
    """A newer signed list, ``roster`` or ``revocations``, counts from now on; `source`: ``neighbour`` or ``folder``."""

    kind: str
    version: int
    source: str


@dataclass(frozen=True, slots=True)
class RunJoined(Event):
    """This member of a mesh takes part in a run, from `round` on; `run` in all of these is its id, in hexadecimal."""

    task: str
    run: str
    round: int
    rounds: int
    members: int
    quorum: int


@dataclass(frozen=True, slots=True)
class RunDeclined(Event):
    """This member votes in the run, and does not train; `why` in words."""

    task: str
    run: str
    why: str


@dataclass(frozen=True, slots=True)
class AttemptBegun(Event):
    """Another attempt of a round under way, as this member sees it, with whom it holds to be its coordinator."""

    task: str
    run: str
    round: int
    attempt: int
    aggregator: str


@dataclass(frozen=True, slots=True)
class RoundCertified(Event):
    """A quorum stands behind a round's result, in a mesh.

    Attributes:
        survivors: inputs in the sum; names: whose they are, with commas; is_void: whether nothing was learned.
        epsilon: of the run so far, as the certificate says it; None: it says none.
    """

    task: str
    run: str
    round: int
    attempt: int
    survivors: int
    names: str
    is_void: bool
    epsilon: float | None


@dataclass(frozen=True, slots=True)
class StepAveraged(Event):
    """A step of gossip averaging is over for this member.

    Attributes:
        outcome: ``mixed``, ``left-out`` or ``unsettled``; members: in the sum that it took its part of; names: theirs,
            with commas.
    """

    task: str
    run: str
    step: int
    outcome: str
    members: int
    names: str


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """All rounds of a run are over; `void` of them learned nothing."""

    task: str
    run: str
    rounds: int
    void: int


@dataclass(frozen=True, slots=True)
class RunForked(Event):
    """Two results of a round are certified: `signers`, with commas, have signed both. Nobody goes on with this run."""

    task: str
    run: str
    round: int
    signers: str
