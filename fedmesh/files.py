"""Files that are either whole or not there: temporary file, fsync, rename, fsync of the folder."""

import os
import secrets
from pathlib import Path

from fedmesh.errors import ConfigError

__all__ = ["sync_folder", "write_atomically"]


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Puts `data` at `path`, durably; a reader or a crash sees the old file or the new one, never a part.

    `mode` is what the user's umask takes from: 0o600 for a secret.

    Raises:
        ConfigError: the folder is missing or not writable, or the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:  # not mkstemp, whose files only their owner can read: these are results, under the user's umask
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; check the folder and its permissions") from error
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
