"""The results of a run, one behind another from its charter: each certified, each naming the one before.

From whomever a certificate comes, it is taken for what a quorum of the charter's members has signed. So a late joiner,
and a part of the mesh that was cut off, catch up from any one peer, which they need not trust: it can be behind, and
nothing else.

Two certificates of one round cannot come about with C colluders or fewer (`quorum`). If they do, the two of them are
the proof, and name who signed both: `Fork`. A chain that has one takes nothing more.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass

from fedmesh.errors import ChainError, DecodeError
from fedmesh.mesh.rounds.charter import Charter
from fedmesh.mesh.rounds.keys import Keys
from fedmesh.mesh.rounds.result import Certificate, Result, founding, read_certificate
from fedmesh.wire import dumps, loads

__all__ = ["MAX_FORK_BYTES", "Chain", "Fork", "read_fork"]

MAX_FORK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Fork:
    """Two certificates of one round: the proof that somebody signed twice. Anybody with the charter can check it."""

    first: Certificate
    second: Certificate

    @property
    def signers(self) -> tuple[str, ...]:
        """Who signed both, sorted; at least twice the quorum less the number of members."""
        return tuple(sorted(self.first.signatures.keys() & self.second.signatures.keys()))

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return dumps([self.first.to_bytes(), self.second.to_bytes()])

    def verify(self, charter: Charter, keys: Keys) -> None:
        """Whether it proves what it says.

        Raises:
            ChainError: ``quorum``: one of them is not certified; ``round``: they are of two rounds, or the same result.
        """
        self.first.verify(charter, keys)
        self.second.verify(charter, keys)
        if self.first.result.round != self.second.result.round or self.first.result == self.second.result:
            raise ChainError("these two certificates do not contradict each other", code="round")


def read_fork(data: bytes) -> Fork:
    """The inverse of `Fork.to_bytes`, not verified. Raises: DecodeError: these bytes are none."""
    match loads(data, max_bytes=MAX_FORK_BYTES, max_depth=1, max_items=4):
        case [bytes(first), bytes(second)]:
            return Fork(read_certificate(first), read_certificate(second))
        case _:
            raise DecodeError("a fork is two certificates")


class Chain:
    """A run's certified results, as this member knows them.

    Attributes:
        fork: the proof that the run is broken, if there is one: then nothing is taken any more.
    """

    def __init__(self, charter: Charter, keys: Keys, certificates: Iterable[Certificate] = ()) -> None:
        self._charter, self._keys = charter, keys
        self._certificates: list[Certificate] = []
        self._contexts: set[bytes] = set()
        self.fork: Fork | None = None
        for certificate in certificates:
            self.add(certificate)

    @property
    def head(self) -> Result:
        """The last result; before round 1 what the charter begins with."""
        return self._certificates[-1].result if self._certificates else founding(self._charter)

    @property
    def parent(self) -> bytes:
        """What the next result names as its parent, and its beacon is made of."""
        return self._certificates[-1].result.hash if self._certificates else self._charter.hash

    @property
    def trained(self) -> tuple[str, ...]:
        """Whose inputs are in the last sum; nobody's before the first."""
        last = self.last_sum
        return () if last is None else last.result.survivors

    @property
    def last_sum(self) -> Certificate | None:
        """Of the last round in which something was learned."""
        return next((each for each in reversed(self._certificates) if not each.result.is_void), None)

    @property
    def is_complete(self) -> bool:
        """Whether all rounds of the charter are over."""
        return len(self._certificates) >= self._charter.rounds

    @property
    def is_broken(self) -> bool:
        """Whether two results of one round are certified: then nothing more is."""
        return self.fork is not None

    @property
    def contexts(self) -> Container[bytes]:
        """Of the sums that are certified: a session of secure aggregation has one of its own, and one result."""
        return self._contexts

    def __len__(self) -> int:
        return len(self._certificates)

    def since(self, number: int, limit: int) -> tuple[Certificate, ...]:
        """Up to `limit` certificates from round `number` on."""
        return tuple(self._certificates[max(number, 1) - 1 :][:limit])

    def add(self, certificate: Certificate) -> bool:
        """Takes the next certificate; False for one of a result that is known, and for a fork, which is then `fork`.

        Raises:
            ChainError: no quorum has signed it, it is of a later round than the next, or behind the last one, or it
                follows another result than the last one here.
        """
        if self.fork is not None:
            return False
        number = certificate.result.round
        if number <= len(self._certificates):
            self._compare(self._certificates[number - 1], certificate)
            return False
        if number != len(self._certificates) + 1 or number > self._charter.rounds:
            raise ChainError(
                f"the certificate of round {number} came; {len(self)} of {self._charter.rounds} are known: ask for "
                "those in between",
                code="round",
            )
        certificate.verify(self._charter, self._keys)
        if certificate.result.parent != self.parent:
            raise ChainError(
                f"the certificate of round {number} follows another result than the one that is known: whoever sent it "
                "has the proof of a fork, ask it for the rounds before",
                code="parent",
            )
        self._certificates.append(certificate)
        self._contexts.add(certificate.result.context)
        return True

    def _compare(self, known: Certificate, other: Certificate) -> None:
        if known.result != other.result:
            other.verify(self._charter, self._keys)  # what nobody certified is no proof, and no news
            self.fork = Fork(known, other)
