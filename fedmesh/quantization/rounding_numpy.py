"""The fake quantization of `rounding_ops` in numpy alone, for a device without torch: the same values to the last bit.

There is no straight-through estimator to write: a weight scale never saturates, so the gradient of the rounded weights
is that of the master weights as it is.
"""

import numpy as np

from fedmesh.quantization.grids import ActivationGrid, Scales
from fedmesh.types import Float32

__all__ = ["quantize_activation", "quantize_weights", "weight_scales"]

_LEVELS = 127  # as WEIGHT_LEVELS, the smallest absmax and the levels of a bias of `rounding_ops`, which imports torch
_SMALLEST_ABSMAX = np.float32(2.0**-32)
_BIAS_LEVELS = 2.0**22
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


def weight_scales(weight: Float32, scales: Scales, bias: Float32 | None = None, *, input_scale: float = 1.0) -> Float32:
    """Scale of each output channel of `weight`, [out, in], float32 [out].

    absmax / 127, widened where `bias`, [out], would need more than 23 bits at ``input_scale * scale``, and rounded up
    to a power of two under power-of-two scales.
    """
    floor: np.float32 | Float32 = _SMALLEST_ABSMAX
    if bias is not None:  # in float64, rounded once: the fused multiply and add that torch does
        widened = np.abs(bias).astype(np.float64) * float(np.float32(_LEVELS / (input_scale * _BIAS_LEVELS)))
        floor = (widened + float(_SMALLEST_ABSMAX)).astype(np.float32)
    absmax: Float32 = np.maximum(np.abs(weight).max(axis=1), floor)
    if scales == "free":
        absmax /= np.float32(_LEVELS)
        return absmax
    # absmax = mantissa * 2**exponent, and 127 * 2**k = 127/128 * 2**(k + 7).
    mantissa, exponent = np.frexp(absmax)
    power: Float32 = np.ldexp(np.float32(1), exponent - np.where(mantissa <= np.float32(_LEVELS / 128), 7, 6))
    return power


def quantize_weights(
    weight: Float32, scales: Scales, bias: Float32 | None = None, *, input_scale: float = 1.0
) -> tuple[Float32, Float32 | None]:
    """`weight`, [out, in], and `bias`, [out], rounded half to even to multiples of their grids; new arrays.

    The grids are the channels' scales, and ``input_scale * scale``.
    """
    column = weight_scales(weight, scales, bias, input_scale=input_scale)[:, np.newaxis]
    rounded = _rounded(weight, column, scales)
    if bias is None:
        return rounded, None
    return rounded, _rounded(bias, column[:, 0] * np.float32(input_scale), scales)


def _rounded(values: Float32, grid: Float32, scales: Scales) -> Float32:
    """`values` on the multiples of `grid`, which broadcasts to their shape, half to even; a new array."""
    if scales == "free":
        found: Float32 = np.rint(values / grid)
        found *= grid
        return found
    anchor = grid * np.float32(_ANCHOR)
    found = values + anchor
    found -= anchor
    return found
