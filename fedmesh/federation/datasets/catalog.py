"""Data sets, found by name or read from an npz file: bounded, checked, finite.

`digits` comes with scikit-learn; `fashion`, `har` and `mnist` lie in a data directory, laid out as docs/data.md says. A
set that is missing is an error that says what to fetch from where. Nothing is downloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import DataError
from fedmesh.federation.datasets.files import read_idx, read_npz
from fedmesh.types import Examples

__all__ = ["NAMES", "Dataset", "load"]

FASHION_DIRECTORY = "fashion-mnist"
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
HAR_FILE = "uci-har/hapt_windows.npz"
HAR_CLASSES = ("walking", "upstairs", "downstairs", "sitting", "standing", "laying")
MNIST_FILE = "mnist-by-writer/mnist_by_writer.npz"
MOST_CLASSES = 65_536  # one label of a billion must not come to a billion names
# Public constants that bring g, g and rad/s to a common range of about +-4: one activation scale serves all channels.
HAR_GAIN = np.array([2, 2, 2, 4, 4, 4, 2, 2, 2], np.float32)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A labelled data set.

    Attributes:
        name: what it was asked for by.
        x: float32 [N, ...], channels first, finite; y: int64 [N], 0 to ``len(classes) - 1``.
        classes: a name for each label.
        groups: int64 [N], natural ids (a person, a writer), or None.
        blocks: int64 [N]; examples of one block overlap (windows of one recording) and must not be split between
            training and evaluation. None: every example stands alone.
        test: the official test examples, when there are such; they are in no device's hands.
        test_groups: their ids, int64 [len(test)], or None; in one numbering with `groups`.
        test_blocks: likewise.
    """

    name: str
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None = None
    blocks: NDArray[np.int64] | None = None
    test: Examples | None = None
    test_groups: NDArray[np.int64] | None = None
    test_blocks: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        _check(self.name, self.x, self.y, len(self.classes))
        for what, ids in (("groups", self.groups), ("blocks", self.blocks)):
            if ids is not None and ids.shape != self.y.shape:
                raise DataError(f"{self.name}: {what} has shape {ids.shape}, wanted one id for each of {len(self.y)}")
        tested = 0 if self.test is None else len(self.test)
        for what, ids in (("test_groups", self.test_groups), ("test_blocks", self.test_blocks)):
            if ids is not None and ids.shape != (tested,):
                raise DataError(f"{self.name}: {what} has shape {ids.shape}, wanted one id for each of {tested}")
        if self.test is not None:
            _check(f"{self.name} (test)", self.test.x, self.test.y, len(self.classes))
            if self.test.x.shape[1:] != self.x.shape[1:]:
                raise DataError(
                    f"{self.name}: test examples have shape {self.test.x.shape[1:]}, the others {self.x.shape[1:]}"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.x.shape[1:]


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """The data set `name`: one of `NAMES`, or the path of an npz file (see docs/data.md).

    Raises:
        DataError: unknown, missing, malformed or not finite; the message says what to do.
    """
    if name.endswith(".npz"):
        return _file(Path(name).expanduser())
    if name not in _LOADERS:
        raise DataError(f"{name!r} is not a data set: use one of {', '.join(NAMES)}, or the path of an .npz file")
    return _LOADERS[name](data_dir)


def _digits(_: Path | None) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits come with scikit-learn: pip install 'fedmesh[simulation]'") from error
    digits = load_digits()
    x = (digits.images / 16.0).astype(np.float32)[:, np.newaxis]
    return Dataset("digits", x, digits.target.astype(np.int64), tuple("0123456789"))


def _fashion(data_dir: Path | None) -> Dataset:
    folder = _find(
        data_dir, FASHION_DIRECTORY, "fashion",
        "the four files *-ubyte.gz from https://github.com/zalandoresearch/fashion-mnist (data/fashion)",
    )  # fmt: skip
    parts = []
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", (count, 28, 28))
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", (count,))
        x = np.multiply(images[:, np.newaxis], np.float32(1 / 255), dtype=np.float32)
        parts.append(Examples(x, labels.astype(np.int64)))
    train, test = parts
    return Dataset("fashion", train.x, train.y, FASHION_CLASSES, test=test)


def _har(data_dir: Path | None) -> Dataset:
    path = _find(
        data_dir, HAR_FILE, "har",
        "the npz that examples/prepare_hapt.py makes from https://archive.ics.uci.edu/dataset/341",
    )  # fmt: skip
    stored = read_npz(path, required=("x", "y", "scale", "subject", "split", "segment"))
    x, y = stored["x"], stored["y"]
    if x.ndim != 3 or x.shape[1:] != (128, 9) or stored["scale"].shape != (9,):
        raise DataError(f"{path}: x has shape {x.shape}, wanted [N, 128, 9] with 9 scales: make it again")
    if any(stored[key].shape != (len(x),) for key in ("y", "subject", "split", "segment")):
        raise DataError(f"{path}: y, subject, split and segment do not have one value for each of {len(x)} windows")
    windows = np.ascontiguousarray((x * (stored["scale"].astype(np.float32) * HAR_GAIN)).transpose(0, 2, 1), np.float32)
    basic = y < len(HAR_CLASSES)  # the six activities; 6 to 11 are postural transitions
    train, test = basic & (stored["split"] == 0), basic & (stored["split"] == 1)
    labels = y.astype(np.int64)
    return Dataset(
        "har", windows[train], labels[train], HAR_CLASSES,
        groups=stored["subject"][train].astype(np.int64),
        blocks=stored["segment"][train].astype(np.int64),
        test=Examples(windows[test], labels[test]) if test.any() else None,
        test_groups=stored["subject"][test].astype(np.int64) if test.any() else None,
        test_blocks=stored["segment"][test].astype(np.int64) if test.any() else None,
    )  # fmt: skip


def _mnist(data_dir: Path | None) -> Dataset:
    path = _find(
        data_dir, MNIST_FILE, "mnist",
        "the npz that examples/prepare_mnist.py makes of MNIST and of https://github.com/facebookresearch/qmnist",
    )  # fmt: skip
    stored = read_npz(path, required=("x", "y", "writer", "split"))
    x, y = stored["x"], stored["y"]
    if x.ndim != 3 or x.shape[1:] != (28, 28) or x.dtype != np.uint8:
        raise DataError(f"{path}: x is {x.dtype} of shape {x.shape}, wanted uint8 [N, 28, 28]: make it again")
    if any(stored[key].shape != (len(x),) for key in ("y", "writer", "split")):
        raise DataError(f"{path}: y, writer and split do not have one value for each of {len(x)} images")
    images = np.multiply(x[:, np.newaxis], np.float32(1 / 255), dtype=np.float32)
    labels, writers = _labels(path, y), _labels(path, stored["writer"])
    train, test = stored["split"] == 0, stored["split"] == 1
    return Dataset(
        "mnist", images[train], labels[train], tuple("0123456789"),
        groups=writers[train],
        test=Examples(images[test], labels[test]) if test.any() else None,
        test_groups=writers[test] if test.any() else None,
    )  # fmt: skip


def _file(path: Path) -> Dataset:
    if not path.is_file():
        raise DataError(f"there is no file {path}: give the path of an .npz file with x and y")
    stored = read_npz(path, required=("x", "y"))
    unknown = set(stored) - {"x", "y", "classes", "groups", "blocks", "test_x", "test_y"}
    if unknown:
        raise DataError(f"{path}: unknown arrays {', '.join(sorted(unknown))}; see docs/data.md for what is read")
    y = _labels(path, stored["y"])
    test = None
    if ("test_x" in stored) != ("test_y" in stored):
        raise DataError(f"{path}: test_x and test_y come together or not at all")
    if "test_x" in stored:
        test = Examples(_floats(path, stored["test_x"]), _labels(path, stored["test_y"]))
    top = max([-1, *(int(labels.max()) for labels in (y, *([test.y] if test else [])) if labels.size)])
    if top >= MOST_CLASSES:
        raise DataError(
            f"{path}: labels run up to {top}, wanted 0 to {MOST_CLASSES - 1} at most: number the classes from 0"
        )
    given = stored.get("classes", np.arange(top + 1))
    if given.ndim != 1:
        raise DataError(f"{path}: classes has shape {given.shape}, wanted one name for each class")
    classes = tuple(map(str, given.tolist()))
    ids = {key: _labels(path, stored[key]) for key in ("groups", "blocks") if key in stored}
    return Dataset(str(path), _floats(path, stored["x"]), y, classes, test=test, **ids)


def _floats(path: Path, array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path}: x is of type {array.dtype}, wanted numbers")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def _labels(path: Path, array: NDArray[Any]) -> NDArray[np.int64]:
    if array.dtype.kind not in "iu":
        raise DataError(f"{path}: labels and ids are of type {array.dtype}, wanted integers")
    return array.astype(np.int64)


def _find(data_dir: Path | None, relative: str, name: str, source: str) -> Path:
    if data_dir is None:
        raise DataError(
            f"the data set {name} needs a data directory: pass --data DIR or set FEDMESH_DATA, and put {source} at "
            f"DIR/{relative}"
        )
    path = data_dir / relative
    if not path.exists():
        raise DataError(f"the data set {name} is not at {path}: fetch {source} and put it there")
    return path


def _check(name: str, x: NDArray[np.float32], y: NDArray[np.int64], classes: int) -> None:
    if y.ndim != 1 or x.ndim < 2 or len(x) != len(y):
        raise DataError(f"{name}: x has shape {x.shape} and y {y.shape}, wanted [N, ...] and [N]")
    if len(y) == 0:
        raise DataError(f"{name}: there are no examples")
    if not np.isfinite(x).all():
        bad = int(np.count_nonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1)))
        raise DataError(f"{name}: {bad} of {len(x)} examples hold NaN or infinity: repair or remove them")
    if y.min() < 0 or y.max() >= classes:
        raise DataError(f"{name}: labels run from {y.min()} to {y.max()}, wanted 0 to {classes - 1}")


_LOADERS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": _digits, "fashion": _fashion, "har": _har, "mnist": _mnist,
}  # fmt: skip
NAMES = tuple(_LOADERS)
