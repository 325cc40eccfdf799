"""Follows what is meant to run: looks at a slot now and then, and swaps when another model is in it.

A model that was refused is not tried again until the slot changes. Who fills the slots, verifies what is put there and
goes back to the other one is the registry's business: `on_refused` and the live model's `on_verdict` tell it.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Protocol

from fedmesh.errors import ConfigError, FedMeshError, TrustError
from fedmesh.events import SwapRefused
from fedmesh.files import read_bounded
from fedmesh.inference.live import LiveModel

__all__ = ["FolderSlots", "Slots", "Watch"]

_CURRENT, _MODEL = "current", "model.int8.onnx"
_Seen = tuple[Path, int, int, int, int]


class Slots(Protocol):
    """Where models are put."""

    def current(self) -> Path | None:
        """The model that is meant to run; None: there is none. Raises: ConfigError: that cannot be said."""
        ...


class FolderSlots:
    """Slots in a folder, ``current`` in it says which: a symbolic link, or a text file with a name.

    It leads to a model, or to a folder that holds a ``model.int8.onnx``, inside the folder of the slots.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder of slots: make it, or name another one")
        self._folder = folder

    def current(self) -> Path | None:
        """As `Slots` says. Raises: ConfigError: ``current`` leads out of the folder."""
        pointer = self._folder / _CURRENT
        if not pointer.is_symlink() and pointer.is_file():
            name = read_bounded(pointer, 255).decode("utf-8", "replace").strip()
            pointer = self._folder / name if "\0" not in name else self._folder / ".."
        target = pointer.resolve()
        if target == self._folder.resolve() or not target.is_relative_to(self._folder.resolve()):
            raise ConfigError(f"{self._folder / _CURRENT} leads to {target}, which is not inside {self._folder}")
        if target.is_dir():
            target /= _MODEL
        return target if target.is_file() else None


class Watch:
    """Keeps `live` at what `slots` say.

    Args:
        poll_s: how often `run` looks.
        on_refused: told of the path of a model that is not taken, and why.

    Attributes:
        trouble: why the last look came to nothing: the slots cannot be read, or who was told failed. Empty: it did not.
    """

    def __init__(
        self,
        slots: Slots,
        live: LiveModel,
        *,
        poll_s: float = 1.0,
        on_refused: Callable[[Path, str], None] | None = None,
    ) -> None:
        self._slots, self._live, self._poll_s = slots, live, poll_s
        self._on_refused = on_refused
        self._seen: _Seen | None = None
        self.trouble = ""

    def look(self) -> bool:
        """One look; returns whether another model answers now."""
        self.trouble = ""
        try:
            self._live.tick()
            return self._followed()
        except (FedMeshError, OSError) as error:
            self.trouble = str(error)
            return False

    def run(self, stop: Event) -> None:
        """Looks every `poll_s` seconds until `stop` is set."""
        while not stop.wait(self._poll_s):
            self.look()

    def _followed(self) -> bool:
        path = self._slots.current()
        seen = None if path is None else _seen(path)
        if path is None or seen == self._seen:
            return False
        self._seen = seen
        return self._swapped(path)

    def _swapped(self, path: Path) -> bool:
        try:
            self._live.swap(path)
        except (ConfigError, TrustError) as error:
            self._live.events(SwapRefused(str(path), str(error)))
            if self._on_refused is not None:
                self._on_refused(path, str(error))
            return False
        return True


def _seen(path: Path) -> _Seen:
    """What changes when another file is put there, also under the same name."""
    status = path.stat()
    return path.resolve(), status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
