"""The folder in which an agent remembers things: one process at a time has it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmesh.errors import ConfigError

__all__ = ["LOCK", "state_of"]

LOCK = "agent.lock"


@contextmanager
def state_of(folder: Path) -> Iterator[Path]:
    """The state folder, made if it is not there, for one agent at a time. Raises: ConfigError: another has it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use the state folder {folder}: {error.strerror}; check its permissions") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    except BlockingIOError as error:
        raise ConfigError(
            f"another agent runs with the state folder {folder}: stop it, or name another folder"
        ) from error
    finally:
        os.close(lock)
