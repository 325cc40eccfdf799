"""What a device has and gives to whoever asks: the seam between swarm and disk, and a publisher's side of it."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol

from fedmesh.errors import RegistryError
from fedmesh.registry.limits import Limits
from fedmesh.registry.manifest import Blob, Manifest
from fedmesh.registry.source import check_name

__all__ = ["CHUNKS", "Holdings", "Published", "blobs_of", "chunk_digest"]

CHUNKS = "chunks/"


class Holdings(Protocol):
    """Public files by name, and files in chunks by their SHA-256. Nothing is in it that was not verified."""

    @property
    def pointer(self) -> bytes:
        """What is announced; empty: nothing."""
        ...

    def read(self, name: str) -> bytes | None:
        """A file that anybody may have; None: it is not here."""
        ...

    def blob(self, sha256: bytes) -> Blob | None:
        """What a manifest here says of a file; None: no manifest does."""
        ...

    def mask(self, blob: Blob) -> int:
        """Which of its chunks are here: bit i is chunk i."""
        ...

    def put(self, digest: bytes, data: bytes) -> None:
        """Keeps a chunk. Raises: RegistryError: ``hash``; ConfigError: no room."""
        ...


class Published:
    """The holdings of a publisher: all that its repository serves, and nothing that still waits for signatures.

    Args:
        read: `Repository.read`. pointer: `Repository.pointer`. manifests: gives those of the versions that are signed.
    """

    def __init__(
        self,
        read: Callable[[str, int], bytes],
        pointer: Callable[[], bytes],
        manifests: Callable[[], Iterable[Manifest]],
    ) -> None:
        self._read, self._pointer, self._manifests = read, pointer, manifests
        self.pointer = b""
        self._blobs: dict[bytes, Blob] = {}
        self._digests: set[bytes] = set()
        self.refresh()

    def refresh(self) -> None:
        """To be called when something was published, then `Swarm.changed`. Raises: what the repository raises."""
        self._blobs = {blob.sha256: blob for manifest in self._manifests() for blob in blobs_of(manifest)}
        self._digests = {digest for blob in self._blobs.values() for digest in blob.chunks}
        self.pointer = self._pointer()

    def read(self, name: str) -> bytes | None:
        """A public file of the repository."""
        if name.startswith(CHUNKS) and chunk_digest(name) not in self._digests:
            return None
        limits = Limits()
        try:
            return self._read(check_name(name), max(limits.golden_bytes, limits.metadata_bytes))
        except RegistryError:
            return None

    def blob(self, sha256: bytes) -> Blob | None:
        """Of the versions that can be fetched."""
        return self._blobs.get(sha256)

    def mask(self, blob: Blob) -> int:
        """All of them, of what it has."""
        return (1 << len(blob.chunks)) - 1 if blob.sha256 in self._blobs else 0

    def put(self, digest: bytes, data: bytes) -> None:
        """Nothing: a publisher fetches nothing."""


def blobs_of(manifest: Manifest) -> list[Blob]:
    """All files in chunks that a manifest names."""
    return [blob for variant in manifest.variants for blob in (variant.blob, *(item.blob for item in variant.deltas))]


def chunk_digest(name: str) -> bytes:
    """The SHA-256 in the name of a chunk; empty: it is no chunk's."""
    try:
        check_name(name)
    except RegistryError:
        return b""
    return bytes.fromhex(name.removeprefix(CHUNKS)) if name.startswith(CHUNKS) else b""


def is_whole(name: str, data: bytes) -> bool:
    """Whether `data` has the SHA-256 that is in the name of a target or chunk; metadata has none in its name."""
    folder, _, rest = name.partition("/")
    return folder == "metadata" or hashlib.sha256(data).hexdigest() == rest[:64]
