"""A new repository, and a new root for one there is: whose keys sign what.

The keys of root sign nothing but this. They belong on a medium of their own, and so do those of targets where a single
machine must not be able to let a model run.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from fedmesh.errors import ConfigError
from fedmesh.registry.repository import Repository
from fedmesh.registry.roles import (
    Lives,
    meta_file,
    new_root,
    new_snapshot,
    new_timestamp,
    renewed,
    sign,
    signatures_missing,
)
from fedmesh.registry.shelf import Shelf
from fedmesh.registry.signing import create_key, read_signer

__all__ = ["ROOT_KEY", "create", "replace_signers"]

ROOT_KEY = "root.key"
_ONLINE_KEY = "online.key"


def create(
    folder: Path,
    *,
    signers: Sequence[SSlibKey] = (),
    threshold: int = 1,
    clock: Callable[[], float] = time.time,
    lives: Lives | None = None,
) -> Repository:
    """Makes a repository in a new folder.

    Args:
        signers: public keys of those who sign targets elsewhere; none: a key is made here, and is online.
        threshold: how many of them have to.

    Raises:
        ConfigError: there is something in the folder, it cannot be written, or the threshold is beyond the signers.
    """
    if not 1 <= threshold <= max(1, len({key.keyid for key in signers})):
        raise ConfigError(f"{threshold} of {len(signers)} signers cannot be had: name a lower threshold, or more keys")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"there is something in {folder} already: a repository is made in a new folder")
    lives, now, keys = lives or Lives(), clock(), folder / "keys"
    try:
        (folder / "public").mkdir(parents=True)
        keys.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}") from error
    shelf = Shelf(folder)
    root_signer, online = create_key(keys / ROOT_KEY), create_key(keys / _ONLINE_KEY)
    targets_keys: Sequence[Key] = list(signers) or [create_key(keys / "targets.key").public_key]
    root = new_root(
        [root_signer.public_key],
        targets_keys,
        online.public_key,
        thresholds=(1, threshold),
        expires=lives.until(Root.type, now),
    )
    root.sign(root_signer)
    snapshot, timestamp = new_snapshot(lives.until("snapshot", now)), new_timestamp(lives.until("timestamp", now))
    snapshot.sign(online)
    timestamp.signed.snapshot_meta = meta_file(1, shelf.put_metadata("1.snapshot", snapshot))
    timestamp.sign(online)
    shelf.put_metadata("timestamp", timestamp)
    shelf.put_metadata("1.root", root)  # last: what says that there is a repository
    return Repository(folder, clock=clock, lives=lives)


def replace_signers(
    folder: Path,
    root_keys: Sequence[Path],
    *,
    targets: Sequence[SSlibKey] = (),
    threshold: int | None = None,
    online: bool = False,
    root: Sequence[SSlibKey] = (),
    clock: Callable[[], float] = time.time,
    lives: Lives | None = None,
) -> int:
    """Publishes the next root: other signers, or the same for another life; returns its version.

    Devices take it over when they look next, and believe those who are no longer in it no more. What is published is
    signed anew; where the signers' keys are elsewhere it waits for them, and devices take nothing until then.

    Args:
        root_keys: files of keys that sign root now, as many as its threshold asks for.
        targets: who signs targets from now on; none: as before. threshold: how many of them; None: as before.
        online: whether the coordinator's key is replaced.
        root: who signs root from now on, the keys of the old ones and new ones being in `root_keys`.

    Raises:
        ConfigError: the keys are not those of root, or not enough.
    """
    lives, shelf, now = lives or Lives(), Shelf(folder), clock()
    here = {signer.public_key.keyid: signer for signer in map(read_signer, root_keys)}
    with shelf.changing():
        old = shelf.root()
        new = renewed(old, lives.until(Root.type, now))
        if targets:
            _exchange(new.signed, Targets.type, targets)
        if root:
            _exchange(new.signed, Root.type, root)
        if threshold is not None:
            new.signed.roles[Targets.type].threshold = threshold
        if not 1 <= new.signed.roles[Targets.type].threshold <= len(new.signed.roles[Targets.type].keyids):
            raise ConfigError("fewer signers of targets than have to sign: name more keys, or a lower threshold")
        if online:
            fresh = create_key(folder / "keys" / f"online-{new.signed.version}.key")
            for role in (Snapshot.type, Timestamp.type):
                _exchange(new.signed, role, [fresh.public_key])
        sign(new, here, here)
        if signatures_missing(old.signed, Root.type, new) or signatures_missing(new.signed, Root.type, new):
            raise ConfigError("these are not the keys of root, or too few of them: nothing was changed")
        shelf.put_metadata(f"{new.signed.version}.root", new)
    Repository(folder, clock=clock, lives=lives).resign()
    return new.signed.version


def _exchange(root: Root, role: str, keys: Sequence[Key]) -> None:
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for key in keys:
        root.add_key(key, role)
