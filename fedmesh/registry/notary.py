"""Signs what a repository publishes with the keys that are here, and puts it in force: the timestamp last."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from fedmesh.errors import ConfigError
from fedmesh.registry.roles import (
    ROLLOUT,
    Lives,
    meta_file,
    new_targets,
    renewed,
    sign,
    signatures_missing,
    target_file,
)
from fedmesh.registry.rollout import ROLLOUT_TARGET, Rollout
from fedmesh.registry.shelf import Shelf

__all__ = ["Notary"]


class Notary:
    """The signatures of one repository; every method is called with the shelf locked.

    Attributes:
        signers: the keys that are here, by their ids.
    """

    def __init__(
        self, shelf: Shelf, signers: Mapping[str, CryptoSigner], lives: Lives, clock: Callable[[], float], keys: Path
    ) -> None:
        self.signers = signers
        self._shelf, self._lives, self._clock, self._keys = shelf, lives, clock, keys

    def missing(self, targets: Metadata[Targets]) -> int:
        """How many signers of targets have not signed these yet, of those that have to."""
        return signatures_missing(self._shelf.root().signed, Targets.type, targets)

    def sign_targets(self, targets: Metadata[Targets]) -> None:
        """Adds the signatures of the signers of targets whose keys are here."""
        sign(targets, self.signers, self._shelf.root().signed.roles[Targets.type].keyids)

    def next_targets(self, vouched: Mapping[str, TargetFile], *, above: int) -> Metadata[Targets]:
        """Targets that allow exactly these, unsigned, of a version higher than `above`."""
        expires = self._lives.until(Targets.type, self._clock())
        made = new_targets(vouched, self._online_key(), expires)
        if self._shelf.has(Targets.type):
            above = max(above, self._shelf.targets().signed.version)
        made.signed.version = above + 1
        return made

    def commit(self, *, targets: Metadata[Targets] | None = None, rollout: Rollout | None = None) -> None:
        """Puts these in force, under a new snapshot and timestamp. Raises: ConfigError: a key is not here."""
        now, root = self._clock(), self._shelf.root().signed
        snapshot = renewed(self._shelf.snapshot(), self._lives.until(Snapshot.type, now))
        timestamp = renewed(self._shelf.timestamp(), self._lives.until(Timestamp.type, now))
        if targets is not None:
            self._shelf.put_role(Targets.type, targets, snapshot)
        if rollout is not None:
            delegator = targets or self._shelf.targets()
            self._shelf.put_role(ROLLOUT, self._rollout(rollout, delegator.signed, now), snapshot)
        self._sign(snapshot, Snapshot.type, root)
        version = snapshot.signed.version
        timestamp.signed.snapshot_meta = meta_file(version, self._shelf.put_metadata(f"{version}.snapshot", snapshot))
        self._sign(timestamp, Timestamp.type, root)
        self._shelf.put_metadata("timestamp", timestamp)

    def expiries(self) -> dict[str, float]:
        """Until when each role that is in force is believed, in seconds since 1970."""
        roles = [role for role in (Targets.type, ROLLOUT) if self._shelf.has(role)]
        found: dict[str, Metadata[Any]] = {
            Root.type: self._shelf.root(),
            Snapshot.type: self._shelf.snapshot(),
            Timestamp.type: self._shelf.timestamp(),
            **{role: self._shelf.targets(role) for role in roles},
        }
        return {role: metadata.signed.expires.timestamp() for role, metadata in found.items()}

    def due(self) -> set[str]:
        """The roles, but for root, that have half of their life behind them."""
        now, found = self._clock(), self.expiries()
        del found[Root.type]
        return {role for role, expires in found.items() if expires - now < self._lives.of(role) / 2}

    def _rollout(self, rollout: Rollout, delegator: Targets, now: float) -> Metadata[Targets]:
        data, expires = rollout.encode(), self._lives.until(ROLLOUT, now)
        made: Metadata[Targets] = Metadata(Targets(expires=expires))
        if self._shelf.has(ROLLOUT):
            made = renewed(self._shelf.targets(ROLLOUT), expires)
        vouched = target_file(ROLLOUT_TARGET, data)
        made.signed.targets = {ROLLOUT_TARGET: vouched}
        self._shelf.put_target(ROLLOUT_TARGET, data, vouched.hashes["sha256"])
        self._sign(made, ROLLOUT, delegator)
        return made

    def _sign(
        self, metadata: Metadata[Snapshot] | Metadata[Timestamp] | Metadata[Targets], role: str, by: Root | Targets
    ) -> None:
        sign(metadata, self.signers, by.get_delegated_role(role).keyids)
        if signatures_missing(by, role, metadata):
            raise ConfigError(f"the key that signs {role} is not in {self._keys}: run this where the coordinator is")

    def _online_key(self) -> Key:
        root = self._shelf.root().signed
        return root.keys[root.roles[Timestamp.type].keyids[0]]
