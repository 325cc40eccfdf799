"""Private keys in files: PEM of mode 0600, refused when others can read them, and never in a message."""

import os
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
from fedmesh.identity.certificates import is_p256

__all__ = [
    "key_pem",
    "read_certificates",
    "read_key",
    "read_public",
    "read_secret",
    "read_signing_key",
]

_MAX_BYTES = 64 << 10
_SIGNING_KEY_BYTES = 32


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """PEM (PKCS #8) of `key`, under the passphrase if there is one."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def read_secret(path: Path) -> bytes:
    """What a file holds that its owner alone may read.

    Raises:
        ConfigError: it cannot be read, is larger than 64 KiB, or others can read it.
    """
    data, readable_by_others = _read(path)
    if readable_by_others:
        raise ConfigError(f"{path} can be read by others: its owner alone may, so run chmod 600 on it")
    return data


def read_public(path: Path, max_bytes: int = _MAX_BYTES) -> bytes:
    """What a file holds. Raises: ConfigError: it cannot be read, or is larger than `max_bytes`."""
    return _read(path, max_bytes)[0]


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


def _read(path: Path, max_bytes: int = _MAX_BYTES) -> tuple[bytes, bool]:
    try:
        with path.open("rb") as file:
            readable_by_others = bool(os.fstat(file.fileno()).st_mode & 0o077)
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise ConfigError(f"{path} is larger than {max_bytes} bytes: it is not what belongs there")
    return data, readable_by_others
