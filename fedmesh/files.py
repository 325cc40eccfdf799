"""Files that are either whole or not there: temporary file, fsync, rename, fsync of the folder."""

import os
import tempfile
from pathlib import Path

from fedmesh.errors import ConfigError

__all__ = ["sync_folder", "write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Puts `data` at `path`, durably; a reader or a crash sees the old file or the new one, never a part.

    Raises:
        ConfigError: the folder is missing or not writable, or the disk is full; the old file is untouched.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; check the folder and its permissions") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path} ({len(data)} bytes): {error.strerror}; nothing was changed") from error
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames and new files in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
