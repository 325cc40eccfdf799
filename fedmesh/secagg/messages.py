"""The messages of a session <-> bytes: bounded, signed, and good for one session, one step and one sender only.

An envelope is the CBOR list [kind, session id, sender, body, signature]. The signature (Ed25519, under the sender's
identity key) is over the session's `binding`, the kind, the sender and SHA-256 of the body, so nothing can be carried
over to another session, step or sender. `open_envelope` verifies; `Body` readers only look at what is verified already.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh import wire
from fedmesh.errors import DecodeError, SecAggError
from fedmesh.secagg.header import MAX_HEADER_BYTES, SessionHeader
from fedmesh.secagg.identity import Identity, Roster, verify
from fedmesh.secagg.ring import Ring
from fedmesh.secagg.session import digest

__all__ = [
    "Envelope",
    "Kind",
    "byte_string",
    "bytes_map",
    "decode_masked",
    "largest",
    "masked_body",
    "names",
    "open_envelope",
    "read",
    "ring_vector",
    "sign_envelope",
    "unpack_body",
    "verify_body",
]

_MAX_MASKED = 1 << 31
_PER_MEMBER = 1024  # a name of 200 characters of up to four bytes, keys, signatures or a sealed pair of shares
_FIXED = 4096
_MEMBERS = 1 << 16  # largest cohort that any message is read for


class Kind(IntEnum):
    """What a message is; odd ones go up to the aggregator, even ones down to a device, the last to successors."""

    ADVERTISE = 1
    KEYS = 2
    SHARES = 3
    DELIVERIES = 4
    MASKED = 5
    SURVIVORS = 6
    SIGNATURE = 7
    QUORUM = 8
    REVEAL = 9
    HANDOVER = 10


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message as it came; nothing in it is verified. `body` and `signature` are what the sender says they are."""

    kind: Kind
    sid: bytes
    sender: str
    body: bytes
    signature: bytes


def largest(kind: Kind, header: SessionHeader) -> int:
    """Bytes that a message of `kind` can have in a session of this header: what is longer is not read."""
    members, elements = _FIXED + _PER_MEMBER * len(header.cohort), 8 * (header.length + 1)
    match kind:
        case Kind.MASKED:
            return members + elements
        case Kind.HANDOVER:
            return members + elements + MAX_HEADER_BYTES
        case _:
            return members


def sign_envelope(kind: Kind, body: Any, *, session: bytes, sid: bytes, sender: str, identity: Identity) -> bytes:
    """The message with the plain `body`, signed by `identity` for the session with this `binding`."""
    encoded = wire.dumps(body)
    signature = identity.sign(_signed(kind, session, sender, encoded))
    return wire.dumps([int(kind), sid, sender, encoded, signature])


def read(message: bytes, *, max_bytes: int) -> Envelope:
    """The parts of a message, none of them verified.

    Raises:
        SecAggError: malformed, longer than `max_bytes`, or of no known kind.
    """
    try:
        parts = wire.loads(message, max_bytes=max_bytes, max_depth=2, max_items=8)
    except DecodeError as error:
        raise SecAggError(f"this is not a message of secure aggregation: {error}") from error
    match parts:
        case [int(kind), bytes(sid), str(sender), bytes(body), bytes(signature)] if (
            kind in Kind.__members__.values() and len(sid) == 32 and len(signature) == 64 and not isinstance(kind, bool)
        ):
            return Envelope(Kind(kind), sid, sender, body, signature)
    raise SecAggError("this is not a message of secure aggregation: its parts are of other kinds or lengths")


def open_envelope(message: bytes, header: SessionHeader, sid: bytes, *, kinds: tuple[Kind, ...]) -> Envelope:
    """A message of this session and of one of `kinds`; the signature is still to be verified (`verify_body`).

    Raises:
        SecAggError: malformed, too long for its kind, of another session (``session``) or another kind (``turn``).
    """
    limit = max(largest(kind, header) for kind in kinds)
    envelope = read(message, max_bytes=limit)
    if envelope.sid != sid:
        raise SecAggError("a message of another session came", code="session")
    if envelope.kind not in kinds:
        wanted = " or ".join(kind.name.lower() for kind in kinds)
        raise SecAggError(f"a message {envelope.kind.name.lower()!r} came out of turn; wanted {wanted}", code="turn")
    return envelope


