"""How members agree on one result: three signatures each, the last of them once in a round, ever.

An attempt's coordinator asks for them, one after another; a quorum of one is the proof that goes with the question for
the next (two-phase locking as in PBFT, Castro and Liskov 1999, and Tendermint, Buchman, Kwon and Milosevic 2018):

1. *prepare*: I take part in this attempt, and this result may be the round's. One in an attempt.
2. *commit*, for a quorum of prepares: I am locked on it. In a later attempt I prepare another result only if a quorum
   has prepared that one after I was locked. Who takes part in a later attempt answers no earlier one.
3. *certify*, for a quorum of commits of one attempt: the signature of the certificate, over the result alone.

Safety, with C colluders of n and q > (n + C) / 2: let a quorum commit X in attempt a. At least q - C > (n - C) / 2
honest members are then locked on X, and any later quorum has one of them, which prepares another result only after a
quorum did: nobody is the first. So whoever is asked to certify in this round is asked for X, in whatever attempt, and
signing once blocks nobody. That is what the first two are for: were members to certify what a coordinator says at
once, two coordinators, or one that lies, could split the signatures, and the round would never end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from fedmesh.errors import DecodeError
from fedmesh.mesh.rounds.charter import MAX_ROUNDS, Charter
from fedmesh.mesh.rounds.keys import Keys, domain
from fedmesh.mesh.rounds.result import MAX_ATTEMPT, Result, read_result, result_statement, signatures_of
from fedmesh.wire import dumps, loads

__all__ = ["MAX_BALLOT_BYTES", "Ballot", "Phase", "Proof", "Voter", "read_ballot", "read_proof", "vote_statement"]

MAX_BALLOT_BYTES = 1 << 15
_FORMAT = "fedmesh-ballot/1"


class Phase(IntEnum):
    """What is asked for."""

    PREPARE = 1
    COMMIT = 2
    CERTIFY = 3


@dataclass(frozen=True, slots=True)
class Proof:
    """A quorum of signatures of one phase and attempt.

    Attributes:
        phase: PREPARE or COMMIT; attempt: of both; result: what it is for.
        signatures: name -> signature over `vote_statement`.
    """

    phase: Phase
    attempt: int
    result: Result
    signatures: Mapping[str, bytes]

    def plain(self) -> list[Any]:
        """Plain data, for a message."""
        return [int(self.phase), self.attempt, self.result.to_bytes(), dict(self.signatures)]

    def is_valid(self, charter: Charter, keys: Keys) -> bool:
        """Whether a quorum of the charter's members signed it."""
        statement = vote_statement(self.phase, self.attempt, self.result)
        return len(self.signatures) >= charter.quorum and all(
            keys.is_signed(name, signature, statement) for name, signature in self.signatures.items()
        )


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a member must not forget in a round.

    Attributes:
        round: which; attempt: the latest that it takes part in: it answers none before.
        prepared: (attempt, hash) that it prepared last.
        lock: the quorum of prepares for the result that it is locked on.
        certified: hash of the result that it certified.
    """

    round: int = 0
    attempt: int = 0
    prepared: tuple[int, bytes] | None = None
    lock: Proof | None = None
    certified: bytes | None = None

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        prepared = None if self.prepared is None else list(self.prepared)
        lock = None if self.lock is None else self.lock.plain()
        return dumps([_FORMAT, self.round, self.attempt, prepared, lock, self.certified])


class Voter:
    """What one member signs. Its `ballot` has to be durable before a signature leaves: `Member` sees to that."""

    def __init__(self, charter: Charter, keys: Keys, ballot: Ballot) -> None:
        self._charter, self._keys = charter, keys
        self.ballot = ballot

    def enter(self, number: int) -> bool:
        """Begins round `number`; False if it voted in a later one: what is known here is older than its votes."""
        if number > self.ballot.round:
            self.ballot = Ballot(number)
        return number == self.ballot.round

    def take_part(self, attempt: int) -> None:
        """Enters an attempt; it answers none before any more."""
        if attempt > self.ballot.attempt:
            self.ballot = replace(self.ballot, attempt=attempt)

    def vote(self, phase: Phase, attempt: int, result: Result, proof: Proof | None) -> bytes | None:
        """The signature that is asked for; None when this member must not give it, or there is no reason to.

        Whether the result may be one at all is for the caller to know; here it is about quorums.
        """
        if result.round != self.ballot.round:
            return None
        if phase is Phase.PREPARE:
            return self._prepare(attempt, result, proof)
        if proof is None or proof.phase != phase - 1 or proof.result != result or proof.attempt != attempt:
            return None
        if not proof.is_valid(self._charter, self._keys):
            return None
        return self._commit(attempt, result, proof) if phase is Phase.COMMIT else self._certify(result)

    def _prepare(self, attempt: int, result: Result, proof: Proof | None) -> bytes | None:
        ballot, digest = self.ballot, result.hash
        if attempt < ballot.attempt or not self._is_free_for(attempt, result, proof):
            return None
        if ballot.prepared is not None and ballot.prepared[0] >= attempt and ballot.prepared != (attempt, digest):
            return None  # one in an attempt
        self.ballot = replace(ballot, attempt=attempt, prepared=(attempt, digest))
        return self._keys.sign(vote_statement(Phase.PREPARE, attempt, result))

    def _is_free_for(self, attempt: int, result: Result, proof: Proof | None) -> bool:
        """Whether this member is not locked, or locked on `result`, or a quorum prepared it after the lock."""
        lock = self.ballot.lock
        if lock is None or lock.result == result:
            return True
        return (
            proof is not None
            and proof.phase is Phase.PREPARE
            and proof.result == result
            and lock.attempt < proof.attempt < attempt
            and proof.is_valid(self._charter, self._keys)
        )

    def _commit(self, attempt: int, result: Result, proof: Proof) -> bytes | None:
        ballot = self.ballot
        if attempt < ballot.attempt:
            return None
        self.ballot = replace(ballot, attempt=attempt, lock=proof)
        return self._keys.sign(vote_statement(Phase.COMMIT, attempt, result))

    def _certify(self, result: Result) -> bytes | None:
        digest = result.hash
        if self.ballot.certified not in {None, digest}:
            return None  # more than C colluders: this one signs once
        self.ballot = replace(self.ballot, certified=digest)
        return self._keys.sign(result_statement(result))


def vote_statement(phase: Phase, attempt: int, result: Result) -> bytes:
    """What a vote signs: the result, and for the first two phases in which attempt."""
    if phase is Phase.CERTIFY:
        return result_statement(result)
    return domain("vote", dumps([int(phase), attempt, result.hash]))


def read_proof(plain: object) -> Proof:
    """The inverse of `Proof.plain`, not verified. Raises: DecodeError: it is none."""
    match plain:
        case [int(phase), int(attempt), bytes(result), dict(signatures)] if (
            phase in {Phase.PREPARE, Phase.COMMIT} and type(attempt) is int and 0 <= attempt < MAX_ATTEMPT
        ):
            return Proof(Phase(phase), attempt, read_result(result), signatures_of(signatures))
        case _:
            raise DecodeError("a proof is a phase, an attempt, a result and signatures")


def read_ballot(data: bytes) -> Ballot:
    """The inverse of `Ballot.to_bytes`. Raises: DecodeError: it is none."""
    match loads(data, max_bytes=MAX_BALLOT_BYTES, max_depth=4):
        case [str(form), int(number), int(attempt), prepared, lock, certified] if (
            form == _FORMAT and 0 <= number <= MAX_ROUNDS and 0 <= attempt < MAX_ATTEMPT
        ):
            pass
        case _:
            raise DecodeError("a ballot is a round, an attempt and what was signed")
    match prepared:
        case None:
            pass
        case [int(at), bytes(digest)] if at >= 0 and len(digest) == 32:
            prepared = (at, digest)
        case _:
            raise DecodeError("what a ballot says was prepared is an attempt and a digest")
    if certified is not None and (not isinstance(certified, bytes) or len(certified) != 32):
        raise DecodeError("what a ballot says was certified is a digest")
    return Ballot(number, attempt, prepared, None if lock is None else read_proof(lock), certified)
