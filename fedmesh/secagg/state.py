"""What a participant holds between two steps, and its sealed form.

Each secret is here only as long as a later step needs it. Sealed, it is AES-256-GCM under a key that only the device's
identity gives: a Flower Context, a journal or a disk that carries the bytes learns nothing from them.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedmesh import wire
from fedmesh.errors import DecodeError, SecAggError
from fedmesh.secagg.agreement import derive
from fedmesh.secagg.header import PROTOCOL, SessionHeader
from fedmesh.secagg.identity import Identity
from fedmesh.secagg.sealing import seal, unseal

__all__ = ["STEPS", "State", "open_state", "seal_state"]

STEPS = ("advertised", "shared", "delivered", "masked", "signed", "revealed")
"""The last thing that the participant did. ``delivered``: it has its shares, and waits for its input. ``revealed``: it
is over, and its last answer is kept for a successor of the aggregator."""

_VERSION = 1


@dataclass(slots=True, repr=False)
class State:
    """One session of one participant, from its advertise message to its reveal.

    Attributes:
        header: the session's.
        session: its `binding`, 32 bytes.
        step: one of `STEPS`.
        aggregator: the name under which the aggregator has signed so far; another is not obeyed.
        cipher, mask: private X25519 keys, gone after the shares and after the masked input.
        seed: b, of its own mask, gone after the masked input.
        adverts: name -> public keys (cipher, then mask) of the others in the share step.
        channels: name -> secret that seals the shares to and from a device, gone once they are delivered.
        held: name -> shares of that device's seed and of its mask key (33 + 33 bytes), its own among them.
        sharers: devices whose masks are in this one's input, in cohort order.
        survivors: the set that it signed.
        input: weight * values, then the weight, in the ring's type [length + 1]; gone after the masked input.
        context: see `session.input_context`; empty until the model is bound.
        reply: the shares that it revealed, as they left: public; nothing else is held then.
    """

    header: SessionHeader
    session: bytes
    step: str = "advertised"
    aggregator: str = ""
    cipher: bytes = b""
    mask: bytes = b""
    seed: bytes = b""
    adverts: dict[str, bytes] = field(default_factory=dict)
    channels: dict[str, bytes] = field(default_factory=dict)
    held: dict[str, bytes] = field(default_factory=dict)
    sharers: tuple[str, ...] = ()
    survivors: tuple[str, ...] = ()
    input: NDArray[np.unsignedinteger[Any]] | None = None
    context: bytes = b""
    reply: bytes = b""

    def __repr__(self) -> str:
        return f"State(round={self.header.round}, attempt={self.header.attempt}, step={self.step!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a session's secrets are not pickled: seal() is the way to keep them")

    def to_plain(self) -> dict[str, Any]:
        """Plain data with every secret in it: only to be sealed."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**plain, "header": self.header.to_bytes()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_plain`, of what was authenticated."""
        values = {**plain, "header": SessionHeader.from_bytes(plain["header"])}
        return cls(**{**values, "sharers": tuple(plain["sharers"]), "survivors": tuple(plain["survivors"])})


def seal_state(state: State, name: str, identity: Identity) -> bytes:
    """The state, readable for this device alone."""
    data = wire.dumps({"version": _VERSION, "state": state.to_plain()})
    return seal(_key(name, identity), data, name.encode())


def open_state(sealed: bytes, name: str, identity: Identity) -> State:
    """The inverse of `seal_state`.

    Raises:
        SecAggError: not sealed by this device, or by another version of fedmesh.
    """
    data = unseal(_key(name, identity), sealed, name.encode())
    other = "the sealed state of a session is of another version of fedmesh: this round is lost"
    try:
        plain = wire.loads(data, max_bytes=len(data))
        if plain["version"] != _VERSION:
            raise SecAggError(other)
        return State.from_plain(plain["state"])
    except (DecodeError, KeyError, TypeError):
        raise SecAggError(other) from None  # an exception's text could hold some of the content


def _key(name: str, identity: Identity) -> bytes:
    return derive(identity.private_bytes(), salt=PROTOCOL.encode(), info=b"state " + name.encode())
