"""What a member wants done: everything that it does to the world."""

from dataclasses import dataclass

from fedmesh.mesh.rounds.chain import Fork
from fedmesh.mesh.rounds.result import Certificate

__all__ = ["Certified", "Effect", "Forked", "Send", "Want"]


@dataclass(frozen=True, slots=True)
class Send:
    """A message for the member `to`; it may be lost."""

    to: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Certified:
    """A round is over: its result is on the disk."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Want:
    """Fetch what has these SHA-256 from one of these members: a result is signed by who has what it names."""

    digests: tuple[bytes, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forked:
    """Two results of one round are certified: more members are in league than can be borne. The run is over here."""

    fork: Fork


Effect = Send | Certified | Want | Forked
