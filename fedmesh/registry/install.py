"""What a device does with a registry: look, fetch, verify, put into a slot, probe, and let it run.

`Installer.update` ends with a version that runs, with nothing new, or with a refusal, and in each case with a model
that runs if one ran before. A version whose probe fails, that kills its process, or that `rollback` takes back is not
tried again here. Sequential: one process installs into a folder, and holds it.
"""

import fcntl
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.events import EventSink, ModelInstalled, ModelRefused, ModelRolledBack, ignore
from fedmesh.identity import TimeFloor
from fedmesh.registry.chunks import ChunkStore
from fedmesh.registry.controls import rolled_back
from fedmesh.registry.fetching import Fetching
from fedmesh.registry.limits import Limits
from fedmesh.registry.manifest import Manifest
from fedmesh.registry.pointer import Pointer
from fedmesh.registry.proof import GOLDEN, MANIFEST, MODEL, PROOF
from fedmesh.registry.roots import read_root, trust_root, trusted_root_path
from fedmesh.registry.slots import Slots
from fedmesh.registry.source import Source
from fedmesh.registry.state import State
from fedmesh.registry.trust import Allowed, Trust

__all__ = ["Installed", "Installer", "Probe"]

Probe = Callable[[Path, Manifest], None]
"""Tries the model at a path; raises anything if it must not run. Its golden set, if it has one, lies beside it."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A version that runs from now on."""

    version: int
    slot: str
    path: Path
    manifest: Manifest


