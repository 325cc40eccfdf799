"""The fake quantization of `rounding_ops` in numpy alone, for a device without torch: the same values to the last bit.

There is no straight-through estimator to write: a weight scale never saturates, so the gradient of the rounded weights
is that of the master weights as it is.
"""

import numpy as np

from fedmesh.quantization.grids import ActivationGrid, Scales
from fedmesh.types import Float32

__all__ = ["quantize_activation", "quantize_weights", "weight_scales"]

_LEVELS = 127  # as WEIGHT_LEVELS and the smallest absmax of `rounding_ops`, which imports torch
_SMALLEST_ABSMAX = np.float32(2.0**-32)
_ANCHOR = 1.5 * 2.0**23
"""Added to a value in units of its grid and taken off again, it makes the float32 adder round half to even."""


def quantize_activation(x: Float32, grid: ActivationGrid) -> Float32:
    """`x`, any shape, clipped to the grid and rounded to it, half to even; a new array."""
    values: Float32 = np.clip(x, np.float32(grid.low), np.float32(grid.high))
    if grid.scales == "free":
        values /= np.float32(grid.step)
        np.rint(values, out=values)
        values *= np.float32(grid.step)
        return values
    anchor = np.float32(grid.step * _ANCHOR)
    values += anchor
    values -= anchor
    return values


def weight_scales(weight: Float32, scales: Scales) -> Float32:
    """Scale of each output channel of `weight`, [out, in], float32 [out].

    absmax / 127, rounded up to a power of two under power-of-two scales.
    """
    absmax: Float32 = np.maximum(np.abs(weight).max(axis=1), _SMALLEST_ABSMAX)
    if scales == "free":
        absmax /= np.float32(_LEVELS)
        return absmax
    # absmax = mantissa * 2**exponent, and 127 * 2**k = 127/128 * 2**(k + 7).
    mantissa, exponent = np.frexp(absmax)
    power: Float32 = np.ldexp(np.float32(1), exponent - np.where(mantissa <= np.float32(_LEVELS / 128), 7, 6))
    return power


def quantize_weights(weight: Float32, scales: Scales) -> Float32:
    """`weight`, [out, in], on the multiples of its channels' scales, half to even; a new array."""
    column = weight_scales(weight, scales)[:, np.newaxis]
    if scales == "free":
        values: Float32 = np.rint(weight / column)
        values *= column
        return values
    anchor = column * np.float32(_ANCHOR)
    values = weight + anchor
    values -= anchor
    return values
