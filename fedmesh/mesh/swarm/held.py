"""What a device holds for its neighbours: metadata that it verified, targets and chunks on its disk, and its slots.

| in the folder | what it is |
|---|---|
| ``targets/`` | manifests, golden sets and the rollout, by their names, which have their SHA-256 |
| ``chunks/`` | chunks that came, by their SHA-256 |

Nothing is kept twice: the metadata is where the installer keeps it, what was installed is given away from the slots.
What is damaged has another SHA-256 than its name, is given to nobody, and fetched again.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.mesh.swarm.collecting import kept
from fedmesh.mesh.swarm.holdings import CHUNKS, blobs_of, chunk_digest, is_whole
from fedmesh.mesh.swarm.public import complete_names, pointer_to, target_names
from fedmesh.registry.chunks import ChunkStore
from fedmesh.registry.limits import MANIFEST_BYTES, Limits
from fedmesh.registry.manifest import Blob, Manifest, manifest_target
from fedmesh.registry.proof import GOLDEN, MANIFEST

__all__ = ["Held"]

_METADATA = "metadata/"


class Held:
    """The holdings in `folder`.

    Args:
        slots: the models that are in slots, by SHA-256: `fedmesh.registry.Slots.files`.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path, *, slots: Callable[[], Mapping[bytes, Path]] = dict) -> None:
        self._folder, self._slots = folder, slots
        self._store = ChunkStore(folder / "chunks")
        (folder / "targets").mkdir(exist_ok=True)
        self._metadata: Mapping[str, bytes] = {}
        self._blobs: dict[bytes, Blob] = {}
        self._deltas: set[bytes] = set()
        self._in_slots: dict[bytes, Path] = {}
        self._beside: dict[str, Path] = {}
        self._masks: dict[bytes, tuple[Blob, int]] = {}
        self.pointer = b""
        self.refresh()

    def read(self, name: str) -> bytes | None:
        """A file that was verified, from wherever it is; None: it is not here, or was damaged and is gone."""
        if name.startswith(_METADATA):
            return self._metadata.get(name)
        return self._chunk(chunk_digest(name)) if name.startswith(CHUNKS) else self._target(name)

    def blob(self, sha256: bytes) -> Blob | None:
        """What a manifest here says of a file."""
        return self._blobs.get(sha256)

    def blob_with(self, digest: bytes) -> Blob | None:
        """The shortest file that has this chunk; None: no manifest here names it."""
        having = [blob for blob in self._blobs.values() if digest in blob.chunks]
        return min(having, key=lambda blob: blob.length, default=None)

    def is_delta(self, sha256: bytes) -> bool:
        """Whether a file is a delta, without which there is another way."""
        return sha256 in self._deltas

    def mask(self, blob: Blob) -> int:
        """Which of its chunks are here."""
        if blob.sha256 not in self._masks:
            whole = blob.sha256 in self._in_slots
            here = (whole or self._store.has(digest) for digest in blob.chunks)
            self._masks[blob.sha256] = blob, sum(1 << index for index, is_here in enumerate(here) if is_here)
        return self._masks[blob.sha256][1]

    def put(self, digest: bytes, data: bytes) -> None:
        """Keeps a chunk; one that a machine loses with its power is fetched again.

        Raises: RegistryError: ``hash``; ConfigError: no room.
        """
        self._store.put(digest, data, durable=False)
        for sha256, (blob, mask) in self._masks.items():
            here = sum(1 << index for index, one in enumerate(blob.chunks) if one == digest)
            self._masks[sha256] = blob, mask | here

    def learn(self, name: str, data: bytes) -> None:
        """Keeps a target that has the SHA-256 in its name, which verified metadata gave.

        Raises: ConfigError: no room; RegistryError: it is a manifest by name only.
        """
        write_atomically(self._folder / name, data)
        if ".manifest-" in name:
            self._know(Manifest.decode(data))

    def adopt(self, metadata: Mapping[str, bytes]) -> None:
        """Takes over what the installer has verified (`Installer.public`), once it leads to all of itself."""
        if complete_names(metadata) and (metadata != self._metadata or not self.pointer):
            self._metadata = dict(metadata)
            self.pointer = pointer_to(metadata, self.read)

    def refresh(self) -> None:
        """To be called when slots have changed."""
        self._in_slots = dict(self._slots())
        self._masks.clear()
        self._blobs, self._deltas, self._beside = {}, set(), {}
        places = [path.parent / MANIFEST for path in self._in_slots.values()]
        places += (self._folder / "targets").glob("*.manifest-*.cbor")
        known = [(manifest, path) for path in places if (manifest := _manifest(path)) is not None]
        for manifest, path in sorted(known, key=lambda item: item[0].version):
            self._know(manifest)
            if path.name == MANIFEST:
                digest = hashlib.sha256(manifest.encode()).hexdigest()
                self._beside[f"targets/{digest}.{manifest_target(manifest.version)}"] = path
                if manifest.golden is not None:
                    self._beside[f"targets/{manifest.golden[0].hex()}.{GOLDEN}"] = path.parent / GOLDEN

    def sweep(self) -> None:
        """Removes targets that the metadata does not name any more, and what is in a slot."""
        wanted = target_names(self._metadata)
        folder = self._folder / "targets"
        for path in folder.glob("*.manifest-*.cbor"):
            manifest = _manifest(path)
            if manifest is not None and manifest.golden is not None and f"targets/{path.name}" in wanted:
                wanted.add(f"targets/{manifest.golden[0].hex()}.{GOLDEN}")
        for path in folder.iterdir():
            name = f"targets/{path.name}"
            if name not in wanted or name in self._beside:
                path.unlink(missing_ok=True)
        self.refresh()

    def collect(self, pinned: Iterable[bytes], max_bytes: int) -> int:
        """Removes chunks: see `kept`. Returns how many."""
        blobs = list(self._blobs.values())
        staying = kept(blobs, pinned=set(pinned), in_slots=self._in_slots, max_bytes=max_bytes)
        self._masks.clear()
        return self._store.keep_only(staying)

    def _target(self, name: str) -> bytes | None:
        for path in (self._folder / name, self._beside.get(name)):
            if path is not None and path.exists():
                with contextlib.suppress(ConfigError):
                    data = read_bounded(path, Limits().golden_bytes)
                    if is_whole(name, data):
                        return data
        return None

    def _chunk(self, digest: bytes) -> bytes | None:
        if self._store.has(digest):
            with contextlib.suppress(RegistryError):
                return self._store.get(digest)
            with contextlib.suppress(OSError):
                self._store.path(digest).unlink(missing_ok=True)
        for blob in self._blobs.values():
            path = self._in_slots.get(blob.sha256)
            if path is not None and digest in blob.chunks:
                data = _part(path, blob, blob.chunks.index(digest))
                if hashlib.sha256(data).digest() == digest:
                    return data
                self._in_slots.pop(blob.sha256)
        self._masks.clear()  # it was there once: it is not any more
        return None

    def _know(self, manifest: Manifest) -> None:
        for blob in blobs_of(manifest):
            self._blobs.pop(blob.sha256, None)
            self._blobs[blob.sha256] = blob
        self._deltas |= {item.blob.sha256 for variant in manifest.variants for item in variant.deltas}


def _manifest(path: Path) -> Manifest | None:
    """The manifest in a file; None: it is damaged, or gone."""
    try:
        return Manifest.decode(read_bounded(path, MANIFEST_BYTES))
    except (ConfigError, RegistryError):
        return None


def _part(path: Path, blob: Blob, index: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(index * blob.chunk_bytes)
            return file.read(blob.chunk_bytes)
    except OSError:
        return b""
