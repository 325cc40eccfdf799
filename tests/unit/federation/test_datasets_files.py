"""Reading idx and npz files: what is right, damaged, truncated, missing or hostile."""

import gzip
import itertools
import struct

import numpy as np
import pytest

from fedmesh.errors import DataError
from fedmesh.federation.datasets.files import read_idx, read_npz


def idx(array, *, kind=8, dims=None):
    dims = array.shape if dims is None else dims
    return struct.pack(f">HBB{len(dims)}I", 0, kind, len(dims), *dims) + array.tobytes()


@pytest.fixture
def pixels():
    return np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def test_an_idx_file(tmp_path, pixels):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(pixels)))
    assert np.array_equal(read_idx(path, (2, 3, 4)), pixels)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not gzip at all",
        gzip.compress(b""),
        gzip.compress(b"\0\0\x08"),
        gzip.compress(idx(np.zeros((2, 3, 4), np.uint8)))[:-9],
        gzip.compress(idx(np.zeros((2, 3, 4), np.uint8))[:-1]),
        gzip.compress(idx(np.zeros((2, 3, 4), np.uint8)) + b"\0"),
        gzip.compress(idx(np.zeros((2, 3, 4), np.uint8), kind=9)),
        gzip.compress(idx(np.zeros((2, 3, 4), np.uint8), dims=(2, 12))),
        gzip.compress(idx(np.zeros((2, 3, 5), np.uint8))),
        gzip.compress(idx(np.zeros((2, 3, 4), np.uint8)))[:20] + b"\xff" * 20,
        gzip.compress(bytes(10_000_000)),
    ],
    ids=itertools.count(),  # gzip writes the time into its header: ids of the bytes would differ between processes
)
def test_a_damaged_idx_file(tmp_path, content):
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.gz .*fetch it again"):
        read_idx(path, (2, 3, 4))


def test_a_missing_idx_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.gz cannot be read"):
        read_idx(tmp_path / "none.gz", (1,))


def test_an_npz_file(tmp_path):
    np.savez_compressed(tmp_path / "d.npz", x=np.ones(3), y=np.arange(2))
    stored = read_npz(tmp_path / "d.npz", required=("x", "y"))
    assert sorted(stored) == ["x", "y"]
    with pytest.raises(DataError, match="lacks z: it holds x, y"):
        read_npz(tmp_path / "d.npz", required=("x", "z"))


def test_damaged_npz_files(tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.arange(10_000))
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:100], whole[:-30], whole[:60] + b"\xff" * 200 + whole[260:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"d\.npz cannot be read as npz"):
            read_npz(path, required=("x",))


def test_an_npy_file_is_not_an_npz_file(tmp_path):
    path = tmp_path / "d.npz"
    with path.open("wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(DataError, match="not an npz file"):
        read_npz(path, required=())


def test_pickled_objects_are_never_loaded(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="allow_pickle"):
        read_npz(path, required=("x",))
