"""A version that waits for signatures, in the folder ``staged``: one file, so that it is there whole or not at all."""

from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.registry.fields import Fields
from fedmesh.registry.manifest import Manifest
from fedmesh.registry.roles import to_bytes
from fedmesh.registry.rollout import Rollout
from fedmesh.wire import dumps

__all__ = ["Staged", "Staging"]

_FORMAT = "fedmesh-staged/1"
_MOST_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Staged:
    """What waits: the version, to whom it is rolled out then, and the targets metadata that is signed by some."""

    manifest: Manifest
    rollout: Rollout
    targets: Metadata[Targets]


class Staging:
    """The folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "version.cbor"

    def read(self) -> Staged | None:
        """What waits; None: nothing. Raises: ConfigError: the file is damaged."""
        if not self._path.exists():
            return None
        try:
            fields = Fields.read(read_bounded(self._path, _MOST_BYTES), _FORMAT, max_bytes=_MOST_BYTES)
            manifest, rollout = Manifest.decode(fields.take("manifest", bytes)), fields.take("rollout", bytes)
            targets: Metadata[Targets] = Metadata.from_bytes(fields.take("targets", bytes))
            return Staged(manifest, Rollout.decode(rollout), targets)
        except (RegistryError, RepositoryError) as error:
            raise ConfigError(f"{self._path} is damaged ({error}): remove it, and publish the version anew") from error

    def write(self, staged: Staged) -> None:
        """Keeps what waits, in place of what waited before. Raises: ConfigError: it cannot be written."""
        self._path.parent.mkdir(exist_ok=True)
        content = {
            "format": _FORMAT,
            "manifest": staged.manifest.encode(),
            "rollout": staged.rollout.encode(),
            "targets": to_bytes(staged.targets),
        }
        write_atomically(self._path, dumps(content))

    def clear(self) -> None:
        """Nothing waits any more."""
        self._path.unlink(missing_ok=True)
