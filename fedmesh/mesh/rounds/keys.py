"""Who signs and who is believed: a member's own key, and those of the charter's members.

Every signature is over a label and the bytes: it is good for nothing else that the same key signs.
"""

from collections.abc import Mapping
from typing import Protocol

from fedmesh.secagg.identity import Identity, verify

__all__ = ["Keyring", "Keys", "domain"]


class Keys(Protocol):
    """A member's signature, and its judgement of those of others."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the same for the same message."""
        ...

    def is_signed(self, name: str, signature: bytes, message: bytes) -> bool:
        """Whether `name`, a member of the charter, signed `message`; False for anything malformed."""
        ...


class Keyring:
    """Ed25519 (RFC 8032) under the keys that a charter pins.

    Args:
        identity: the member's own.
        keys: name -> public key, 32 bytes.
    """

    __slots__ = ("_identity", "_keys")

    def __init__(self, identity: Identity, keys: Mapping[str, bytes]) -> None:
        self._identity, self._keys = identity, dict(keys)

    def __repr__(self) -> str:
        return f"Keyring({len(self._keys)} members)"

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the same for the same message."""
        return self._identity.sign(message)

    def is_signed(self, name: str, signature: bytes, message: bytes) -> bool:
        """Whether `name`, a member of the charter, signed `message`; False for anything malformed."""
        key = self._keys.get(name)
        return key is not None and verify(key, signature, message)


def domain(purpose: str, body: bytes) -> bytes:
    """What is signed, or hashed, for `purpose`: no two purposes have bytes in common."""
    return b"fedmesh rounds " + purpose.encode() + b"\x00" + body
