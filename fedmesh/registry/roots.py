"""The root that a device trusts: from its operator, with the enrolment or by hand, and never because it came first."""

import hashlib
from pathlib import Path

from fedmesh.errors import ConfigError
from fedmesh.files import read_bounded, write_atomically

__all__ = ["read_root", "trust_root", "trusted_root_path"]

_MOST_BYTES = 512_000


def trusted_root_path(folder: Path) -> Path:
    """Where a device's folder keeps it."""
    return folder / "root.json"


def read_root(path: Path) -> bytes:
    """A root that an operator names. Raises: ConfigError: it cannot be read."""
    return read_bounded(path, _MOST_BYTES, called="the trusted root", advice="run fedmesh model trust ROOT.json")


def trust_root(folder: Path, root: bytes, *, sha256: str = "") -> str:
    """Makes `root` the one that the device in `folder` trusts; returns its SHA-256, hexadecimal.

    Args:
        sha256: what it must be, as the operator was told; empty: not compared.

    Raises:
        ConfigError: it is no root, another one is trusted already, or it is not the one that was meant.
    """
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root

    found = hashlib.sha256(root).hexdigest()
    if sha256 and sha256.lower() != found:
        raise ConfigError(f"this root has the SHA-256 {found}, not {sha256}: it is not the one that was meant")
    try:
        read = Metadata[Root].from_bytes(root)
        if read.signed.type != Root.type:
            raise ConfigError(f"this is the {read.signed.type} of a registry, not its root")
        read.signed.verify_delegate(Root.type, read.signed_bytes, read.signatures)
    except RepositoryError as error:
        raise ConfigError(f"this is no root of a registry: {error}") from error
    path = trusted_root_path(folder)
    if path.exists():
        if read_root(path) != root:
            raise ConfigError(f"another root is trusted in {folder} already: remove {path} if that is what you want")
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}") from error
    write_atomically(path, root)
    return found