class Installer:
    """Installs from `source` into `folder`; a context manager, which lets go of the folder.

    Args:
        trusted_root: a root.json from the operator, its file or its bytes, which is kept in the folder; None: the one
            that is there already (`fedmesh model trust`). There is no trust on first use.
        probe: what a model has to stand before it runs.
        device: this device's name, and tags: what it has: who is asked in a rollout, and which variant it takes.
        trial: whether a version runs on trial until `commit`, instead of for good once its probe is through.
        attempts: after how many that ended without a word (a crash, a reboot) a version has failed.
        keeps_chunks: whether what came of a download that was cut off is kept in the folder; else by the source.
        window: chunks that are asked for at a time; where it is not 1, `Source.fetch` is called by several threads.
        clock: seconds since 1970; it may go back, what is believed of it does not.

    Attributes:
        refused: how often something was refused, by code of `REGISTRY_CODES`.

    Raises:
        ConfigError: there is no trusted root, the folder is damaged, or another process installs into it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        source: Source,
        probe: Probe,
        trusted_root: Path | bytes | None = None,
        device: str = "",
        tags: Iterable[str] = (),
        trial: bool = False,
        attempts: int = 3,
        keeps_chunks: bool = True,
        window: int = 1,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        events: EventSink = ignore,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self.slots = Slots(folder / "slots")
        self._source, self._probe, self._clock, self._events = source, probe, clock, events
        self._device, self._tags, self._trial, self._limits = device, frozenset(tags), trial, limits or Limits()
        root = trusted_root if isinstance(trusted_root, bytes) else read_root(trusted_root or trusted_root_path(folder))
        trust_root(folder, root)
        self._trust = Trust(folder / "metadata.cbor", root, limits=self._limits)
        self._floor = TimeFloor.create(folder / "time.floor")
        self._store, self._keeps_chunks = ChunkStore(folder / "chunks"), keeps_chunks
        self._window = window
        self._held = _hold(folder / "installer.lock")
        try:
            self._boot(attempts)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the folder; idempotent."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    @property
    def current(self) -> Path | None:
        """The model that runs; None: none does."""
        return self.slots.current

    @property
    def seen(self) -> int:
        """The number of the newest timestamp that was verified here; 0: none was."""
        return self._trust.timestamp

    @property
    def public(self) -> dict[str, bytes]:
        """The metadata that was verified here, by name, for who passes it on to neighbours."""
        return self._trust.public

    def is_news(self, announced: bytes) -> bool:
        """Whether a pointer that was announced may say something new: a reason to `update`, and no more.

        Malformed ones are counted, not raised: anybody may announce.
        """
        try:
            return Pointer.decode(announced).timestamp > self._trust.timestamp
        except RegistryError as error:
            self._refuse(error)
            return False

    def update(self) -> Installed | None:
        """Brings this device to what is to run on it; None: that runs already, has failed here, or is for others.

        Raises:
            RegistryError: something was refused (counted, and told as an event); what ran runs.
            PeerError: the source did not answer: try again later. ConfigError: the disk.
        """
        wanted = 0
        try:
            allowed = self._trust.refresh(self._source, self._floor.now(self._clock()))
            wanted = 0 if allowed is None else self._wanted(allowed)
            if allowed is None or not wanted:
                return None
            return self._install(allowed, wanted)
        except RegistryError as error:
            self._refuse(error, wanted or None)
            raise

    def commit(self) -> None:
        """What runs on trial has passed: it runs for good. Nothing where there is no trial."""
        self.slots.change(lambda state: state.committed())

    def rollback(self, reason: str) -> int | None:
        """Goes back to the version before, because of `reason`; returns its number, None where there is none.

        What ran is not tried again here. Nothing runs where there is no other: a bad model does not stay.
        """
        before = self.slots.state
        after = self.slots.change(lambda state: rolled_back(state, self.slots, reason, forced=True))
        to = after.running.version or None
        self._events(ModelRolledBack(before.running.version, to, reason))
        return to

    def _boot(self, attempts: int) -> None:
        """What a start makes of what the last one left; an active slot that rotted is given up."""
        before = self.slots.state
        after = self.slots.change(lambda state: state.booted(attempts))
        reason = "its attempts ended without a word"
        if after.active and not self.slots.is_whole(after.active):
            reason = "its files are not those that were installed"
            after = self.slots.change(lambda state: state.refused(state.active, reason, remember=False))
            if after.active and not self.slots.is_whole(after.active):
                after = self.slots.change(lambda state: state.refused(state.active, reason, remember=False))
        if before.active != after.active:
            self._events(ModelRolledBack(before.running.version, after.running.version or None, reason))

    def _wanted(self, allowed: Allowed) -> int:
        """The version to bring this device to; 0: it is where it should be."""
        state, rollout = self.slots.state, allowed.rollout
        running = state.running.version
        if state.pinned is not None:
            return state.pinned if state.pinned != running and state.pinned in allowed.versions else 0
        if rollout is None:
            return 0
        if rollout.version < state.highest:
            raise RegistryError(
                f"version {rollout.version} is rolled out, {state.highest} ran here already: to go back, a repository "
                "publishes a higher version",
                code="downgrade",
            )
        if rollout.includes(self._device, self._tags, self._floor.now(self._clock())):
            return rollout.version if rollout.version != running else 0
        older = [version for version in allowed.versions if version < rollout.version]
        return older[-1] if older and not running else 0  # a new device begins with what the others have

    def _install(self, allowed: Allowed, version: int) -> Installed | None:
        data = allowed.manifest(version, self._source)
        digest, manifest = hashlib.sha256(data).digest(), Manifest.decode(data)
        self._floor.prove(manifest.created)
        state = self.slots.state
        if state.failure(digest) is not None:
            self.refused["failed"] += 1
            return None
        name, spare = state.spare, state[state.spare]
        fetched, as_delta = 0, False
        there = spare.manifest == digest and spare.state in {"pending", "good"} and self.slots.is_whole(name)
        if not there:
            name, fetched, as_delta = self._fill(allowed, manifest, data)
        if not there or state.superseded() == state:
            self._try(name, manifest)
        else:  # from a version on trial to the good one before it
            self.slots.change(State.superseded)
        self._store.keep_only(())
        self._events(ModelInstalled(version, manifest.round, name, fetched, as_delta))
        return Installed(version, name, self.slots.path(name) / MODEL, manifest)

    def _fill(self, allowed: Allowed, manifest: Manifest, data: bytes) -> tuple[str, int, bool]:
        """Fetches a version into the spare slot; returns its name, the bytes that came, and whether as a delta."""
        if self._store.size_bytes() > self._limits.chunks_bytes:
            self._store.keep_only(())
        fetching = Fetching(
            self._source, self._store, self._limits, self.refused, keeps=self._keeps_chunks, window=self._window
        )
        variant = manifest.variant(self._tags)
        files = {MANIFEST: data, PROOF: allowed.proof.encode()}
        if manifest.golden is not None:
            files[GOLDEN] = fetching.golden(*manifest.golden)
        fetched = fetching.model(variant, self.slots.files())
        files[MODEL] = fetched.data
        digest = hashlib.sha256(data).digest()
        name = self.slots.fill(files, manifest.version, variant.blob.sha256, digest)
        return name, fetched.bytes_over_network, fetched.as_delta

    def _try(self, name: str, manifest: Manifest) -> None:
        """Probes a slot and lets it run. Raises: RegistryError: ``probe``: it must not, and is not tried again."""
        self.slots.change(lambda state: state.tried(name))
        try:
            self._probe(self.slots.path(name) / MODEL, manifest)
        except Exception as error:
            reason = f"its probe failed: {error}"
            self.slots.change(lambda state: state.refused(name, reason))
            raise RegistryError(
                f"version {manifest.version} is not installed: {reason}; what ran goes on running", code="probe"
            ) from error
        self.slots.change(lambda state: state.taken(name, trial=self._trial))

    def _refuse(self, error: RegistryError, version: int | None = None) -> None:
        self.refused[error.code] += 1
        self._events(ModelRefused(error.code, str(error), version))


def _hold(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot install into {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(f"another process installs models into {path.parent}: let it finish, or stop it") from error
    return descriptor
