"""Data sets by name and from files."""

import os
from pathlib import Path

import numpy as np
import pytest

from fedmesh.errors import ConfigError, DataError
from fedmesh.federation.datasets import NAMES, Dataset, load
from fedmesh.types import Examples

DATA = Path(os.environ.get("FEDMESH_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))


def needs(relative):
    reason = f"{relative} is not in the data directory: set FEDMESH_DATA (docs/data.md)"
    return pytest.mark.skipif(not (DATA / relative).exists(), reason=reason)


def test_digits():
    digits = load("digits")
    assert digits.x.shape == (1797, 1, 8, 8)
    assert digits.input_shape == (1, 8, 8)
    assert (digits.x.dtype, digits.y.dtype) == (np.float32, np.int64)
    assert (digits.x.min(), digits.x.max()) == (0, 1)
    assert np.bincount(digits.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.test is None
    assert digits.groups is None


@needs("fashion-mnist")
def test_fashion():
    fashion = load("fashion", DATA)
    assert fashion.x.shape == (60_000, 1, 28, 28)
    assert np.bincount(fashion.y).tolist() == [6000] * 10
    assert fashion.test.x.shape == (10_000, 1, 28, 28)
    assert (fashion.x.min(), fashion.x.max()) == (0, 1)
    assert [fashion.classes[label] for label in fashion.y[:3]] == ["Ankle boot", "T-shirt/top", "T-shirt/top"]


@needs("uci-har/hapt_windows.npz")
def test_har():
    har = load("har", DATA)
    assert har.input_shape == (9, 128)
    assert len(har.classes) == 6
    assert set(np.unique(har.y)) == set(range(6))
    assert 2 not in har.groups  # an official test subject
    assert len(np.unique(har.groups)) >= 16
    assert len(har.test) > 2000
    assert set(np.unique(har.test_groups)) == {2, 4, 9, 10, 12, 13, 18, 20, 24}
    assert not set(har.test_blocks) & set(har.blocks)
    # Lying down turns gravity from the first axis (vertical when upright) to the others.
    lying = har.classes.index("laying")
    assert np.abs(har.x[har.y == lying, 0].mean()) < 1 < har.x[har.y != lying, 0].mean()
    for block in np.unique(har.blocks)[:20]:
        inside = har.blocks == block
        assert len(np.unique(har.y[inside])) == len(np.unique(har.groups[inside])) == 1


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("fashion", "fashion-mnist"),
        ("har", r"uci-har/hapt_windows\.npz"),
        ("mnist", r"mnist-by-writer/mnist_by_writer\.npz"),
    ],
)
def test_a_missing_set_says_what_to_fetch_and_where_to_put_it(tmp_path, name, where):
    with pytest.raises(DataError, match=rf"--data DIR or set FEDMESH_DATA.*https://.*DIR/{where}"):
        load(name)
    with pytest.raises(DataError, match=rf"is not at {tmp_path}/{where}: fetch .*https://"):
        load(name, tmp_path)


def test_one_missing_fashion_file_is_named(tmp_path):
    (tmp_path / "fashion-mnist").mkdir()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        load("fashion", tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError, match=r"'cifar' is not a data set: use one of digits, fashion, har, mnist"):
        load("cifar")
    assert NAMES == ("digits", "fashion", "har", "mnist")
    assert issubclass(DataError, ConfigError)  # the command exits with 2


class TestFiles:
    def write(self, path, **arrays):
        np.savez(path / "set.npz", **arrays)
        return str(path / "set.npz")

    def test_the_least_that_is_needed(self, tmp_path):
        name = self.write(tmp_path, x=np.arange(12, dtype=np.uint8).reshape(4, 3), y=np.array([0, 2, 1, 2], np.uint8))
        found = load(name)
        assert found.name == name
        assert found.x.dtype == np.float32
        assert found.y.dtype == np.int64
        assert found.classes == ("0", "1", "2")

    def test_everything(self, tmp_path):
        name = self.write(
            tmp_path,
            x=np.zeros((4, 1, 2)),
            y=np.array([0, 1, 0, 1]),
            classes=np.array(["no", "yes", "perhaps"]),
            groups=np.array([7, 7, 9, 9], np.int8),
            blocks=np.array([0, 0, 1, 1]),
            test_x=np.ones((2, 1, 2)),
            test_y=np.array([2, 0]),
        )
        found = load(name)
        assert found.classes == ("no", "yes", "perhaps")
        assert found.groups.tolist() == [7, 7, 9, 9]
        assert len(found.test) == 2

    def test_classes_are_counted_over_both_parts(self, tmp_path):
        name = self.write(tmp_path, x=np.zeros((1, 2)), y=np.array([0]), test_x=np.ones((1, 2)), test_y=np.array([3]))
        assert len(load(name).classes) == 4

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
    def test_values_that_are_not_finite(self, tmp_path, bad):
        x = np.zeros((4, 3))
        x[2, 1] = bad
        with pytest.raises(DataError, match="1 of 4 examples hold NaN or infinity"):
            load(self.write(tmp_path, x=x, y=np.zeros(4, int)))
        with pytest.raises(DataError, match=r"\(test\): 1 of 4 examples"):
            load(self.write(tmp_path, x=np.zeros((2, 3)), y=np.zeros(2, int), test_x=x, test_y=np.zeros(4, int)))

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"y": np.zeros(3, int)}, r"x has shape \(4, 2\) and y \(3,\)"),
            ({"y": np.zeros((4, 1), int)}, "x has shape"),
            ({"y": np.zeros(4)}, "wanted integers"),
            ({"y": np.array([0, -1, 0, 0])}, "labels run from -1 to 0"),
            ({"y": np.array([0, 5, 0, 0]), "classes": np.array(["a", "b"])}, "labels run from 0 to 5, wanted 0 to 1"),
            ({"x": np.zeros(4)}, "x has shape"),
            ({"x": np.array(["a"] * 4)}, "wanted numbers"),
            ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, "no examples"),
            ({"groups": np.zeros(3, int)}, "groups has shape"),
            ({"groups": np.zeros(4)}, "wanted integers"),
            ({"labels": np.zeros(4)}, "unknown arrays labels"),
            ({"test_x": np.zeros((1, 2))}, "come together"),
            ({"test_x": np.zeros((1, 3)), "test_y": np.zeros(1, int)}, r"test examples have shape \(3,\)"),
            ({"classes": np.zeros((2, 2))}, "class"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path, change, why):
        with pytest.raises(DataError, match=why):
            load(self.write(tmp_path, **{"x": np.zeros((4, 2)), "y": np.zeros(4, int), **change}))

    def test_one_label_of_a_billion_is_not_a_billion_classes(self, tmp_path):
        path = self.write(tmp_path, x=np.zeros((2, 4), np.float32), y=np.array([0, 10**9]))
        with pytest.raises(DataError, match="labels run up to 1000000000"):
            load(path)

    def test_missing_arrays_and_files(self, tmp_path):
        with pytest.raises(DataError, match="lacks y"):
            load(self.write(tmp_path, x=np.zeros((4, 2))))
        with pytest.raises(DataError, match="there is no file"):
            load(str(tmp_path / "none.npz"))


