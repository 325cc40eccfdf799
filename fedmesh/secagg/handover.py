"""What another needs to go on in the place of a session's aggregator, once the masked inputs are in.

A handover is a message of the session (`Kind.HANDOVER`), signed by its aggregator. Its body is the map

    header       the session's canonical bytes
    context      model and scales that the inputs belong to, see `session.input_context`: 32 bytes
    keys         each device whose masks are in the inputs -> its two public keys and its signature over them: 128 bytes
    commitments  each survivor -> the commitment to the seed of its own mask: 32 bytes
    sum          of the survivors' masked inputs, packed like one of them

It holds no secret. All of it is made of messages that the devices sent to an aggregator which they do not trust: who
has it knows a part of what that one knew, no input, and not the sum either before `threshold` devices have revealed
their shares for this very set. The shares are not in it: they are with their receivers by then.

Verified on the way in: the aggregator's signature over the whole, every device's signature over its keys, and that the
sets fit each other. That the sum is the one of the inputs can be verified by nobody, as with a result: an aggregator
can hand over another one, and cannot deny that it did. Whoever else changes anything is found out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import SecAggError
from fedmesh.secagg.header import SessionHeader
from fedmesh.secagg.identity import Identity, Roster, verify
from fedmesh.secagg.messages import Kind, bytes_map, read, sign_envelope, unpack_body, verify_body
from fedmesh.secagg.pairwise import ADVERT_BYTES, verified_adverts
from fedmesh.secagg.session import binding, input_context, survivors_digest
from fedmesh.secagg.survivors import check_members, in_order

__all__ = ["Handover", "sign_handover"]

Elements = NDArray[np.unsignedinteger[Any]]

_FIELDS = frozenset({"header", "context", "keys", "commitments", "sum"})
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Handover:
    """A handover as it was verified; public.

    Attributes:
        header: the session's. aggregator: who signed it; whether that is who led the session is for the reader to know.
        context: what the inputs belong to.
        keys: device -> public keys and signature, of those whose masks are in the inputs; in cohort order.
        commitments: survivor -> commitment to its seed; in cohort order.
        total: sum of the survivors' masked inputs, in the ring's type [length + 1].
        raw: the bytes that it was read from.
    """

    header: SessionHeader
    aggregator: str
    context: bytes
    keys: Mapping[str, bytes]
    commitments: Mapping[str, bytes]
    total: Elements
    raw: bytes

    def __repr__(self) -> str:
        return f"Handover(round={self.header.round}, attempt={self.header.attempt}, aggregator={self.aggregator!r})"

    @property
    def sharers(self) -> tuple[str, ...]:
        """Devices whose masks are in the inputs."""
        return tuple(self.keys)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Devices whose inputs are in the sum."""
        return tuple(self.commitments)

    def signers(self, signatures: Mapping[str, bytes], roster: Roster) -> dict[str, bytes]:
        """Those of the signatures (by name) that survivors gave for this very set, model and scales."""
        statement = survivors_digest(self.context, self.survivors)
        return {
            name: signatures[name]
            for name in self.survivors
            if name in signatures and verify(roster.key(name), signatures[name], statement)
        }

    @classmethod
    def from_bytes(cls, data: bytes, roster: Roster, *, max_bytes: int) -> Self:
        """What `data` hands over, verified under the identity keys of `roster`.

        Raises:
            SecAggError: longer than `max_bytes` or malformed, not signed by an aggregator on the roster, or with keys
                that no device signed, or of sets that no session has.
        """
        envelope = read(data, max_bytes=max_bytes)
        if envelope.kind is not Kind.HANDOVER:
            raise SecAggError(f"a message {envelope.kind.name.lower()!r} came for a handover", code="turn")
        plain = unpack_body(envelope.body, keys=_FIELDS)
        if not all(isinstance(plain[name], bytes) for name in ("header", "context", "sum")):
            raise SecAggError("a handover came whose header, context or sum is not bytes")
        header = SessionHeader.from_bytes(plain["header"])
        if envelope.sid != header.sid:
            raise SecAggError("a handover came with the header of another session", code="session")
        session = binding(header, roster)
        verify_body(envelope, session, roster)
        keys = bytes_map(plain["keys"], length=ADVERT_BYTES)
        sharers = tuple(verified_adverts(keys, header, session, roster))
        commitments = bytes_map(plain["commitments"], length=_DIGEST_BYTES)
        survivors = check_members(commitments, header, among=sharers)
        return cls(
            header,
            envelope.sender,
            _checked_context(plain["context"], header, session),
            {name: keys[name] for name in sharers},
            {name: commitments[name] for name in survivors},
            header.ring.unpack(plain["sum"], header.length + 1),
            data,
        )


def sign_handover(  # a session's facts
    header: SessionHeader,
    *,
    context: bytes,
    keys: Mapping[str, bytes],
    commitments: Mapping[str, bytes],
    total: Elements,
    aggregator: str,
    identity: Identity,
    roster: Roster,
) -> bytes:
    """The handover of a session by its aggregator; what it is about as in `Handover`."""
    body = {
        "header": header.to_bytes(),
        "context": context,
        "keys": {name: keys[name] for name in in_order(keys, header)},
        "commitments": dict(commitments),
        "sum": header.ring.pack(total),
    }
    session = binding(header, roster)
    return sign_envelope(
        Kind.HANDOVER, body, session=session, sid=header.sid, sender=aggregator, identity=identity
    )  # fmt: skip


def _checked_context(context: bytes, header: SessionHeader, session: bytes) -> bytes:
    if len(context) != _DIGEST_BYTES:
        raise SecAggError(f"a session's context has {_DIGEST_BYTES} bytes, not {len(context)}")
    model, scale = header.model_hash, header.scale_hash
    if model is not None and scale is not None and context != input_context(session, model, scale):
        raise SecAggError("a handover is about another model than its session", code="session")
    return context
