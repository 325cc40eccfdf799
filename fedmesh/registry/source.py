"""Where the files of a registry come from: one method, over any transport; and the names that files can have.

| name | what it is |
|---|---|
| ``metadata/timestamp.json``, ``metadata/N.ROLE.json`` | TUF metadata |
| ``targets/SHA256.NAME`` | a small file that the metadata vouches for: a manifest, a golden set, the rollout |
| ``chunks/SHA256`` | a part of a model or of a delta, 256 KiB at most |

A source is trusted with nothing: whoever asks it checks what came.
"""

import re
from pathlib import Path
from typing import Protocol

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.files import read_bounded

__all__ = ["FolderSource", "Source", "check_name", "chunk_name"]

_NAME = re.compile(
    r"metadata/(?:timestamp|[1-9][0-9]{0,9}\.(?:root|snapshot|targets|rollout))\.json"
    r"|targets/[0-9a-f]{64}\.(?:manifest-[1-9][0-9]{0,9}|golden|rollout)\.cbor"
    r"|chunks/[0-9a-f]{64}",
    re.ASCII,
)


class Source(Protocol):
    """Files by name, over a network or not."""

    def fetch(self, name: str, *, max_bytes: int) -> bytes:
        """What the file holds, unverified; blocks. Raises: PeerError: it is not to be had, or is longer."""
        ...


def check_name(name: str) -> str:
    """`name`, if it is one that a registry serves: nothing else leads anywhere. Raises: RegistryError: ``name``."""
    if not _NAME.fullmatch(name):
        raise RegistryError(f"{name[:100]!r} is not the name of a file of a registry", code="name")
    return name


def chunk_name(digest: bytes) -> str:
    """The name of the chunk with this SHA-256."""
    return f"chunks/{digest.hex()}"


class FolderSource:
    """A source that is a folder on this machine: a repository's ``public``, or a copy of it on a stick."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, name: str, *, max_bytes: int) -> bytes:
        """What the file holds. Raises: RegistryError: ``name``; ``missing``; ``oversize``."""
        path = self._folder / check_name(name)
        if not path.is_file():
            raise RegistryError(f"there is no {name} in {self._folder}", code="missing")
        try:
            return read_bounded(path, max_bytes)
        except ConfigError as error:
            raise RegistryError(str(error), code="oversize") from error
