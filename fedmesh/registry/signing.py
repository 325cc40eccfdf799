"""The Ed25519 keys (RFC 8032) that sign metadata: 32 bytes in a file of its owner alone, and how TUF sees them.

A key never leaves in a message or a repr. Which key may sign what is said by root and targets metadata, not by names of
files.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import CryptoSigner, SSlibKey

from fedmesh.errors import ConfigError
from fedmesh.files import read_bounded, write_atomically

__all__ = ["create_key", "public_key", "read_public_key", "read_signer", "read_signers", "write_public_key"]

_KEY_BYTES = 32


def create_key(path: Path) -> CryptoSigner:
    """A new key at `path`, with its public half in hexadecimal in a ``.pub`` beside it.

    Raises:
        ConfigError: there is a file already, or it cannot be written.
    """
    if path.exists():
        raise ConfigError(f"there is a key at {path} already, and no key is ever made over another")
    key = Ed25519PrivateKey.generate()
    write_atomically(path, key.private_bytes_raw(), mode=0o600)
    signer = CryptoSigner(key)
    write_public_key(path.with_suffix(".pub"), signer.public_key)
    return signer


def write_public_key(path: Path, key: SSlibKey) -> None:
    """Puts the public half into a file, to be carried to a repository. Raises: ConfigError: it cannot."""
    write_atomically(path, key.keyval["public"].encode() + b"\n")


def public_key(raw: bytes) -> SSlibKey:
    """How TUF sees the public key of 32 bytes."""
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(raw))


def read_public_key(path: Path) -> SSlibKey:
    """The public key in a ``.pub``. Raises: ConfigError: there is none."""
    try:
        return public_key(bytes.fromhex(read_bounded(path, 256).decode("ascii").strip()))
    except (ValueError, SigningError) as error:
        raise ConfigError(f"{path} holds no Ed25519 public key in hexadecimal") from error


def read_signer(path: Path) -> CryptoSigner:
    """The key in the file at `path`. Raises: ConfigError: there is none, or others can read it."""
    raw = read_bounded(path, _KEY_BYTES, called="the signing key", secret=True)
    if len(raw) != _KEY_BYTES:
        raise ConfigError(f"{path} is not a signing key of {_KEY_BYTES} bytes: put back a copy")
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(raw))


def read_signers(folder: Path) -> dict[str, CryptoSigner]:
    """Every key in a folder's ``*.key``, by its id; none where there is no folder. Raises: ConfigError."""
    signers = [read_signer(path) for path in sorted(folder.glob("*.key"))]
    return {signer.public_key.keyid: signer for signer in signers}