def test_a_har_file_of_another_make(tmp_path):
    (tmp_path / "uci-har").mkdir()
    path = tmp_path / "uci-har" / "hapt_windows.npz"
    fields = {
        "y": np.zeros(2),
        "subject": np.ones(2),
        "split": np.zeros(2),
        "segment": np.zeros(2),
        "scale": np.ones(9),
    }
    np.savez(path, x=np.zeros((2, 9, 128)), **fields)
    with pytest.raises(DataError, match=r"wanted \[N, 128, 9\]"):
        load("har", tmp_path)
    np.savez(path, x=np.zeros((3, 128, 9)), **fields)
    with pytest.raises(DataError, match="one value for each of 3 windows"):
        load("har", tmp_path)


@needs("mnist-by-writer/mnist_by_writer.npz")
def test_mnist_by_writer():
    mnist = load("mnist", DATA)
    assert mnist.x.shape == (60_000, 1, 28, 28)
    assert mnist.test.x.shape == (10_000, 1, 28, 28)
    assert (mnist.x.dtype, mnist.x.min(), mnist.x.max()) == (np.float32, 0, 1)
    assert (len(np.unique(mnist.groups)), len(np.unique(mnist.test_groups))) == (539, 297)
    assert not set(mnist.groups) & set(mnist.test_groups)
    assert mnist.y[:5].tolist() == [5, 0, 4, 1, 9]


def test_an_mnist_file_of_another_make(tmp_path):
    (tmp_path / "mnist-by-writer").mkdir()
    path = tmp_path / "mnist-by-writer" / "mnist_by_writer.npz"
    fields = {"y": np.zeros(2, np.uint8), "writer": np.ones(2, np.int16), "split": np.zeros(2, np.uint8)}
    np.savez(path, x=np.zeros((2, 784), np.uint8), **fields)
    with pytest.raises(DataError, match=r"wanted uint8 \[N, 28, 28\]"):
        load("mnist", tmp_path)
    np.savez(path, x=np.zeros((3, 28, 28), np.uint8), **fields)
    with pytest.raises(DataError, match="one value for each of 3 images"):
        load("mnist", tmp_path)
    np.savez(path, x=np.zeros((2, 28, 28), np.uint8), **fields)
    mnist = load("mnist", tmp_path)
    assert (len(mnist.y), mnist.test, mnist.test_groups) == (2, None, None)


def test_a_dataset_checks_itself():
    with pytest.raises(DataError, match="NaN"):
        Dataset("d", np.full((1, 2), np.nan, np.float32), np.zeros(1, np.int64), ("a",))
    with pytest.raises(DataError, match="blocks has shape"):
        Dataset("d", np.zeros((1, 2), np.float32), np.zeros(1, np.int64), ("a",), blocks=np.zeros(2, np.int64))
    test = Examples(np.zeros((1, 2), np.float32), np.ones(1, np.int64))
    with pytest.raises(DataError, match=r"\(test\)"):
        Dataset("d", np.zeros((1, 2), np.float32), np.zeros(1, np.int64), ("a",), test=test)
