"""What members of a run send each other <-> bytes; every field is checked before it is used.

A message is a deterministic CBOR list ``[version, kind, charter's hash, ...]``. Who sent it is for the transport to say
(TLS with the certificates of the mesh); what others are to believe of it is signed by itself. Control messages are one
frame of 64 KB at most; those that carry a step of secure aggregation, or what a deputy keeps, are as long as the caller
allows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

from fedmesh.errors import DecodeError
from fedmesh.mesh.rounds.charter import MAX_ROUNDS
from fedmesh.mesh.rounds.quorum import MAX_MEMBERS
from fedmesh.mesh.rounds.result import MAX_ATTEMPT, Certificate, Result, read_certificate, read_result, signatures_of
from fedmesh.mesh.rounds.voting import Phase, Proof, read_proof
from fedmesh.wire import dumps, loads

__all__ = [
    "MAX_CERTIFICATES",
    "MAX_CONTROL_BYTES",
    "Ask",
    "Certificates",
    "Handover",
    "HandoverKept",
    "HandoverWanted",
    "InRound",
    "Message",
    "Readiness",
    "SetSignature",
    "Status",
    "Step",
    "Vote",
    "Wanted",
    "decode",
    "encode",
    "page",
    "round_of",
]

VERSION = 1
MAX_CONTROL_BYTES = 1 << 16
MAX_CERTIFICATES = 4
MAX_HOLDING = 8
_SHORT_BYTES = 2048


class Readiness(IntEnum):
    """Whether a device would train."""

    OUT = 0
    """Not in this round any more: it has signed a set of survivors, or its budget is spent; or not in this attempt, in
    whose session it could not do its part."""
    LATER = 1
    """Not now; perhaps still in this attempt."""
    READY = 2
    NEXT = 3
    """Not in this attempt any more, in whose session it has been: that is still going on, or lost. In the next one."""


@dataclass(frozen=True, slots=True)
class SetSignature:
    """That a member has signed a set of survivors (R3 of secure aggregation).

    Attributes:
        attempt: of the session; digest: `secagg.session.survivors_digest`, 32 bytes; signature: over it.
    """

    attempt: int
    digest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Status:
    """Where the sender is: told to all when it enters an attempt and when it signs a set, and now and then to some.

    Attributes:
        round, attempt: that it takes part in; parent: hash of the result before.
        readiness: whether it would train in this attempt.
        lock: the quorum of prepares that it is locked on.
        signed: the set of survivors that it signed in this round, and can still reveal for.
        holding: attempts whose masked sum it keeps for who comes after their coordinator.
    """

    round: int
    attempt: int
    parent: bytes
    readiness: Readiness
    lock: Proof | None = None
    signed: SetSignature | None = None
    holding: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A message of secure aggregation. `down`: from who coordinates it to a device."""

    round: int
    attempt: int
    down: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Handover:
    """What a deputy keeps of a session: it is enough to go on behind the set of survivors."""

    round: int
    attempt: int
    data: bytes


