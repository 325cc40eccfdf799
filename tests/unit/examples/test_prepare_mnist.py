"""The script that makes the mnist file, on a few synthetic digits."""

import gzip
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest

from fedmesh.federation.datasets import load

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "examples" / "prepare_mnist.py"))


def write_idx(path, array, kind):
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def write_parts(folder):
    rng = np.random.default_rng(1)
    folder.mkdir()
    labels = {"train": np.array([3, 1, 4, 1], np.uint8), "t10k": np.array([5, 9], np.uint8)}
    for name, y in labels.items():
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", rng.integers(0, 256, (len(y), 28, 28), np.uint8), 0x08)
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", y, 0x08)
    for name, y in (("train", labels["train"]), ("test", np.append(labels["t10k"], [7, 7]))):
        rows = np.zeros((len(y), 8), ">i4")
        rows[:, 0], rows[:, 2] = y, 100 + np.arange(len(y)) // 2 + 50 * (name == "test")
        write_idx(folder / f"qmnist-{name}-labels-idx2-int.gz", rows, 0x0C)


def test_a_few_digits(script, tmp_path):
    write_parts(tmp_path / "raw")
    script["main"](str(tmp_path / "raw"), str(tmp_path / "data" / "mnist-by-writer" / "mnist_by_writer.npz"))
    mnist = load("mnist", tmp_path / "data")
    assert mnist.y.tolist() == [3, 1, 4, 1]
    assert mnist.groups.tolist() == [100, 100, 101, 101]
    assert mnist.test.y.tolist() == [5, 9]
    assert mnist.test_groups.tolist() == [150, 150]


def test_labels_of_other_digits_are_refused(script, tmp_path):
    write_parts(tmp_path / "raw")
    write_idx(tmp_path / "raw" / "train-labels-idx1-ubyte.gz", np.array([3, 1, 4, 2], np.uint8), 0x08)
    with pytest.raises(SystemExit, match="fetch the files again"):
        script["main"](str(tmp_path / "raw"), str(tmp_path / "out.npz"))
