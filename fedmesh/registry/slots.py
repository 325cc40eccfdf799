"""Two slots on a disk, A and B: what runs, and what may run next.

One small file says what each holds; it is replaced atomically, and is believed before any folder is. A slot's folder is
written only after that file gave the slot up, and named in it only after all of it was synced: a crash at any point
leaves the model that ran. Many processes may look, and one at a time changes something.

| in the folder | what it is |
|---|---|
| ``slots.cbor`` | `fedmesh.registry.state.State` |
| ``a/``, ``b/`` | ``model.onnx``, ``manifest.cbor``, ``golden.cbor``, ``proof.cbor`` |
| ``lock`` | held while the state is changed |
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.files import read_bounded, sync_folder, write_atomically
from fedmesh.registry.limits import MANIFEST_BYTES, Limits
from fedmesh.registry.manifest import Manifest
from fedmesh.registry.proof import MANIFEST, MODEL
from fedmesh.registry.state import NAMES, State

__all__ = ["Loaded", "Slots"]

_STATE = "slots.cbor"
_MOST_BYTES = 1 << 20
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Loaded:
    """What runs: its bytes, which have the SHA-256 of the manifest, and where they were.

    Attributes:
        generation: the state's, when it was read: another one later says that something else is to run.
    """

    data: bytes
    manifest: Manifest
    slot: str
    folder: Path
    generation: int


class Slots:
    """The slots in `folder`. Nothing is held open. Raises: ConfigError: the folder cannot be made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot keep models in {folder}: {error.strerror}") from error

    @staticmethod
    def is_one(folder: Path) -> bool:
        """Whether there are slots in `folder`."""
        return (folder / _STATE).exists()

    @property
    def state(self) -> State:
        """As it is now. Raises: ConfigError: the file is damaged."""
        path = self.folder / _STATE
        return State.decode(read_bounded(path, _MOST_BYTES)) if path.exists() else State()

    @property
    def current(self) -> Path | None:
        """The model that runs; None: none does. It may be replaced after two more installations: `load` reads it."""
        state = self.state
        return self.folder / state.active / MODEL if state.active else None

    def path(self, name: str) -> Path:
        """A slot's folder."""
        return self.folder / name

    def load(self) -> Loaded | None:
        """What runs, verified; None: nothing does.

        Raises:
            RegistryError: ``hash``: the files are not those that were installed.
            ConfigError: they cannot be read.
        """
        for attempt in range(_TRIES):
            state = self.state
            if not state.active:
                return None
            try:
                return self._loaded(state)
            except (RegistryError, ConfigError):
                if self.state == state or attempt == _TRIES - 1:  # else the slot was replaced while it was read
                    raise
        raise AssertionError("unreachable")

    def files(self) -> dict[bytes, Path]:
        """The models that are here, by what their SHA-256 should be."""
        state = self.state
        kept = [name for name in NAMES if state[name].state in {"good", "trying", "pending", "bad"}]
        return {state[name].sha256: self.folder / name / MODEL for name in kept}

    def is_whole(self, name: str) -> bool:
        """Whether the files of a slot are those that the state names."""
        try:
            self._loaded(self.state, name)
        except (RegistryError, ConfigError):
            return False
        return True

    def change(self, step: Callable[[State], State]) -> State:
        """Takes a step from the state there is, durably; returns the new one. Raises: ConfigError; what `step` does."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot change what runs in {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            before = self.state
            after = step(before)
            if after != before:
                write_atomically(self.folder / _STATE, after.encode())
            return after
        finally:
            os.close(descriptor)

    def fill(self, files: Mapping[str, bytes], version: int, sha256: bytes, manifest: bytes) -> str:
        """Puts `files` into the spare slot; returns its name. Called by whoever installs, and by nobody else.

        The slot to go back to is never written to: a version on trial is given up before.

        Raises: ConfigError: they cannot be written; what runs is untouched.
        """
        name = self.change(lambda state: state.superseded().emptied()).spare
        new, place = self.folder / f".{name}", self.folder / name
        try:
            for folder in (new, place):
                if folder.exists():
                    shutil.rmtree(folder)
            new.mkdir()
            for file, data in files.items():
                write_atomically(new / file, data)
            new.rename(place)
            sync_folder(self.folder)
        except OSError as error:
            raise ConfigError(f"cannot write to the slot {place}: {error.strerror or error}") from error
        self.change(lambda state: state.filled(name, version, sha256, manifest))
        return name

    def _loaded(self, state: State, name: str = "") -> Loaded:
        name = name or state.active
        slot, folder = state[name], self.folder / name
        manifest = read_bounded(folder / MANIFEST, MANIFEST_BYTES, called="the manifest")
        data = read_bounded(folder / MODEL, Limits().model_bytes, called="the model")
        for found, wanted, what in ((manifest, slot.manifest, MANIFEST), (data, slot.sha256, MODEL)):
            if hashlib.sha256(found).digest() != wanted:
                raise RegistryError(f"{folder / what} is not what was installed: its SHA-256 differs", code="hash")
        return Loaded(data, Manifest.decode(manifest), name, folder, state.generation)
