"""Which files of verified metadata belong together, and the pointer to them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from fedmesh.errors import RegistryError
from fedmesh.registry.pointer import Pointer
from fedmesh.registry.roles import ROLLOUT
from fedmesh.registry.rollout import ROLLOUT_TARGET, Rollout
from fedmesh.registry.source import check_name

__all__ = ["TIMESTAMP", "complete_names", "names_behind", "pointer_to", "target_names"]

TIMESTAMP = "metadata/timestamp.json"


def complete_names(files: Mapping[str, bytes]) -> set[str]:
    """The files that the timestamp among `files` leads to, and all roots; empty: one of them is missing."""
    try:
        timestamp = Metadata[Timestamp].from_bytes(files[TIMESTAMP]).signed
        name = f"metadata/{timestamp.snapshot_meta.version}.snapshot.json"
        snapshot = Metadata[Snapshot].from_bytes(files[name]).signed
    except (KeyError, RepositoryError):
        return set()
    roles = {f"metadata/{meta.version}.{role}" for role, meta in snapshot.meta.items()}
    roots = {file for file in files if file.endswith(".root.json")}
    names = {TIMESTAMP, name, *roles, *roots}
    return names if names <= files.keys() else set()


def names_behind(name: str, data: bytes) -> list[str]:
    """The metadata that a timestamp or snapshot leads to, at most two files; nothing of it is verified."""
    try:
        signed = Metadata[Any].from_bytes(data).signed
    except RepositoryError:
        return []
    if name == TIMESTAMP and isinstance(signed, Timestamp):
        return _names({"snapshot.json": signed.snapshot_meta}, ["snapshot"])
    if name.endswith(".snapshot.json") and isinstance(signed, Snapshot):
        return _names(signed.meta, [ROLLOUT, Targets.type])
    return []


def pointer_to(files: Mapping[str, bytes], read: Callable[[str], bytes | None]) -> bytes:
    """What is announced of this metadata; empty: there is none, or the rollout is not here yet.

    Args:
        read: gives the rollout, by the name that the metadata has for it.
    """
    if not complete_names(files):
        return b""
    timestamp = Metadata[Timestamp].from_bytes(files[TIMESTAMP]).signed
    data = files[f"metadata/{timestamp.snapshot_meta.version}.snapshot.json"]
    snapshot = Metadata[Snapshot].from_bytes(data).signed
    version = 0
    if (meta := snapshot.meta.get(f"{ROLLOUT}.json")) is not None:
        targets = Metadata[Targets].from_bytes(files[f"metadata/{meta.version}.{ROLLOUT}.json"]).signed.targets
        vouched = targets.get(ROLLOUT_TARGET)
        found = None if vouched is None else read(f"targets/{vouched.hashes.get('sha256', '')}.{ROLLOUT_TARGET}")
        try:
            version = Rollout.decode(found or b"").version
        except RegistryError:
            return b""
    return Pointer.of(timestamp.version, data, version).encode()


def target_names(files: Mapping[str, bytes]) -> set[str]:
    """The targets that this metadata vouches for, as a registry names them."""
    names = set()
    for name, data in files.items():
        if name.endswith((".targets.json", f".{ROLLOUT}.json")):
            targets = Metadata[Targets].from_bytes(data).signed.targets
            names |= {f"targets/{file.hashes.get('sha256', '')}.{path}" for path, file in targets.items()}
    return names


def _names(meta: Mapping[str, MetaFile], roles: Iterable[str]) -> list[str]:
    names = [f"metadata/{meta[f'{role}.json'].version}.{role}.json" for role in roles if f"{role}.json" in meta]
    try:
        return [check_name(name) for name in names]
    except RegistryError:
        return []
