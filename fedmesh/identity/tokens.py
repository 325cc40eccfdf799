"""The single-use token that an operator carries to a device: a secret, whose it is, and whom to give it to.

``fedmesh-`` and the base64url of deterministic CBOR: the mesh, the device's id, 16 random bytes, the SHA-256 of the
root's certificate, and where the issuer listens, if the operator said so. The authority keeps a hash of the secret.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Self

from fedmesh.errors import ConfigError, DecodeError, IdentityError
from fedmesh.identity.certificates import digest
from fedmesh.identity.names import Name
from fedmesh.wire import dumps, loads

__all__ = ["SECRET_BYTES", "Token", "secret_hash"]

SECRET_BYTES = 16
_PREFIX = "fedmesh-"
_MAX_CHARACTERS = 1_024
_MAX_ADDRESS = 261  # a host name of 253 characters, a colon, a port
_ADVICE = "copy it whole, as fedmesh ca token printed it"


@dataclass(frozen=True, slots=True)
class Token:
    """A token; its secret is in no repr.

    Attributes:
        name: whose it is.
        root: SHA-256 of the root's certificate, 32 bytes: whoever cannot show this root does not get the secret.
        address: HOST:PORT of the issuer; empty: the device has to be told.
    """

    name: Name
    secret: bytes = field(repr=False)
    root: bytes
    address: str = ""

    @property
    def text(self) -> str:
        """What the operator carries."""
        content = dumps([self.name.mesh, self.name.id, self.secret, self.root, self.address])
        return _PREFIX + base64.urlsafe_b64encode(content).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token that `text` is. Raises: ConfigError: it is none; the message does not repeat it."""
        body = text.strip()
        if not body.startswith(_PREFIX) or len(body) > _MAX_CHARACTERS:
            raise ConfigError(f"this is no token, which begins with {_PREFIX}: {_ADVICE}")
        body = body.removeprefix(_PREFIX)
        try:
            data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            content = loads(data, max_bytes=_MAX_CHARACTERS, max_depth=1)
        except (binascii.Error, ValueError, DecodeError):
            raise ConfigError(f"the token is damaged: {_ADVICE}") from None
        match content:
            case [str(mesh), str(device), bytes(secret), bytes(root), str(address)] if (
                len(secret) == SECRET_BYTES and len(root) == 32 and len(address) <= _MAX_ADDRESS
            ):
                return cls(_named(mesh, device), secret, root, address)
            case _:
                raise ConfigError(f"the token is damaged: {_ADVICE}")


def secret_hash(secret: bytes) -> bytes:
    """What the authority keeps of a secret. It is random, so neither salt nor a slow hash would add anything."""
    return digest(b"fedmesh token\x00" + secret)


def _named(mesh: str, device: str) -> Name:
    try:
        return Name(mesh, device)
    except IdentityError as error:
        raise ConfigError(f"the token is damaged ({error}): {_ADVICE}") from None
