"""What the members of a group send each other <-> bytes: bounded before they are decoded, every field checked.

A message is a deterministic CBOR list ``[version, kind, run, step, ...]``. Who sent it is for the transport to say;
secure aggregation signs its own messages, and a sum bears the signatures of those who are in it.
"""

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import DecodeError, SecAggError
from fedmesh.secagg.header import SessionHeader
from fedmesh.secagg.result import SumResult
from fedmesh.wire import dumps, loads

__all__ = [
    "At",
    "Down",
    "Here",
    "Message",
    "Open",
    "Total",
    "Trains",
    "Up",
    "Wanted",
    "decode",
    "encode",
    "read",
    "read_sum",
    "total_of",
]

VERSION = 1
MAX_GROUP = 128
MAX_STEP = 1 << 40
_MAX_NAME = 128
_MAX_PROOF_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Here:
    """To the leader: the sender has trained, and is in the step."""

    step: int


@dataclass(frozen=True, slots=True)
class Open:
    """From the leader: these take part, in this order."""

    step: int
    cohort: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Up:
    """To the leader: a message of secure aggregation."""

    step: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Down:
    """From the leader: a message of secure aggregation."""

    step: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of a group: who took part, who is in it and signed for that, and the ring elements, packed."""

    step: int
    cohort: tuple[str, ...]
    survivors: tuple[str, ...]
    proof: bytes
    elements: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """To anybody of the group: the sender is in doubt about the sum of the step."""

    step: int


class Trains(IntEnum):
    """Whether a member would train in its step."""

    NO = 0
    SOON = 1
    YES = 2


@dataclass(frozen=True, slots=True)
class At:
    """To others: the step that the sender is in, or will begin next; `MAX_STEP` at most.

    Attributes:
        trains: whether it takes part. is_open: it is in no session of this step yet. asks: it wants to be told, too.
    """

    step: int
    trains: Trains
    is_open: bool
    asks: bool


Message = Here | Open | Up | Down | Total | Wanted | At


def encode(message: Message, run: bytes) -> bytes:
    """The bytes of a message; ``decode(encode(m, run), run, max_bytes=...) == m``."""
    parts: list[object]
    match message:
        case Here():
            parts = [0]
        case Open():
            parts = [1, list(message.cohort)]
        case Up():
            parts = [2, message.data]
        case Down():
            parts = [3, message.data]
        case Total():
            parts = [4, list(message.cohort), list(message.survivors), message.proof, message.elements]
        case Wanted():
            parts = [5]
        case At():
            parts = [6, int(message.trains), message.is_open, message.asks]
    return dumps([VERSION, parts[0], run, message.step, *parts[1:]])


def read(data: bytes, run: bytes, counts: Counter[str], *, max_bytes: int) -> Message | None:
    """As `decode`; None: it is none, which is counted (``malformed``)."""
    try:
        return decode(data, run, max_bytes=max_bytes)
    except DecodeError:
        counts["malformed"] += 1
        return None


def decode(data: bytes, run: bytes, *, max_bytes: int) -> Message:
    """The message in `data`. Raises: DecodeError: too long, of another run, or none."""
    plain = loads(data, max_bytes=max_bytes, max_depth=2, max_items=4 * MAX_GROUP)
    match plain:
        case [version, int(kind), bytes(named), int(step), *values] if version == VERSION and named == run:
            pass
        case _:
            raise DecodeError(f"{len(data)} bytes are not a message of this run of gossip, version {VERSION}")
    if not 0 <= step < MAX_STEP:
        raise DecodeError("a step is a number from 0 to 2^40")
    message: Message
    match kind, values:
        case 0, []:
            message = Here(step)
        case 1, [list(cohort)]:
            message = Open(step, _names(cohort))
        case 2, [bytes(body)]:
            message = Up(step, body)
        case 3, [bytes(body)]:
            message = Down(step, body)
        case 4, [list(cohort), list(survivors), bytes(proof), bytes(elements)] if len(proof) <= _MAX_PROOF_BYTES:
            message = Total(step, _names(cohort), _names(survivors), proof, elements)
        case 5, []:
            message = Wanted(step)
        case 6, [int(trains), bool(is_open), bool(asks)] if trains in set(Trains):
            message = At(step, Trains(trains), is_open, asks)
        case _:
            raise DecodeError(f"a message of kind {str(kind)[:20]} has other parts, or longer ones")
    return message


def total_of(result: SumResult, header: SessionHeader) -> Total:
    """What is told of a result."""
    ring = header.ring
    proof = dumps([
        result.weight, dict(result.signatures), result.aggregator, result.signature, result.context,
    ])  # fmt: skip
    return Total(header.round, header.cohort, result.survivors, proof, ring.pack(ring.lift(result.total)))


def read_sum(total: Total, header: SessionHeader) -> SumResult:
    """The result that was told; `SumResult.verify` is for the caller. Raises: DecodeError: it is none."""
    plain = loads(total.proof, max_bytes=_MAX_PROOF_BYTES, max_depth=2, max_items=4 * MAX_GROUP)
    match plain:
        case [int(weight), dict(signatures), str(aggregator), bytes(signature), bytes(context)]:
            return SumResult(
                _elements(total, header),
                weight,
                total.survivors,
                header.sid,
                signatures,
                aggregator,
                signature,
                context,
            )
        case _:
            raise DecodeError("a sum came without what proves who is in it")


def _elements(total: Total, header: SessionHeader) -> NDArray[np.int64]:
    try:
        return header.ring.centre(header.ring.unpack(total.elements, header.length))
    except SecAggError as error:
        raise DecodeError(f"the sum of step {total.step} cannot be read: {error}") from error


def _names(plain: list[object]) -> tuple[str, ...]:
    names = tuple(name for name in plain if isinstance(name, str) and 0 < len(name) <= _MAX_NAME)
    if len(names) != len(plain) or len(set(names)) != len(names) or len(names) > MAX_GROUP:
        raise DecodeError(f"a group is up to {MAX_GROUP} different names")
    return names
