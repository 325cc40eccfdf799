"""The numbers by which a member's own statements are ordered: they only grow, over restarts and crashes as well.

A number is durable before it is used. They are set aside in blocks, so that somebody who accuses a member again and
again, and makes it refute, does not wear out its SD card; a restart loses the rest of a block.
"""

from pathlib import Path
from typing import Protocol

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.files import read_bounded, write_atomically
from fedmesh.wire import dumps, loads

__all__ = ["LARGEST", "DurableIncarnations", "Incarnations"]

LARGEST = 1 << 62
_BLOCK = 64
_FORMAT = "fedmesh-incarnation/1"
_MAX_BYTES = 64


class Incarnations(Protocol):
    """Where incarnation numbers come from."""

    def beyond(self, floor: int) -> int:
        """A number above `floor` and above all that were given before, ever. Raises: ConfigError: it cannot be kept."""
        ...


class DurableIncarnations:
    """Those of the member whose file `path` is; there is none before the first number.

    Raises:
        ConfigError: it is damaged or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = self._last = _read(path) if path.exists() else 0

    def beyond(self, floor: int) -> int:
        """A number above `floor` and above all that were given before, ever. Raises: ConfigError: it cannot be kept."""
        number = max(self._last, floor) + 1
        if number > self._kept:
            kept = number + _BLOCK - 1
            if kept >= LARGEST:
                raise ConfigError(f"incarnation {number} is beyond the largest, {LARGEST}: enrol the device anew")
            write_atomically(self._path, dumps([_FORMAT, kept]), mode=0o600)
            self._kept = kept
        self._last = number
        return number


def _read(path: Path) -> int:
    try:
        content = loads(read_bounded(path, _MAX_BYTES, called="the incarnation"), max_bytes=_MAX_BYTES, max_depth=1)
    except DecodeError as error:
        raise ConfigError(_damaged(path)) from error
    match content:
        case [format_, int(kept)] if format_ == _FORMAT and type(kept) is int and 0 < kept < LARGEST:
            return kept
        case _:
            raise ConfigError(_damaged(path))


def _damaged(path: Path) -> str:
    return f"{path} is damaged: remove it; the others know this member's last incarnation and it goes on from there"
