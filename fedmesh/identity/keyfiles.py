"""Private keys in files: PEM of mode 0600, refused when others can read them, and never in a message."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedmesh.errors import ConfigError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.identity.certificates import is_p256, pem

__all__ = [
    "key_pem",
    "read_certificates",
    "read_key",
    "read_public",
    "read_secret",
    "read_signing_key",
    "write_key_and_chain",
]

_MAX_BYTES = 64 << 10
_SIGNING_KEY_BYTES = 32


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """PEM (PKCS #8) of `key`, under the passphrase if there is one."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def write_key_and_chain(path: Path, key: ec.EllipticCurvePrivateKey, *chain: x509.Certificate) -> None:
    """Puts `key` and its certificates into one file, so that they change together. Raises: ConfigError: it cannot."""
    write_atomically(path, key_pem(key) + pem(*chain), mode=0o600)


def read_secret(path: Path) -> bytes:
    """What a file holds that its owner alone may read.

    Raises:
        ConfigError: it cannot be read, is larger than 64 KiB, or others can read it.
    """
    return read_bounded(path, _MAX_BYTES, secret=True)


def read_public(path: Path, max_bytes: int = _MAX_BYTES) -> bytes:
    """What a file holds. Raises: ConfigError: it cannot be read, or is larger than `max_bytes`."""
    return read_bounded(path, max_bytes)


def read_key(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in the PEM at `path`. Raises: ConfigError: there is none, or the passphrase is wrong."""
    try:
        key = load_pem_private_key(read_secret(path), passphrase)
    except TypeError:
        wrong = "is under a passphrase: name it" if passphrase is None else "is not under a passphrase: name none"
        raise ConfigError(f"the key {path} {wrong}") from None
    except ValueError:
        raise ConfigError(f"{path} holds no key, or the passphrase is another") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p256(key.public_key()):
        raise ConfigError(f"the key {path} is not on P-256")
    return key


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in the 32 bytes at `path`. Raises: ConfigError: there is none."""
    private = read_secret(path)
    if len(private) != _SIGNING_KEY_BYTES:
        raise ConfigError(f"{path} is not an identity of {_SIGNING_KEY_BYTES} bytes: enrol the device anew")
    return Ed25519PrivateKey.from_private_bytes(private)


def read_certificates(path: Path, *, secret: bool = False) -> list[x509.Certificate]:
    """The certificates in the PEM at `path`, one at least.

    Raises:
        ConfigError: there is none, or, with a `secret` beside them, others can read it.
    """
    data = read_secret(path) if secret else read_public(path, 1 << 20)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate: put back a copy") from error
