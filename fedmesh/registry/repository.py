"""The server's side: versions published, signed and rolled out, in a folder whose ``public`` part anybody may serve.

| in the folder | what it is |
|---|---|
| ``public/`` | metadata, targets and chunks, as devices ask for them |
| ``keys/`` | the keys that are online: 0600, in a folder 0700 |
| ``staged/`` | a version that still lacks signatures |

A version is published whole or not at all: the timestamp that leads to it is written last. Numbers only grow; to go
back is to publish a higher version that names the old file. Nothing here protects from who holds enough keys.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tuf.api.metadata import Metadata, Targets

from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, ModelPublished, ignore
from fedmesh.files import read_bounded
from fedmesh.registry.describing import Facts, File, described
from fedmesh.registry.golden import GoldenSet
from fedmesh.registry.limits import MANIFEST_BYTES, ROLLOUT_BYTES, Limits
from fedmesh.registry.manifest import Manifest, manifest_target
from fedmesh.registry.notary import Notary
from fedmesh.registry.pointer import Pointer
from fedmesh.registry.roles import ROLLOUT, Lives, target_file
from fedmesh.registry.rollout import ROLLOUT_TARGET, Rollout
from fedmesh.registry.shelf import Shelf
from fedmesh.registry.signing import read_signer, read_signers
from fedmesh.registry.staging import Staged, Staging

__all__ = ["Repository", "Version"]


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the repository: its manifest, and how many signatures it still lacks to be published."""

    manifest: Manifest
    missing: int = 0

    @property
    def number(self) -> int:
        """Its number."""
        return self.manifest.version

    @property
    def sha256(self) -> str:
        """Of its first variant, hexadecimal."""
        return self.manifest.variants[0].blob.sha256.hex()


