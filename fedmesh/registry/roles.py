"""TUF metadata as a repository writes it (specification 1.0): roles, lives, signatures. In memory.

| role | says | signed by |
|---|---|---|
| root | whose keys are whose | signers of root, offline |
| targets | which versions may run | a threshold of signers, offline where it matters |
| rollout | which of them is to run, where | the coordinator; delegated by targets |
| snapshot, timestamp | what is newest, and that it is so today | the coordinator |
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from fedmesh.registry.rollout import ROLLOUT_TARGET

__all__ = [
    "ROLLOUT",
    "Lives",
    "meta_file",
    "new_root",
    "new_snapshot",
    "new_targets",
    "new_timestamp",
    "renewed",
    "sign",
    "signatures_missing",
    "target_file",
    "to_bytes",
]

ROLLOUT = "rollout"
DAY_S = 86_400.0
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Lives:
    """How long each role is believed after it was signed, in seconds.

    A device that hears of nothing new for `timestamp_s` knows that it is being kept from it.
    """

    root_s: float = 730 * DAY_S
    targets_s: float = 365 * DAY_S
    rollout_s: float = 90 * DAY_S
    snapshot_s: float = 30 * DAY_S
    timestamp_s: float = 7 * DAY_S

    def until(self, role: str, now: float) -> datetime:
        """When a role that is signed now expires."""
        return datetime.fromtimestamp(int(now), UTC) + timedelta(seconds=int(self.of(role)))

    def of(self, role: str) -> float:
        """The life of a role."""
        lives = {
            "root": self.root_s,
            "targets": self.targets_s,
            ROLLOUT: self.rollout_s,
            "snapshot": self.snapshot_s,
            "timestamp": self.timestamp_s,
        }
        return lives[role]


def new_root(
    root_keys: Sequence[Key],
    targets_keys: Sequence[Key],
    online: Key,
    *,
    thresholds: tuple[int, int],
    expires: datetime,
) -> Metadata[Root]:
    """The first root. `thresholds`: of root and of targets."""
    root = Root(expires=expires, consistent_snapshot=True)
    for role, keys in ((Root.type, root_keys), (Targets.type, targets_keys)):
        for key in keys:
            root.add_key(key, role)
    for role in (Snapshot.type, Timestamp.type):
        root.add_key(online, role)
    root.roles[Root.type].threshold, root.roles[Targets.type].threshold = thresholds
    return Metadata(root)


def new_targets(targets: Mapping[str, TargetFile], online: Key, expires: datetime) -> Metadata[Targets]:
    """Targets that delegates the rollout, and nothing else, to `online`."""
    role = DelegatedRole(ROLLOUT, [online.keyid], 1, terminating=True, paths=[ROLLOUT_TARGET])
    return Metadata(
        Targets(
            expires=expires, targets=dict(targets), delegations=Delegations({online.keyid: online}, {ROLLOUT: role})
        )
    )


def new_snapshot(expires: datetime) -> Metadata[Snapshot]:
    """The first snapshot, of nothing."""
    return Metadata(Snapshot(expires=expires, meta={}))


def new_timestamp(expires: datetime) -> Metadata[Timestamp]:
    """The first timestamp."""
    return Metadata(Timestamp(expires=expires))


def renewed(metadata: Metadata[S], expires: datetime) -> Metadata[S]:
    """The next version of `metadata`, unsigned."""
    made: Metadata[S] = Metadata.from_bytes(to_bytes(metadata))
    made.signed.version += 1
    made.signed.expires = expires
    made.signatures.clear()
    return made


def sign(metadata: Metadata[Any], signers: Mapping[str, CryptoSigner], keyids: Iterable[str]) -> None:
    """Adds a signature for each of `keyids` whose key is here."""
    for keyid in keyids:
        if keyid in signers:
            metadata.sign(signers[keyid], append=True)


def signatures_missing(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> int:
    """How many more valid signatures the role's threshold asks for."""
    return max(0, delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures).missing)


def target_file(name: str, data: bytes) -> TargetFile:
    """How targets vouch for `data`."""
    return TargetFile.from_data(name, data, ["sha256"])


def meta_file(version: int, data: bytes) -> MetaFile:
    """How a snapshot or timestamp vouches for a role's file."""
    return MetaFile.from_data(version, data, ["sha256"])


def to_bytes(metadata: Metadata[Any]) -> bytes:
    """The file's content."""
    return metadata.to_bytes(JSONSerializer(compact=True))