@dataclass(frozen=True, slots=True)
class HandoverKept:
    """I have it."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class HandoverWanted:
    """Send me what you keep of that session."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A coordinator's question, see `voting`.

    Attributes:
        attempt: in which it asks. proof: the quorum of the phase before; with PREPARE, what frees locked members.
        survivors: who signed the set of survivors, with PREPARE of a sum.
    """

    phase: Phase
    attempt: int
    result: Result
    proof: Proof | None
    survivors: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Vote:
    """A member's answer."""

    round: int
    phase: Phase
    attempt: int
    digest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Certificates:
    """Results, one behind another."""

    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Send me the certificates from round `first` on."""

    first: int


InRound = Status | Step | Handover | HandoverKept | HandoverWanted | Ask | Vote
"""Messages that mean something in one round only."""
Message = Status | Step | Handover | HandoverKept | HandoverWanted | Ask | Vote | Certificates | Wanted


def encode(message: Message, charter: bytes) -> bytes:
    """The bytes of a message of the run whose charter has this hash."""
    return dumps([VERSION, *_plain(message, charter)])


def _plain(message: Message, charter: bytes) -> list[Any]:
    match message:
        case Step():
            return [1, charter, message.round, message.attempt, message.down, message.data]
        case Handover():
            return [2, charter, message.round, message.attempt, message.data]
        case HandoverKept():
            return [3, charter, message.round, message.attempt]
        case HandoverWanted():
            return [4, charter, message.round, message.attempt]
        case _:
            return _plain_vote(message, charter)


def _plain_vote(message: Status | Ask | Vote | Certificates | Wanted, charter: bytes) -> list[Any]:
    match message:
        case Status():
            lock = None if message.lock is None else message.lock.plain()
            mine = message.signed
            signed = None if mine is None else [mine.attempt, mine.digest, mine.signature]
            where = [message.round, message.attempt, message.parent, int(message.readiness)]
            return [0, charter, *where, lock, signed, list(message.holding)]
        case Ask():
            proof = None if message.proof is None else message.proof.plain()
            what = [int(message.phase), message.attempt, message.result.to_bytes()]
            return [5, charter, *what, proof, message.survivors]
        case Vote():
            where = [message.round, int(message.phase), message.attempt]
            return [6, charter, *where, message.digest, message.signature]
        case Certificates():
            return [7, charter, [certificate.to_bytes() for certificate in message.certificates]]
        case _:
            return [8, charter, message.first]


def round_of(message: InRound) -> int:
    """The round that it is of."""
    return message.result.round if isinstance(message, Ask) else message.round


def page(certificates: Iterable[Certificate]) -> Certificates:
    """As many of them, from the first on, as a message has room for."""
    chosen, room = [], MAX_CONTROL_BYTES - 1024
    for certificate in certificates:
        room -= len(certificate.to_bytes()) + 8
        if room < 0:
            break
        chosen.append(certificate)
    return Certificates(tuple(chosen))


def decode(data: bytes, charter: bytes, *, max_bytes: int) -> Message:
    """The message in `data`.

    Args:
        charter: hash of the run's charter.
        max_bytes: longest message with a step or a handover; others are `MAX_CONTROL_BYTES` long at most.

    Raises:
        DecodeError: it is none, or of another run.
    """
    return (_decode_short if len(data) <= _SHORT_BYTES else _decode)(data, charter, max_bytes)


def _decode(data: bytes, charter: bytes, max_bytes: int) -> Message:
    content = loads(data, max_bytes=max(max_bytes, MAX_CONTROL_BYTES), max_depth=6, max_items=8 * MAX_MEMBERS + 128)
    match content:
        case [int(version), int(kind), bytes(run), *rest] if version == VERSION and run == charter:
            pass
        case _:
            raise DecodeError(f"a message that is none of version {VERSION} of this run's")
    if kind not in {1, 2} and len(data) > MAX_CONTROL_BYTES:
        raise DecodeError(f"a message of {len(data)} bytes, the limit of its kind is {MAX_CONTROL_BYTES}")
    message = _read_session(kind, rest) if kind in {1, 2, 3, 4} else _read_vote(kind, rest)
    if message is None:
        raise DecodeError(f"a message of kind {str(kind)[:20]} has other parts")
    return message


_decode_short = lru_cache(maxsize=512)(_decode)  # they come again until they are answered


def _read_session(kind: int, rest: list[Any]) -> Message | None:
    match kind, rest:
        case 1, [int(number), int(attempt), bool(down), bytes(data)] if _is_turn(number, attempt):
            return Step(number, attempt, down, data)
        case 2, [int(number), int(attempt), bytes(data)] if _is_turn(number, attempt):
            return Handover(number, attempt, data)
        case 3, [int(number), int(attempt)] if _is_turn(number, attempt):
            return HandoverKept(number, attempt)
        case 4, [int(number), int(attempt)] if _is_turn(number, attempt):
            return HandoverWanted(number, attempt)
        case _:
            return None


def _read_vote(kind: int, rest: list[Any]) -> Message | None:
    match kind, rest:
        case 0, [int(number), int(attempt), bytes(parent), int(ready), lock, signed, list(holding)] if (
            _is_turn(number, attempt) and len(parent) == 32 and ready in set(Readiness) and _are_attempts(holding)
        ):
            proof = None if lock is None else read_proof(lock)
            return Status(number, attempt, parent, Readiness(ready), proof, _set_signature(signed), tuple(holding))
        case 5, [int(phase), int(attempt), bytes(result), proof, dict(survivors)] if _is_vote(phase, attempt):
            before = None if proof is None else read_proof(proof)
            return Ask(Phase(phase), attempt, read_result(result), before, signatures_of(survivors))
        case 6, [int(number), int(phase), int(attempt), bytes(digest), bytes(signature)] if (
            _is_turn(number, attempt) and _is_vote(phase, attempt) and len(digest) == 32 and len(signature) == 64
        ):
            return Vote(number, Phase(phase), attempt, digest, signature)
        case 7, [list(several)] if len(several) <= MAX_CERTIFICATES and all(isinstance(one, bytes) for one in several):
            return Certificates(tuple(read_certificate(one) for one in several))
        case 8, [int(first)] if _is_turn(first, 0):
            return Wanted(first)
        case _:
            return None


def _set_signature(plain: object) -> SetSignature | None:
    match plain:
        case None:
            return None
        case [int(attempt), bytes(digest), bytes(signature)] if (
            _is_turn(1, attempt) and len(digest) == 32 and len(signature) == 64
        ):
            return SetSignature(attempt, digest, signature)
        case _:
            raise DecodeError("a signed set of survivors is an attempt, a digest and a signature")


def _is_turn(number: int, attempt: int) -> bool:
    return type(number) is int and type(attempt) is int and 1 <= number <= MAX_ROUNDS and 0 <= attempt < MAX_ATTEMPT


def _is_vote(phase: int, attempt: int) -> bool:
    return phase in {Phase.PREPARE, Phase.COMMIT, Phase.CERTIFY} and _is_turn(1, attempt)


def _are_attempts(holding: list[Any]) -> bool:
    return len(holding) <= MAX_HOLDING and all(isinstance(attempt, int) and _is_turn(1, attempt) for attempt in holding)
