"""Images of single signs, moved to the middle, set upright and brought to one size by their moments.

Slant is taken out by a shear along the rows, as for handwritten digits in LeCun et al. 1998; position and extent by
the first and second moments. The moments are of integers, and so exact in any order of summation.
"""

import numpy as np

from fedmesh.types import Float32

__all__ = ["upright"]

_LEVELS = 1024
"""Grey levels of the moments: sums of 2^26 pixels' second moments stay exact in float64."""
_HEIGHT, _WIDTH = 0.2, 0.15
"""Wanted standard deviations of the ink along rows' and columns' axis, as shares of the image's sides."""
_ZOOM_HEIGHT, _ZOOM_WIDTH = (0.6, 1.3), (0.5, 1.15)
"""Bounds of the source's extent over the wanted one: a stroke or a speck is not blown up to a picture."""


def upright(images: Float32) -> Float32:
    """The images [N, H, W] normalised, ink positive and background 0; an empty one stays as it is. Deterministic."""
    _, height, width = images.shape
    centre_y, centre_x, slant, zoom_y, zoom_x = _frame(images)
    rows = np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)
    columns = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)
    y = zoom_y[:, None] * rows
    x = (centre_x[:, None] + slant[:, None] * y)[:, :, None] + (zoom_x[:, None] * columns)[:, None, :]
    return _between_columns(_between_rows(images, centre_y[:, None] + y), x)


def _frame(images: Float32) -> tuple[Float32, ...]:
    """Centre (y, x), shear of the rows, and zoom (y, x) of each image, [N] each."""
    count, height, width = images.shape
    ink = np.rint(np.clip(images, 0, 1) * np.float32(_LEVELS)).astype(np.float64)
    y, x = (axis.ravel().astype(np.float64) for axis in np.mgrid[:height, :width])
    sums = ink.reshape(count, -1) @ np.stack([np.ones_like(x), y, x, y * y, x * x, x * y], axis=1)
    blank = sums[:, 0] == 0
    mass, sum_y, sum_x, sum_yy, sum_xx, sum_xy = sums.T
    mass = np.where(blank, 1.0, mass)
    centre_y = np.where(blank, (height - 1) / 2, sum_y / mass)
    centre_x = np.where(blank, (width - 1) / 2, sum_x / mass)
    across = sum_xy / mass - centre_y * centre_x
    down = np.maximum(sum_yy / mass - centre_y * centre_y, 1e-6)
    slant = np.where(blank, 0.0, np.clip(across / down, -1, 1))
    along = np.maximum(sum_xx / mass - centre_x * centre_x - slant * across, 1.0)
    zoom_y = np.clip(np.sqrt(down) / (_HEIGHT * height), *_ZOOM_HEIGHT)
    zoom_x = np.clip(np.sqrt(along) / (_WIDTH * width), *_ZOOM_WIDTH)
    zoom_y, zoom_x = np.where(blank, 1.0, zoom_y), np.where(blank, 1.0, zoom_x)
    return tuple(part.astype(np.float32) for part in (centre_y, centre_x, slant, zoom_y, zoom_x))


def _between_rows(images: Float32, y: Float32) -> Float32:
    """The images' rows y [N, H], 0 outside: linear between two rows."""
    count, height, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 2), (0, 0)))
    y = np.clip(y + 1, 0, height + 1)
    first = y.astype(np.intp)
    below = (y - first.astype(np.float32))[:, :, None]
    image = np.arange(count)[:, None]
    upper = padded[image, first]
    found: Float32 = upper + below * (padded[image, first + 1] - upper)
    return found


def _between_columns(images: Float32, x: Float32) -> Float32:
    """The images at columns x [N, H, W], 0 outside: linear between two columns."""
    count, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (1, 2)))
    x = np.clip(x + 1, 0, width + 1)
    first = x.astype(np.intp)
    beside = x - first.astype(np.float32)
    first += (np.arange(count * height) * padded.shape[2]).reshape(count, height, 1)
    left = padded.take(first)
    right = padded.take(first + 1)
    found: Float32 = left + beside * (right - left)
    return found
