"""Follows what is meant to run: looks at a slot now and then, and swaps when another model is in it.

A model that was refused is not tried again until the slot changes. Who fills the slots, verifies what is put there and
goes back to the other one is the registry's business: `on_refused` and the live model's `on_verdict` tell it.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Protocol

from fedmesh.errors import ConfigError, FedMeshError, MismatchError, TrustError
from fedmesh.events import SwapRefused
from fedmesh.inference.live import LiveModel
from fedmesh.registry import Slots as InstalledSlots

if TYPE_CHECKING:
    from fedmesh.inference.engine import Engine

__all__ = ["Slots", "Watch", "installed", "slots_in"]

_Seen = tuple[Path, int, int, int, int]


class Slots(Protocol):
    """Where models are put: `fedmesh.registry.Slots`, as a rule."""

    @property
    def current(self) -> Path | None:
        """The model that is meant to run; None: there is none. Raises: ConfigError: that cannot be said."""
        ...


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
        path = self._slots.current
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


def slots_in(folder: Path) -> InstalledSlots:
    """The slots in `folder`, or in ``slots`` of it, where a device's models are installed; there may be none in them.

    Raises:
        ConfigError: there is no such folder.
    """
    inner = folder / "slots"
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder of slots: make it, or name another one")
    return InstalledSlots(inner if inner.is_dir() and not InstalledSlots.is_one(folder) else folder)


def installed(slots: InstalledSlots, *, threads: int = 1) -> "Callable[[Path], Engine]":
    """For `LiveModel`: loads a model out of `slots`.

    What it gives raises MismatchError where the file is not the one that was installed.
    """

    def load(path: Path) -> "Engine":
        from fedmesh.inference.engine import Engine

        engine = Engine(path, threads=threads)
        if engine.sha256 != slots.state[path.parent.name].sha256.hex():
            raise MismatchError(f"{path} is not what was installed: its SHA-256 differs")
        return engine

    return load


def _seen(path: Path) -> _Seen:
    """What changes when another file is put there, also under the same name."""
    status = path.stat()
    return path.resolve(), status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
