"""Key agreement: X25519 (RFC 7748) and HKDF-SHA256 (RFC 5869).

A key pair serves one session. Guarantees that a shared secret is never the all-zero one of a low-order point and never
the one of a device with itself; keys are accepted in their one canonical encoding only, so distinct bytes are distinct
keys. Not guaranteed: that Python forgets a secret that was dropped.
"""

from typing import Never, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedmesh.errors import SecAggError

__all__ = ["KEY_BYTES", "KeyPair", "check_public", "derive"]

KEY_BYTES = 32
_FIELD = (1 << 255) - 19
_LOW_ORDER = {  # u of the points on the curve or its twist whose order divides eight: every secret with them is zero
    0,
    1,
    _FIELD - 1,
    0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
}


class KeyPair:
    """An X25519 key pair; the private half leaves it by `private_bytes` only."""

    __slots__ = ("_private", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """A fresh pair, from the operating system's randomness."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_private(cls, private: bytes) -> Self:
        """The pair of 32 private bytes. Raises: SecAggError (``identity``) for another length."""
        if len(private) != KEY_BYTES:
            raise SecAggError(f"a private key has {KEY_BYTES} bytes, not {len(private)}", code="identity")
        return cls(X25519PrivateKey.from_private_bytes(private))

    def private_bytes(self) -> bytes:
        """The 32 private bytes, as they were given or drawn (RFC 7748 clamps them in use)."""
        return self._private.private_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        """The 32-byte secret shared with the holder of `peer_public`; to be used through `derive`.

        Raises:
            SecAggError: ``identity``: the key is not 32 canonical bytes, is this device's own, or is of low order.
        """
        check_public(peer_public)
        if peer_public == self.public:
            raise SecAggError("a device was handed its own agreement key as a peer's (reflection)", code="identity")
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError as error:  # RFC 7748 6.1: the all-zero secret of a low-order point
            raise SecAggError("a peer's agreement key is of low order", code="identity") from error

    def __repr__(self) -> str:
        return f"KeyPair({self.public.hex()[:8]}…)"

    def __reduce__(self) -> Never:
        raise TypeError("a key pair is not copied or pickled: its private half leaves by private_bytes() only")


def derive(secret: bytes, *, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869): `length` bytes (at most 8,160) for the purpose `info`."""
    return HKDF(SHA256(), length, salt, info).derive(secret)


def check_public(public: bytes) -> None:
    """Whether a public key is fit to agree with.

    Raises:
        SecAggError: ``identity``: it is not 32 bytes in their canonical form, or it is of low order.
    """
    if not isinstance(public, bytes) or len(public) != KEY_BYTES:
        kind = f"{len(public)} bytes" if isinstance(public, bytes) else type(public).__name__
        raise SecAggError(f"an agreement key is {KEY_BYTES} bytes, not {kind}", code="identity")
    u = int.from_bytes(public, "little")
    if u >= _FIELD:
        raise SecAggError("an agreement key is not in its canonical form", code="identity")
    if u in _LOW_ORDER:
        raise SecAggError("a peer's agreement key is of low order", code="identity")
