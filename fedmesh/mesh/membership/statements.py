"""Statements about a member: alive or left, signed by itself; suspect or dead, signed by who says so.

::

    signature, 64 bytes | body: CBOR [state, subject, incarnation, ...]

An alive's body goes on with its addresses and the version of its model, an accusation's with the accuser's name. The
signature (Ed25519, RFC 8032) is over a label, the mesh's name and the body: it is good in one mesh, and for nothing
else that the key signs. A statement is addressed to everybody and has no date (a Pi has no clock), therefore it is no
`fedmesh.identity.packets.Packet`: its incarnation says what is older.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.identity.names import Name, is_id
from fedmesh.mesh.membership.incarnations import LARGEST
from fedmesh.wire import dumps, loads

__all__ = ["MAX_STATEMENT_BYTES", "Signer", "State", "Statement", "is_signed", "read_statement"]

MAX_STATEMENT_BYTES = 640
MAX_ADDRESSES = 4
_SIGNATURE_BYTES = 64
_ADDRESS = re.compile(r"[0-9A-Za-z.:%_\[\]-]{1,80}")
_MODEL = re.compile(r"[0-9A-Za-z._:/-]{0,80}")


class State(IntEnum):
    """What is said of a member; of two statements with one incarnation the greater one counts."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Attributes:
        state: what it says; subject: of whom; incarnation: the subject's.
        author: who signed it.
        addresses: where the subject says that it is: hints, of an alive only.
        model: the version that it has.
        raw: signature and body, as they travel.
    """

    state: State
    subject: str
    incarnation: int
    author: str
    addresses: tuple[str, ...]
    model: str
    raw: bytes

    @property
    def is_accusation(self) -> bool:
        """Whether somebody else says it."""
        return self.state in {State.SUSPECT, State.DEAD}


class Signer:
    """Makes the statements of one member.

    Args:
        name: the member's; key: its Ed25519 key, on the roster.
    """

    __slots__ = ("_key", "name")

    def __init__(self, name: Name, key: Ed25519PrivateKey) -> None:
        self.name, self._key = name, key

    def __repr__(self) -> str:
        return f"Signer({self.name})"

    def alive(self, incarnation: int, addresses: Sequence[str], model: str) -> Statement:
        """That this member is here. Raises: ConfigError: an address or the version is nothing that travels."""
        try:
            return self._signed([int(State.ALIVE), self.name.id, incarnation, list(addresses), model])
        except DecodeError as error:
            raise ConfigError(f"these addresses, or this version of a model, cannot be announced: {error}") from error

    def left(self, incarnation: int) -> Statement:
        """That this member leaves on purpose."""
        return self._signed([int(State.LEFT), self.name.id, incarnation])

    def accuse(self, state: State, subject: str, incarnation: int) -> Statement:
        """That `subject` is suspect or dead."""
        return self._signed([int(state), subject, incarnation, self.name.id])

    def _signed(self, content: list[object]) -> Statement:
        body = dumps(content)
        return read_statement(self._key.sign(_signed_bytes(self.name.mesh, body)) + body)


@lru_cache(maxsize=4096)
def read_statement(raw: bytes) -> Statement:
    """The statement in `raw`, not verified. Remembers: gossip brings the same one many times.

    Raises:
        DecodeError: it is none.
    """
    if not _SIGNATURE_BYTES < len(raw) <= MAX_STATEMENT_BYTES:
        raise DecodeError(f"a statement of {len(raw)} bytes, the limit is {MAX_STATEMENT_BYTES}")
    content = loads(raw[_SIGNATURE_BYTES:], max_bytes=MAX_STATEMENT_BYTES, max_depth=2, max_items=16)
    match content:
        case [int(state), str(subject), int(incarnation), *rest] if (
            type(state) is int and type(incarnation) is int and 0 < incarnation < LARGEST and is_id(subject)
        ):
            pass
        case _:
            raise DecodeError("a statement does not begin with a state, a name and an incarnation")
    match state, rest:
        case State.ALIVE, [list(addresses), str(model)] if len(addresses) <= MAX_ADDRESSES and _MODEL.fullmatch(model):
            if not all(isinstance(address, str) and _ADDRESS.fullmatch(address) for address in addresses):
                raise DecodeError("an address is 1 to 80 of letters, digits and . : % _ [ ] -")
            return Statement(State.ALIVE, subject, incarnation, subject, tuple(addresses), model, raw)
        case State.LEFT, []:
            return Statement(State.LEFT, subject, incarnation, subject, (), "", raw)
        case ((State.SUSPECT | State.DEAD), [str(author)]) if is_id(author) and author != subject:
            return Statement(State(state), subject, incarnation, author, (), "", raw)
        case _:
            raise DecodeError(f"a statement of state {str(state)[:20]} has other parts")


@lru_cache(maxsize=4096)
def is_signed(raw: bytes, mesh: str, key: bytes) -> bool:
    """Whether a statement was signed with `key` for `mesh`; False for a key that is none."""
    signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _signed_bytes(mesh, body))
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed_bytes(mesh: str, body: bytes) -> bytes:
    return b"fedmesh membership\x00" + mesh.encode() + b"\x00" + body  # no mesh's name has a zero in it
