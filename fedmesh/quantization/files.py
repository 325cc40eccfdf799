"""Writing a model file so that a reader sees the old one or the whole new one, never a part."""

import os
import tempfile
from pathlib import Path

from fedmesh.errors import ConfigError

__all__ = ["write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`: temporary file beside it, fsync, rename, fsync of the folder.

    Raises:
        ConfigError: the folder is missing or read-only, the disk is full, ...; `path` is as it was then.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would keep the other services of a device out
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the pair of names is already plain strings
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error}: choose a folder with space that is writable"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
