"""Histograms of oriented gradients (Dalal and Triggs 2005) of upright images, without block normalisation.

A pixel votes for a direction with the fourth power of the cosine between it and its gradient, and for the cells around
it linearly; a histogram's square roots are the features (Arandjelovic and Zisserman 2012). No trigonometric function
meets a pixel, so the votes are the same in every batch.
"""

from collections.abc import Iterator

import numpy as np

from fedmesh.errors import ConfigError
from fedmesh.features.extractors import Extract
from fedmesh.features.upright import upright as set_upright
from fedmesh.types import Float32

__all__ = ["hog"]

_LARGEST_SIDE = 1 << 12
_SMALLEST = np.float32(1e-6)


def hog(input_shape: tuple[int, ...], *, cell: int = 4, directions: int = 8, upright: bool = True) -> Extract:
    """The histograms of images [1, H, W]: `directions` for each of (H // cell) x (W // cell) cells.

    Args:
        input_shape: of one image. cell: side of a cell, pixels. directions: of a whole turn.
        upright: whether position, slant and size are taken out first, see `fedmesh.features.upright`.

    Raises:
        ConfigError: the examples are no images of one channel, or an option is out of range.
    """
    if len(input_shape) != 3 or input_shape[0] != 1:
        raise ConfigError(
            f"hog takes images of one channel, [1, height, width], not {list(input_shape)}: choose other features"
        )
    _, height, width = input_shape
    if not (1 <= height <= _LARGEST_SIDE and 1 <= width <= _LARGEST_SIDE):
        raise ConfigError(f"hog takes images of up to {_LARGEST_SIDE} pixels a side, not {list(input_shape)}")
    if type(cell) is not int or not 2 <= cell <= min(height, width):
        raise ConfigError(f"hog's cell is {cell!r}, wanted a side of 2 to {min(height, width)} pixels")
    if type(directions) is not int or not 2 <= directions <= 64:
        raise ConfigError(f"hog's directions is {directions!r}, wanted 2 to 64")
    if type(upright) is not bool:
        raise ConfigError(f"hog's upright is {upright!r}, wanted true or false")
    down, across = _cells(height, cell), _cells(width, cell).T.copy()

    def extract(x: Float32) -> Float32:
        images = set_upright(x[:, 0]) if upright else x[:, 0]
        histograms = [down @ votes @ across for votes in _votes(images, directions)]
        features: Float32 = np.sqrt(np.stack(histograms, axis=1).reshape(len(x), -1))
        return features

    return extract


def _votes(images: Float32, directions: int) -> Iterator[Float32]:
    """For one direction after the other, what each pixel gives it, [N, H, W]."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    x = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    y = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    size = np.sqrt(x * x + y * y) + _SMALLEST
    for angle in np.arange(directions) * (2 * np.pi / directions):
        vote = np.maximum(x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle)), 0)
        share = vote / size
        share *= share
        share *= share
        yield vote * share


def _cells(length: int, cell: int) -> Float32:
    """The weight of each of `length` pixels in each cell: a triangle of two cells' width, [cells, length]."""
    count = length // cell
    centres = (np.arange(count) + 0.5) * cell - 0.5
    weights = 1 - np.abs(np.arange(length) - centres[:, None]) / cell
    return np.maximum(weights, 0).astype(np.float32)
