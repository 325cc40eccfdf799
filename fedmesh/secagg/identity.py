"""Who is who: Ed25519 identities (RFC 8032) and the roster they are pinned in.

A roster is what an operator enrolled; keys that the aggregator delivers are never taken in its place. It refuses keys
that two names share and keys of low order, under which one signature fits many messages. A key that is no point on the
curve is not told apart: nothing verifies under it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Never, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmesh.errors import DecodeError, SecAggError
from fedmesh.points import is_sound
from fedmesh.wire import dumps, loads

__all__ = ["MAX_NAME_CHARACTERS", "Identity", "Roster", "verify"]

MAX_NAME_CHARACTERS = 200
_KEY_BYTES = 32
_MAX_ROSTER_BYTES = 1 << 24  # some 70,000 names


class Identity:
    """An Ed25519 key pair; equal by its public key. The private half leaves it by `private_bytes` only."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """A fresh identity, from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_private(cls, private: bytes) -> Self:
        """The identity of 32 private bytes. Raises: SecAggError (``identity``) for another length."""
        if len(private) != _KEY_BYTES:
            raise SecAggError(f"a private key has {_KEY_BYTES} bytes, not {len(private)}", code="identity")
        return cls(Ed25519PrivateKey.from_private_bytes(private))

    def private_bytes(self) -> bytes:
        """The 32 private bytes: to be written to a file of mode 0600, and nowhere else."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`; the same every time."""
        return self._private.sign(message)

    def __eq__(self, other: object) -> bool:
        return self.public == other.public if isinstance(other, Identity) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.public)

    def __repr__(self) -> str:
        return f"Identity({self.public.hex()[:8]}…)"

    def __reduce__(self) -> Never:
        raise TypeError("an identity is not copied or pickled: its private half leaves by private_bytes() only")


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is one of `message` under the Ed25519 key `public`; False for anything malformed."""
    return all(isinstance(part, bytes) for part in (public, signature, message)) and verified(
        public, signature, message
    )


@lru_cache(maxsize=4096)
def verified(public: bytes, signature: bytes, message: bytes) -> bool:
    """As `verify`, of bytes. Remembers: a worker that simulates many devices sees a signature once for each of them."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True, repr=False)
class Roster:
    """Names of devices and aggregators -> their Ed25519 public keys (32 bytes), pinned.

    Raises:
        SecAggError: ``identity``: a name is empty, too long or not text, a key is not a sound public key, or two names
            have the same key.
    """

    keys: Mapping[str, bytes]

    def __post_init__(self) -> None:
        copy = {_checked_name(name): _checked_key(name, key) for name, key in self.keys.items()}
        names = {key: name for name, key in copy.items()}
        if len(names) != len(copy):
            first = min(name for name, key in copy.items() if names[key] != name)
            second = names[copy[first]]
            raise SecAggError(f"{first!r} and {second!r} have the same key: enrol each its own", code="identity")
        object.__setattr__(self, "keys", MappingProxyType(copy))

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self.keys))

    def key(self, name: str) -> bytes:
        """The public key of `name`. Raises: SecAggError (``identity``) when it is not on the roster."""
        key = self.keys.get(name)
        if key is None:
            raise SecAggError(f"{name!r:.80} is not on the roster of {len(self)} names", code="identity")
        return key

    def name_of(self, public: bytes) -> str | None:
        """Whose key `public` is, or None."""
        return next((name for name, key in self.keys.items() if key == public), None)

    def __contains__(self, name: object) -> bool:
        return name in self.keys

    def __len__(self) -> int:
        return len(self.keys)

    def __hash__(self) -> int:
        return hash(frozenset(self.keys.items()))

    def __repr__(self) -> str:
        return f"Roster({len(self)} names)"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self.keys),)

    def to_bytes(self) -> bytes:
        """Deterministic CBOR: equal rosters give equal bytes."""
        return dumps(dict(self.keys))

    @classmethod
    def from_bytes(cls, data: bytes, *, max_bytes: int = _MAX_ROSTER_BYTES) -> Self:
        """The roster that `to_bytes` wrote. Raises: SecAggError (``malformed`` or ``identity``) for anything else."""
        try:
            keys = loads(data, max_bytes=max_bytes, max_depth=1)
        except DecodeError as error:
            raise SecAggError(f"the roster cannot be read: {error}", code="malformed") from error
        if not isinstance(keys, dict):
            raise SecAggError(f"a roster is a map of names to keys, not {type(keys).__name__}", code="malformed")
        return cls(keys)


def _checked_name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARACTERS:
        kind = f"{len(name)} characters" if isinstance(name, str) else type(name).__name__
        raise SecAggError(f"a name is 1 to {MAX_NAME_CHARACTERS} characters of text, not {kind}", code="identity")
    return name


def _checked_key(name: str, key: object) -> bytes:
    if not isinstance(key, bytes) or len(key) != _KEY_BYTES:
        kind = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise SecAggError(f"the key of {name!r} is {_KEY_BYTES} bytes, not {kind}", code="identity")
    if not is_sound(key):
        raise SecAggError(f"the key of {name!r} is of low order or not canonical: enrol another", code="identity")
    return key