def verify_body(envelope: Envelope, session: bytes, roster: Roster) -> None:
    """Raises: SecAggError: the sender is not on the roster, or did not sign this in this session."""
    signed = _signed(envelope.kind, session, envelope.sender, envelope.body)
    if not verify(roster.key(envelope.sender), envelope.signature, signed):
        raise SecAggError(
            f"a message {envelope.kind.name.lower()!r} does not bear the signature of {envelope.sender!r} for this "
            "session",
            code="signature",
        )


def _signed(kind: Kind, session: bytes, sender: str, body: bytes) -> bytes:
    return digest("message", session, bytes([kind]), sender, hashlib.sha256(body).digest())


def unpack_body(body: bytes, *, keys: frozenset[str] | None = None) -> dict[str, Any]:
    """A body that is a map with text keys, exactly `keys` if given. Raises: SecAggError: it is something else."""
    plain = _loads(body)
    if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
        raise SecAggError("a message came whose body is no map")
    if keys is not None and plain.keys() != keys:
        held = [key[:40] for key in sorted(plain)[:8]]
        raise SecAggError(f"a message came whose body holds {held}; wanted {sorted(keys)}")
    return plain


def byte_string(body: bytes, *, length: int) -> bytes:
    """A body that is a byte string of `length`. Raises: SecAggError: it is something else."""
    plain = _loads(body)
    if not isinstance(plain, bytes) or len(plain) != length:
        raise SecAggError(f"a message came whose body is not {length} bytes")
    return plain


def names(body: bytes) -> tuple[str, ...]:
    """A body that is a list of names, each once. Raises: SecAggError: it is something else."""
    plain = _loads(body)
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        raise SecAggError("a message came whose body is no list of names")
    if len(set(plain)) != len(plain):
        raise SecAggError("a list of devices names one of them twice", code="consistency")
    return tuple(plain)


def bytes_map(value: Any, *, length: int) -> Mapping[str, bytes]:
    """A map from names to byte strings of `length`. Raises: SecAggError: it is something else."""
    if not isinstance(value, dict):
        raise SecAggError("a message came with something else where a map by device was wanted")
    for name, item in value.items():
        if not isinstance(name, str) or not isinstance(item, bytes) or len(item) != length:
            raise SecAggError(f"a message came whose map by device does not hold {length} bytes for each name")
    return value


def masked_body(ring: Ring, vector: NDArray[np.unsignedinteger[Any]]) -> dict[str, Any]:
    """The body of a masked input: ring width, number of elements, and the elements reduced and packed to their bits."""
    return {"bits": ring.bits, "length": len(vector), "packed": ring.pack(vector)}


def ring_vector(body: bytes) -> tuple[Ring, NDArray[np.unsignedinteger[Any]]]:
    """Ring and elements of a masked input. Raises: SecAggError: the body is something else."""
    plain = unpack_body(body, keys=frozenset({"bits", "length", "packed"}))
    bits, length, packed = plain["bits"], plain["length"], plain["packed"]
    if type(bits) is not int or type(length) is not int or not isinstance(packed, bytes):
        raise SecAggError("a masked input came whose width, length or elements are of another type")
    ring = Ring(bits)
    if length < 1:  # of -1 elements of few bits the packing takes no byte either
        raise SecAggError(f"a masked input of {length} elements came: there is one at least, the weight")
    return ring, ring.unpack(packed, length)


def decode_masked(message: bytes) -> NDArray[np.uint64]:
    """The ring vector of a masked input (step R2) as the aggregator sees it: masked elements, then the masked weight.

    Nothing is verified.

    Raises:
        SecAggError: the bytes are any other message, or none.
    """
    envelope = read(message, max_bytes=_MAX_MASKED)
    if envelope.kind is not Kind.MASKED:
        raise SecAggError(f"a message {envelope.kind.name.lower()!r} holds no masked input", code="turn")
    return ring_vector(envelope.body)[1].astype(np.uint64)


def _loads(body: bytes) -> Any:
    try:
        return wire.loads(body, max_bytes=len(body), max_depth=4, max_items=8 * _MEMBERS)
    except DecodeError as error:
        raise SecAggError(f"a message came whose body cannot be read: {error}") from error
