"""The two file formats that data sets come in: gzipped idx (LeCun's MNIST format) and npz. Never pickle."""

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import DataError

__all__ = ["read_idx", "read_npz"]

_UBYTE = 0x08
_DAMAGED = (OSError, EOFError, ValueError, KeyError, NotImplementedError, zlib.error, zipfile.BadZipFile, struct.error)


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The unsigned bytes of a gzipped idx file, which must have exactly `shape`.

    Raises:
        DataError: the file is missing, damaged, truncated, or of another shape; nothing larger than `shape` is read.
    """
    header = struct.Struct(f">HBB{len(shape)}I")
    size = math.prod(shape)
    try:
        with gzip.open(path, "rb") as file:
            head, body = file.read(header.size), file.read(size)
            surplus = file.read(1)
        got = header.unpack(head)
    except _DAMAGED as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}; fetch it again") from error
    if got != (0, _UBYTE, len(shape), *shape) or len(body) != size or surplus:
        raise DataError(f"{path} is not an idx file of unsigned bytes of shape {shape}: fetch it again")
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_npz(path: Path, *, required: Sequence[str]) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file, without pickle.

    Raises:
        DataError: the file cannot be read, or an array of `required` is missing.
    """
    try:
        with path.open("rb") as file:  # opened here: numpy leaves it open when it is not a zip file
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is not an npz file: write it with numpy.savez_compressed")
            missing = [key for key in required if key not in stored]
            if missing:
                raise DataError(f"{path} lacks {', '.join(missing)}: it holds {', '.join(stored) or 'nothing'}")
            return {key: stored[key] for key in stored}
    except _DAMAGED as error:
        raise DataError(f"{path} cannot be read as npz: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
