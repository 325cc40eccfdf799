"""The files of a repository: what is public, by name, and which metadata is in force.

In force is what ``timestamp.json`` leads to, and it is written last: whatever a crash leaves beside it was never
published, and is written over by the next attempt.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.registry.chunks import ChunkStore
from fedmesh.registry.roles import ROLLOUT, meta_file, to_bytes
from fedmesh.registry.source import FolderSource

__all__ = ["Shelf"]

_MOST_BYTES = 16 << 20
_OLD_KEPT = 16
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


class Shelf:
    """The folder ``public`` of a repository, and the lock around changes of it."""

    def __init__(self, folder: Path) -> None:
        self.public = folder / "public"
        self._lock_path = folder / "lock"
        self.source = FolderSource(self.public)
        self.chunks = ChunkStore(self.public / "chunks")
        for name in ("metadata", "targets"):
            (self.public / name).mkdir(exist_ok=True)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Alone, among all processes."""
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot change the repository: {self._lock_path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @property
    def roots(self) -> list[int]:
        """The versions of root that there are, ascending; the last is in force."""
        names = [path.name.split(".")[0] for path in (self.public / "metadata").glob("*.root.json")]
        return sorted(int(name) for name in names if name.isdecimal())

    def root(self) -> Metadata[Root]:
        """The root in force. Raises: ConfigError: there is none."""
        if not self.roots:
            raise ConfigError(f"there is no repository in {self.public.parent}: run fedmesh model init")
        return self._read(f"{self.roots[-1]}.root", Root)

    def timestamp(self) -> Metadata[Timestamp]:
        """The timestamp in force."""
        return self._read("timestamp", Timestamp)

    def snapshot(self) -> Metadata[Snapshot]:
        """The snapshot in force."""
        return self._read(f"{self.timestamp().signed.snapshot_meta.version}.snapshot", Snapshot)

    def targets(self, role: str = Targets.type) -> Metadata[Targets]:
        """Targets, or the rollout, in force."""
        return self._read(f"{self.snapshot().signed.meta[f'{role}.json'].version}.{role}", Targets)

    def has(self, role: str) -> bool:
        """Whether a targets role is in force: there is none before the first version."""
        return f"{role}.json" in self.snapshot().signed.meta

    def metadata_bytes(self, name: str) -> bytes:
        """A file of metadata as it is served."""
        return read_bounded(self.public / "metadata" / f"{name}.json", _MOST_BYTES)

    def put_metadata(self, name: str, metadata: Metadata[Any]) -> bytes:
        """Writes a file of metadata; returns what is in it."""
        data = to_bytes(metadata)
        write_atomically(self.public / "metadata" / f"{name}.json", data)
        return data

    def put_target(self, name: str, data: bytes, sha256: str) -> None:
        """Writes a file that metadata or a manifest vouches for."""
        write_atomically(self.public / "targets" / f"{sha256}.{name}", data)

    def put_role(self, role: str, metadata: Metadata[Targets], snapshot: Metadata[Snapshot]) -> None:
        """Writes targets or the rollout, and lets a snapshot that is yet to be signed point to it."""
        version = metadata.signed.version
        snapshot.signed.meta[f"{role}.json"] = meta_file(version, self.put_metadata(f"{version}.{role}", metadata))

    def sweep(self, targets: set[str], chunks: set[bytes]) -> None:
        """Removes files that are not in force and not among these: old metadata but for a few, targets, chunks."""
        self.chunks.keep_only(chunks)
        gone = [path for path in (self.public / "targets").iterdir() if path.name not in targets]
        for role in (Snapshot.type, Targets.type, ROLLOUT):
            found = sorted((self.public / "metadata").glob(f"*.{role}.json"), key=_version)
            gone += found[:-_OLD_KEPT]
        for path in gone:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _read(self, name: str, kind: type[S]) -> Metadata[S]:
        try:
            read: Metadata[S] = Metadata.from_bytes(self.metadata_bytes(name))
        except RepositoryError as error:
            raise ConfigError(f"{name}.json of the repository is damaged ({error}): put back a copy") from error
        if not isinstance(read.signed, kind):
            raise RegistryError(f"{name}.json is not what its name says", code="malformed")
        return read


def _version(path: Path) -> int:
    number = path.name.split(".")[0]
    return int(number) if number.isdecimal() else 0
