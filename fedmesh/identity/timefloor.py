"""A time that never goes back, kept on disk: for a device whose clock starts anywhere, or is set by a stranger.

What is signed with a date (a revocation list, a certificate, a manifest) proves that this date has come: it raises the
floor without limit, and the present is the later of clock and floor. The clock itself raises it as well, so that a
reboot does not take away what was known, but by a day beyond the last proof at most: a clock that once stood in the
next century costs a day of a certificate's life, not the device.
"""

import os
from pathlib import Path
from typing import Self

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.files import write_atomically
from fedmesh.wire import dumps, loads

__all__ = ["TimeFloor"]

_BEYOND_PROOF_S = 86_400
_WRITE_EVERY_S = 3_600  # what the clock alone adds: an SD card has a few thousand writes a cell
_FORMAT = "fedmesh-time-floor/1"
_LARGEST = 1 << 40


class TimeFloor:
    """The floor in the file at `path`. All times are seconds since 1970 (UTC).

    Raises:
        ConfigError: there is no such file, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._proved, self._floor = _read(path)

    @classmethod
    def create(cls, path: Path, proved: float = 0) -> Self:
        """The floor at `path`, made if there is none, raised to `proved`. Raises: ConfigError: it cannot be written."""
        if not path.exists():
            _write(path, int(proved), int(proved))
        floor = cls(path)
        floor.prove(proved)
        return floor

    @property
    def floor(self) -> int:
        """The earliest that it can be."""
        return self._floor

    def now(self, clock: float) -> float:
        """What time it is, when the clock says `clock`; never less than before, restarts included."""
        earned = min(int(clock), self._proved + _BEYOND_PROOF_S)
        if earned >= self._floor + _WRITE_EVERY_S:
            self._raise(self._proved, earned)
        return max(clock, float(self._floor))

    def prove(self, signed: float) -> None:
        """Takes note, durably, that something verified was signed at `signed`. Earlier times change nothing."""
        if int(signed) > self._proved:
            self._raise(int(signed), max(self._floor, int(signed)))

    def _raise(self, proved: int, floor: int) -> None:
        _write(self._path, proved, floor)
        self._proved, self._floor = proved, floor


def _write(path: Path, proved: int, floor: int) -> None:
    if not 0 <= proved <= floor < _LARGEST:
        raise ConfigError(f"{proved} and {floor} are no times in seconds since 1970 to keep in {path}")
    write_atomically(path, dumps([_FORMAT, proved, floor]), mode=0o600)


def _read(path: Path) -> tuple[int, int]:
    try:
        with path.open("rb") as file:
            content = loads(file.read(129), max_bytes=128, max_depth=1)
    except OSError as error:
        raise ConfigError(f"cannot read the time floor {path}: {error.strerror}; enrol the device anew") from error
    except DecodeError as error:
        raise ConfigError(_damaged(path)) from error
    match content:
        case [format_, int(proved), int(floor)] if format_ == _FORMAT and 0 <= proved <= floor < _LARGEST:
            return proved, floor
        case _:
            raise ConfigError(_damaged(path))


def _damaged(path: Path) -> str:
    return f"the time floor {os.fspath(path)} is damaged: put back a copy, or remove it and enrol the device anew"
