"""The device's side of TUF: metadata refreshed from a source by python-tuf, and what it says.

python-tuf decides (specification 1.0, client workflow 5.3 to 5.6); this adapter gives it three things that it lacks
here. The *time* is that of the caller, whose floor never goes back, not the machine's. What it keeps is *one file*,
synced and renamed: a crash leaves the old state or the new one, and a damaged one is noticed, not forgotten. And every
*download* is bounded before it is made. Its files are in a folder that lives for one refresh. The root that all begins
with is the operator's; nothing is trusted because it came first.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from fedmesh.errors import ConfigError, DecodeError, PeerError, RegistryError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.registry.limits import MANIFEST_BYTES, ROLLOUT_BYTES, Limits
from fedmesh.registry.manifest import Manifest, manifest_target
from fedmesh.registry.proof import Proof
from fedmesh.registry.rollout import ROLLOUT_TARGET, Rollout
from fedmesh.registry.source import Source, check_name
from fedmesh.wire import dumps, loads

__all__ = ["Allowed", "Trust"]

_MOST_BYTES = 128 << 20
_FORMAT = "fedmesh-metadata/1"
_CODES = (
    (UnsignedMetadataError, "signature"),
    (BadVersionNumberError, "rollback"),
    (ExpiredMetadataError, "expired"),
    (LengthOrHashMismatchError, "hash"),
    (DownloadLengthMismatchError, "oversize"),
)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What verified metadata says: which versions may run, what is rolled out, and the proof of it for a slot."""

    targets: dict[str, TargetFile]
    rollout: Rollout | None
    proof: Proof

    @property
    def versions(self) -> list[int]:
        """The numbers of the versions that may run, ascending."""
        names = (name.removeprefix("manifest-").removesuffix(".cbor") for name in self.targets)
        return sorted(int(name) for name in names if name.isdecimal())

    def manifest(self, version: int, source: Source) -> bytes:
        """The manifest of a version, as it was signed. Raises: RegistryError: ``missing``, ``hash``, ``downgrade``."""
        name = manifest_target(version)
        if name not in self.targets:
            raise RegistryError(f"version {version} is not one that may run", code="missing")
        data = _target(self.targets[name], source, MANIFEST_BYTES)
        found = Manifest.decode(data).version
        if found != version:
            raise RegistryError(f"the manifest of version {version} is one of version {found}", code="downgrade")
        return data


class Trust:
    """What a device believes, kept in the file at `path`; `root` is where all begins.

    Raises:
        ConfigError: the file is damaged.
    """

    def __init__(self, path: Path, root: bytes, *, limits: Limits | None = None) -> None:
        self._path, self._root, self._limits = path, root, limits or Limits()
        self._files = self._read()
        self._timestamp = b"", 0

    @property
    def timestamp(self) -> int:
        """The number of the newest timestamp that was verified; 0: none was."""
        data = self._files.get("timestamp.json", b"")
        if data != self._timestamp[0]:  # it is asked for at every turn, and takes a millisecond to read
            self._timestamp = data, Metadata[Timestamp].from_bytes(data).signed.version
        return self._timestamp[1]

    @property
    def public(self) -> dict[str, bytes]:
        """What was verified, under the names that a registry gives it, for who passes it on."""
        return {_public_name(name, data): data for name, data in self._files.items()}

    def refresh(self, source: Source, now: float) -> Allowed | None:
        """What may run now; None: nothing was published yet.

        Args:
            now: seconds since 1970, against which everything expires.

        Raises:
            RegistryError: what came is refused, for one of `REGISTRY_CODES`.
            PeerError: the source did not answer.
            ConfigError: it cannot be kept, or the root that the operator gave is none.
        """
        with tempfile.TemporaryDirectory(prefix="fedmesh-") as name:
            folder = Path(name)
            self._lay_out(folder)
            try:
                updater = self._updater(folder, source, now)
                with _refusals():
                    updater.refresh()
                    vouched = updater.get_targetinfo(ROLLOUT_TARGET)
                    targets = Metadata[Targets].from_bytes((folder / "targets.json").read_bytes()).signed.targets
            except RegistryError:
                if _nothing_published(folder):
                    return None
                raise
            finally:
                self._keep(folder)  # what was verified before something else was refused counts, too
            rollout = None if vouched is None else Rollout.decode(_target(vouched, source, ROLLOUT_BYTES))
            return Allowed(targets, rollout, self._proof())

    def _updater(self, folder: Path, source: Source, now: float) -> Updater:
        config = UpdaterConfig(
            max_root_rotations=self._limits.rotations,
            max_delegations=4,
            root_max_length=min(512_000, self._limits.metadata_bytes),
            timestamp_max_length=16_384,
            snapshot_max_length=self._limits.metadata_bytes,
            targets_max_length=self._limits.metadata_bytes,
        )
        try:
            updater = Updater(str(folder), "metadata/", fetcher=_Fetcher(source), config=config, bootstrap=self._root)
        except RepositoryError as error:
            raise ConfigError(f"the trusted root is none: {error}; run fedmesh model trust ROOT.json") from error
        # There is no public way to say what time it is; a test moves the clock to see that this one works.
        updater._trusted_set.reference_time = datetime.fromtimestamp(int(now), UTC)  # noqa: SLF001
        return updater

    def _lay_out(self, folder: Path) -> None:
        (folder / "root_history").mkdir()
        for name, data in self._files.items():
            (folder / name).write_bytes(data)

    def _keep(self, folder: Path) -> None:
        found = {path.name: path.read_bytes() for path in folder.glob("*.json") if path.name != "root.json"}
        roots = (folder / "root_history").glob("*.root.json")
        found |= {f"root_history/{path.name}": path.read_bytes() for path in roots}
        if found and found != self._files:
            write_atomically(self._path, dumps({"format": _FORMAT, "files": found}))
            self._files = found

    def _read(self) -> dict[str, bytes]:
        if not self._path.exists():
            return {}
        advice = "put back a copy; without it the device believes older versions again"
        try:
            content = loads(read_bounded(self._path, _MOST_BYTES), max_bytes=_MOST_BYTES, max_depth=2)
        except DecodeError as error:
            raise ConfigError(f"{self._path} is damaged ({error}): {advice}") from error
        match content:
            case {"format": str(format_), "files": dict(files)} if format_ == _FORMAT and all(
                map(_is_file, files.items())
            ):
                return files
            case _:
                raise ConfigError(f"{self._path} is not what belongs there: {advice}")

    def _proof(self) -> Proof:
        roots = {name: data for name, data in self._files.items() if name.startswith("root_history/")}
        chain = [data for _, data in sorted(roots.items(), key=lambda item: int(item[0][13:].split(".")[0]))]
        return Proof(tuple(chain), self._files["targets.json"])


