"""Makes the file of the data set `mnist`: MNIST's images with the writers that QMNIST found for them.

    python examples/prepare_mnist.py FOLDER DATA/mnist-by-writer/mnist_by_writer.npz

FOLDER holds MNIST's {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz (LeCun et al. 1998) and, of
https://github.com/facebookresearch/qmnist (Yadav and Bottou 2019), qmnist-{train,test}-labels-idx2-int.gz.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

TYPES = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}
CLASS, WRITER = 0, 2  # columns of QMNIST's extended labels


def read_idx(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes())
    kind, axes = data[2], data[3]
    shape = np.frombuffer(data, ">i4", axes, 4)
    return np.frombuffer(data, TYPES[kind], offset=4 + 4 * axes).reshape(shape)


def part(folder: Path, images: str, writers: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and writers of one part; QMNIST's rows follow MNIST's order, its test part goes on beyond it."""
    x = read_idx(folder / f"{images}-images-idx3-ubyte.gz")
    y = read_idx(folder / f"{images}-labels-idx1-ubyte.gz")
    rows = read_idx(folder / f"qmnist-{writers}-labels-idx2-int.gz")[: len(y)]
    if not np.array_equal(rows[:, CLASS], y):
        sys.exit(f"QMNIST's {writers} labels are not those of MNIST's {images} part: fetch the files again")
    return x, y, rows[:, WRITER].astype(np.int16)


def main(folder: str, out: str) -> None:
    parts = [part(Path(folder), *names) for names in (("train", "train"), ("t10k", "test"))]
    x, y, writer = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    split = np.repeat(np.arange(2, dtype=np.uint8), [len(labels) for _, labels, _ in parts])
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out, x=x, y=y, writer=writer, split=split)
    print(f"{len(y)} digits of {len(np.unique(writer))} writers in {out}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
