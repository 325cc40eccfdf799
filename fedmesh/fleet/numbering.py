"""Numbers by which results and events name the devices of a run: given once, in the order of appearance, and kept."""

import json
import threading
from pathlib import Path

from fedmesh.errors import ConfigError
from fedmesh.files import read_bounded, write_atomically

__all__ = ["Numbering"]

_MAX_BYTES = 16 << 20


class Numbering:
    """Of the run whose folder `path` is in.

    Args:
        path: the file, made when the first number is given.

    Raises:
        ConfigError: it is damaged or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        if path.exists():
            try:
                names = json.loads(read_bounded(path, _MAX_BYTES))
            except ValueError as error:
                raise ConfigError(f"{path} is damaged ({error}): put back a copy") from error
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ConfigError(f"{path} is damaged: it is no list of names; put back a copy")
            self._numbers = {name: number for number, name in enumerate(names)}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, by number."""
        return tuple(self._numbers)

    def of(self, name: str) -> int:
        """The number of a device; the next one if it has none, durably. Raises: ConfigError: it cannot be written."""
        with self._lock:
            if name not in self._numbers:
                names = [*self._numbers, name]
                write_atomically(self._path, json.dumps(names, indent=0).encode() + b"\n")
                self._numbers[name] = len(names) - 1
            return self._numbers[name]