class Repository:
    """The repository in `folder`; `fedmesh.registry.founding.create` makes one.

    Args:
        clock: seconds since 1970.
        lives: how long what is signed is believed.
        keep: how many versions can still be fetched; older ones go.
        delta_bases: against how many of the last ones deltas are made.

    Raises:
        ConfigError: there is none, it is damaged, or others can read a key.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] = time.time,
        lives: Lives | None = None,
        keep: int = 8,
        delta_bases: int = 2,
        events: EventSink = ignore,
    ) -> None:
        if not (folder / "public" / "metadata").is_dir():
            raise ConfigError(f"there is no repository in {folder}: run fedmesh model init, or name another folder")
        if keep < 2 or delta_bases < 0:
            raise ConfigError(
                f"keep is {keep} and delta_bases {delta_bases}: 2 versions at least, to be able to go back"
            )
        self.folder, self._clock, self._events = folder, clock, events
        self._keep, self._bases = keep, delta_bases
        self._shelf, self._staging = Shelf(folder), Staging(folder / "staged")
        self._shelf.root()
        signers = read_signers(folder / "keys")
        self._notary = Notary(self._shelf, signers, lives or Lives(), clock, folder / "keys")

    @classmethod
    def open(cls, folder: Path, *, clock: Callable[[], float] = time.time, events: EventSink = ignore) -> Self:
        """The repository in `folder`, with its defaults; errors are those of the class."""
        return cls(folder, clock=clock, events=events)

    def read(self, name: str, max_bytes: int) -> bytes:
        """A public file, for whoever serves them. Raises: RegistryError: ``name``, ``missing``, ``oversize``."""
        return self._shelf.source.fetch(name, max_bytes=max_bytes)

    def root_bytes(self, version: int = 0) -> bytes:
        """A root as it is served; 0: the one in force. What a device is given when it is enrolled."""
        return self._shelf.metadata_bytes(f"{version or self._shelf.roots[-1]}.root")

    def pointer(self) -> bytes:
        """What to announce, and to let a broker retain."""
        with self._shelf.changing():  # else a part of it may be of before a change, and a part of after
            timestamp = self._shelf.timestamp().signed
            snapshot = self._shelf.metadata_bytes(f"{timestamp.snapshot_meta.version}.snapshot")
            rollout = self.rollout
        return Pointer.of(timestamp.version, snapshot, rollout.version if rollout else 0).encode()

    @property
    def rollout(self) -> Rollout | None:
        """What is rolled out; None: nothing yet."""
        if not self._shelf.has(ROLLOUT):
            return None
        vouched = self._shelf.targets(ROLLOUT).signed.targets[ROLLOUT_TARGET]
        return Rollout.decode(self.read(f"targets/{vouched.hashes['sha256']}.{ROLLOUT_TARGET}", ROLLOUT_BYTES))

    def versions(self) -> list[Version]:
        """What can be fetched, oldest first, and what still waits for signatures."""
        found = [Version(manifest) for manifest in self._manifests()]
        staged = self._staging.read()
        return found + ([Version(staged.manifest, self._notary.missing(staged.targets))] if staged else [])

    def version(self, number: int) -> Version:
        """One of them. Raises: ConfigError: there is none of this number."""
        for item in self.versions():
            if item.number == number:
                return item
        known = ", ".join(str(item.number) for item in self.versions()) or "none"
        raise ConfigError(f"there is no version {number} in {self.folder}: there are {known}")

    def publish(
        self,
        model: Path,
        facts: Facts,
        *,
        golden: GoldenSet | None = None,
        kind: str = "int8",
        more: Sequence[File] = (),
        rollout: Rollout | None = None,
    ) -> Version:
        """Makes the file `model` the next version, and rolls it out.

        Where too few signers of targets are here it is staged, and published by the last of them (`add_signature`).

        Args:
            more: further variants, behind the model's own.
            rollout: to whom; its version is set here. None: to all.

        Raises:
            ConfigError: a file cannot be read, or the keys that are online are not here.
            RegistryError: the facts are not possible.
        """
        data = read_bounded(model, Limits().model_bytes, called="the model", advice="name an ONNX file")
        with self._shelf.changing():
            return self._publish(
                [File(data, kind), *more], facts, None if golden is None else golden.encode(), rollout or Rollout(1)
            )

    def restore(self, number: int) -> Version:
        """Goes back to version `number`: publishes a higher version with its files, and rolls that out to all.

        Raises: ConfigError: there is none of this number, or it is what is rolled out.
        """
        with self._shelf.changing():
            old = self.version(number).manifest
            if old.version == self._manifests()[-1].version:
                raise ConfigError(f"version {number} is the newest one: nothing would change")
            files = [File(self._shelf.chunks.joined(v.blob.chunks), v.kind, v.tags) for v in old.variants]
            golden = None
            if old.golden is not None:
                golden = self.read(f"targets/{old.golden[0].hex()}.golden.cbor", old.golden[1])
            facts = Facts(
                old.task, old.round, old.survivors, old.epsilon, old.scenario, old.parent, old.inputs, old.outputs
            )
            return self._publish(files, facts, golden, Rollout(1), restores=number)

    def add_signature(self, key: Path) -> Version:
        """Adds the signature of a signer of targets to what is staged, and publishes it if it was the last.

        Raises: ConfigError: nothing is staged, or the key may not sign targets.
        """
        with self._shelf.changing():
            staged = self._staging.read()
            if staged is None:
                raise ConfigError("no version waits for a signature")
            signer = read_signer(key)
            if signer.public_key.keyid not in self._shelf.root().signed.roles[Targets.type].keyids:
                raise ConfigError(f"the key {key} is not one of a signer of targets in this repository")
            staged.targets.sign(signer, append=True)
            return self._finish(staged)

    def roll_out(self, rollout: Rollout) -> None:
        """Says what is to run, where: to widen a canary, or to halt it with 0 percent.

        Raises: ConfigError: the version is not published, or the key for it is not here.
        """
        with self._shelf.changing():
            if self.version(rollout.version).missing:
                raise ConfigError(f"version {rollout.version} lacks signatures: nobody would run it")
            self._notary.commit(rollout=rollout)
            self._sweep()

    def refresh(self) -> bool:
        """Signs anew what has half of its life behind it; returns whether there was anything.

        To be called now and then: a repository that is silent looks to devices like one that is kept from them. Which
        versions may run is signed anew if its signers' keys are here; `expiries` says when it must be.

        Raises: ConfigError: the key for it is not here.
        """
        with self._shelf.changing():
            due, targets = self._notary.due(), None
            if Targets.type in due:
                targets = self._targets(self._manifests())
                self._notary.sign_targets(targets)
                targets = None if self._notary.missing(targets) else targets
            if due - {Targets.type} or targets is not None:
                anew = targets is not None or ROLLOUT in due
                self._notary.commit(targets=targets, rollout=self.rollout if anew else None)
                self._sweep()
                return True
            return False

    def expiries(self) -> dict[str, float]:
        """Until when each role is believed, in seconds since 1970: those of root and targets need their signers."""
        return self._notary.expiries()

    def resign(self) -> int:
        """Signs everything anew, under a root that changed; returns how many signatures that lacks."""
        with self._shelf.changing():
            manifests, rollout = self._manifests(), self.rollout
            if not manifests or rollout is None:
                self._notary.commit()
                return 0
            return self._finish(Staged(manifests[-1], rollout, self._targets(manifests))).missing

    def _publish(
        self, files: Sequence[File], facts: Facts, golden: bytes | None, rollout: Rollout, restores: int | None = None
    ) -> Version:
        before, staged = self._manifests(), self._staging.read()
        number = 1 + max([0, *(m.version for m in before), *([staged.manifest.version] if staged else [])])
        manifest = described(
            number,
            self._clock(),
            files,
            facts,
            golden=golden,
            before=before,
            store=self._shelf.chunks,
            bases=self._bases,
            restores=restores,
        )
        if golden is not None and manifest.golden is not None:
            self._shelf.put_target("golden.cbor", golden, manifest.golden[0].hex())
        kept = [*before, manifest][-self._keep :]
        version = self._finish(Staged(manifest, replace(rollout, version=number), self._targets(kept)))
        if not version.missing:
            first = manifest.variants[0]
            smallest = min((item.blob.length for item in first.deltas), default=None)
            self._events(ModelPublished(number, manifest.round, first.blob.length, smallest))
        return version

    def _targets(self, manifests: Sequence[Manifest]) -> Metadata[Targets]:
        """Targets that allow these; what some have signed already is never signed again with other content."""
        vouched, staged = {}, self._staging.read()
        for manifest in manifests:
            data, name = manifest.encode(), manifest_target(manifest.version)
            vouched[name] = target_file(name, data)
            self._shelf.put_target(name, data, vouched[name].hashes["sha256"])
        return self._notary.next_targets(vouched, above=staged.targets.signed.version if staged else 0)

    def _finish(self, staged: Staged) -> Version:
        """Publishes what is staged, if its signatures suffice; else keeps it."""
        self._notary.sign_targets(staged.targets)
        if missing := self._notary.missing(staged.targets):
            self._staging.write(staged)
            return Version(staged.manifest, missing)
        self._notary.commit(targets=staged.targets, rollout=staged.rollout)
        self._staging.clear()
        self._sweep()
        return Version(staged.manifest)

    def _manifests(self) -> list[Manifest]:
        if not self._shelf.has(Targets.type):
            return []
        found = [
            Manifest.decode(self.read(f"targets/{vouched.hashes['sha256']}.{name}", MANIFEST_BYTES))
            for name, vouched in self._shelf.targets().signed.targets.items()
        ]
        return sorted(found, key=lambda manifest: manifest.version)

    def _sweep(self) -> None:
        """Removes what no version that can be fetched, or waits for signatures, is made of."""
        staged = self._staging.read()
        roles = [self._shelf.targets(role) for role in (Targets.type, ROLLOUT) if self._shelf.has(role)]
        roles += [staged.targets] if staged else []
        files = [pair for role in roles for pair in role.signed.targets.items()]
        targets, chunks = {f"{vouched.hashes['sha256']}.{name}" for name, vouched in files}, set[bytes]()
        for manifest in [*self._manifests(), *([staged.manifest] if staged else [])]:
            if manifest.golden is not None:
                targets.add(f"{manifest.golden[0].hex()}.golden.cbor")
            for variant in manifest.variants:
                for blob in (variant.blob, *(item.blob for item in variant.deltas)):
                    chunks.update(blob.chunks)
        self._shelf.sweep(targets, chunks)