class _Fetcher(FetcherInterface):
    """Downloads of metadata through a source; a root that is not to be had is the end of the chain of roots."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def download_bytes(self, url: str, max_length: int) -> bytes:
        name = check_name(url)
        try:
            data = self._source.fetch(name, max_bytes=max_length)
        except RegistryError as error:
            if error.code == "oversize":
                raise DownloadLengthMismatchError(str(error)) from error
            raise self._not_had(name, error) from error
        except PeerError as error:
            raise self._not_had(name, error) from error
        if len(data) > max_length:
            raise DownloadLengthMismatchError(f"{len(data)} bytes came for {name}, {max_length} are possible")
        return data

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, MANIFEST_BYTES)

    @staticmethod
    def _not_had(name: str, error: PeerError) -> DownloadError:
        return DownloadHTTPError(str(error), 404) if name.endswith(".root.json") else DownloadError(str(error))


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Errors of python-tuf become ours; what a source raised leaves as it came."""
    try:
        yield
    except (RepositoryError, DownloadError) as error:
        longer = isinstance(error, DownloadLengthMismatchError)
        if isinstance(error, DownloadError) and isinstance(error.__cause__, PeerError) and not longer:
            raise error.__cause__ from None
        code = next((code for kind, code in _CODES if isinstance(error, kind)), "malformed")
        raise RegistryError(f"the registry's metadata is refused: {error}", code=code) from error
    except OSError as error:
        raise ConfigError(f"metadata cannot be kept while it is verified: {error.strerror or error}") from error


def _target(vouched: TargetFile, source: Source, max_bytes: int) -> bytes:
    sha256 = vouched.hashes.get("sha256", "")
    if vouched.length > max_bytes:
        raise RegistryError(f"{vouched.path} is to have {vouched.length} bytes: {max_bytes} are read", code="oversize")
    data = source.fetch(check_name(f"targets/{sha256}.{vouched.path}"), max_bytes=vouched.length)
    try:
        vouched.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        code = "oversize" if len(data) > vouched.length else "hash"
        raise RegistryError(f"what came for {vouched.path} is not what was signed: {error}", code=code) from error
    return data


def _nothing_published(folder: Path) -> bool:
    """Whether a verified snapshot knows of no targets."""
    path = folder / "snapshot.json"
    return path.exists() and "targets.json" not in Metadata[Snapshot].from_bytes(path.read_bytes()).signed.meta


def _public_name(name: str, data: bytes) -> str:
    if name == "timestamp.json" or name.startswith("root_history/"):
        return f"metadata/{name.rpartition('/')[2]}"
    return f"metadata/{Metadata[Targets].from_bytes(data).signed.version}.{name}"


def _is_file(item: tuple[object, object]) -> bool:
    """Whether this is a name and content that go into a folder of metadata, and lead nowhere else."""
    name, data = item
    plain = isinstance(name, str) and name.removeprefix("root_history/").replace(".json", "").replace(".", "").isalnum()
    return plain and isinstance(data, bytes)
