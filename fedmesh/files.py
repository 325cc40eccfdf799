"""Files that are whole or not there (temporary file, fsync, rename, fsync of the folder), and that are read bounded."""

import os
import secrets
import stat
from pathlib import Path

from fedmesh.errors import ConfigError

__all__ = ["read_bounded", "sync_folder", "write_atomically"]


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666, durable: bool = True) -> None:
    """Puts `data` at `path`, durably; a reader or a crash sees the old file or the new one, never a part.

    Args:
        mode: what the user's umask takes from: 0o600 for a secret.
        durable: False: the machine may lose it when it loses its power, and leave what is not whole. For files whose
            reader checks what is in them, and that can be had again.

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
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path} ({len(data)} bytes): {error.strerror}; nothing was changed") from error
    if durable:
        sync_folder(path.parent)


def read_bounded(path: Path, max_bytes: int, *, called: str = "", advice: str = "", secret: bool = False) -> bytes:
    """What a file holds.

    Args:
        called: what it is; advice: what to do where it cannot be read. Both for the message.
        secret: whether nobody but its owner may be able to read it.

    Raises:
        ConfigError: it cannot be read, is larger than `max_bytes`, or is a secret that others can read.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            # read() sets aside all that it is asked for: not half a gigabyte for a small file that may be as large.
            data = file.read(1 + (min(max_bytes, status.st_size) if stat.S_ISREG(status.st_mode) else max_bytes))
    except OSError as error:
        what, then = (called and f"{called} "), (advice and f"; {advice}")
        raise ConfigError(f"cannot read {what}{path}: {error.strerror}{then}") from error
    if len(data) > max_bytes:
        raise ConfigError(f"{path} is larger than {max_bytes} bytes: it is not what belongs there")
    if secret and status.st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others: its owner alone may, so run chmod 600 on it")
    return data


def sync_folder(folder: Path) -> None:
    """Makes renames and new files in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
