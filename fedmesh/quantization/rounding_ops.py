"""Fake quantization as torch operations: integer levels held in float32, gradients by the straight-through estimator.

Under power-of-two scales a value is rounded (half to even) by adding and subtracting ``1.5 * 2**23 * scale``: the sum's
last bit is worth `scale`, so the float adder does the rounding, in two passes whose gradient is the identity (Hacker's
Delight; the straight-through estimator of Bengio et al. 2013). Everything here holds under `torch.func` transforms.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from fedmesh.quantization.grids import Scales

__all__ = ["WEIGHT_LEVELS", "quantize_activation", "quantize_weights", "weight_scales"]

WEIGHT_LEVELS = 127
"""Weights use -127..127: symmetric, so that negation is exact."""

_BIAS_LEVELS = 2.0**22  # a bias stays a quarter of the largest accumulator that float32 holds exactly
_SMALLEST_ABSMAX = 2.0**-32  # of a channel whose weights are all zero


@dataclass(frozen=True, slots=True)
class _Format:
    """A floating-point format, as tensors: mixing Python numbers in costs more than the arithmetic on a few channels.

    Attributes:
        integers: integer type of the same width.
        rounding: added to the bits of absmax, carries into the exponent exactly when absmax > 127 * 2**k, and takes
            off the 6 binary places by which 127 exceeds 1.
        exponent: mask of the exponent bits.
        anchor: 1.5 * 2**fraction bits. floor: the smallest absmax.
    """

    integers: torch.dtype
    rounding: Tensor
    exponent: Tensor
    anchor: Tensor
    floor: Tensor


def _format(floats: torch.dtype, integers: torch.dtype, fraction_bits: int, exponent_mask: int) -> _Format:
    one = 1 << fraction_bits
    return _Format(
        integers,
        torch.tensor(one - 1 - (one // 64) * (WEIGHT_LEVELS - 64) - 6 * one, dtype=integers),
        torch.tensor(exponent_mask << fraction_bits, dtype=integers),
        torch.tensor(1.5 * 2.0**fraction_bits, dtype=floats),
        torch.tensor(_SMALLEST_ABSMAX, dtype=floats),
    )


_ULPS = {torch.float32: 2.0**23, torch.float64: 2.0**52}

_FORMATS = {
    torch.float32: _format(torch.float32, torch.int32, 23, 0xFF),
    torch.float64: _format(torch.float64, torch.int64, 52, 0x7FF),
}


def weight_scales(weight: Tensor, bias: Tensor | None, input_scale: float, scales: Scales) -> Tensor:
    """Scale of each output channel, recomputed from the master weights, so that nothing saturates.

    Args:
        weight: [out, ...], output channels first, float32 (float64 in tests). bias: [out] or None.
        input_scale: scale of the layer's input.

    Returns:
        [out], no gradient: absmax / 127, widened where the bias would need more than 23 bits at ``input_scale *
        scale``, and rounded up to a power of two under power-of-two scales.
    """
    numbers = _FORMATS[weight.dtype]
    absmax = weight.detach().abs().amax(tuple(range(1, weight.dim())))
    floor = numbers.floor
    if bias is not None:
        floor = torch.add(floor, bias.detach().abs(), alpha=WEIGHT_LEVELS / (input_scale * _BIAS_LEVELS))
    absmax = torch.maximum(absmax, floor)
    if scales == "free":
        return absmax.div_(WEIGHT_LEVELS)
    bits = (absmax.view(numbers.integers) + numbers.rounding).bitwise_and_(numbers.exponent)
    return bits.view(weight.dtype)


def quantize_weights(
    weight: Tensor, bias: Tensor | None, scale: Tensor, input_scale: float, scales: Scales
) -> tuple[Tensor, Tensor | None]:
    """`weight` [out, ...] on multiples of `scale` [out], `bias` on those of ``scale * input_scale``.

    Rounds half to even; gradients pass unchanged.
    """
    column = scale.reshape(-1, *[1] * (weight.dim() - 1))
    if scales == "free":
        return _rounded(weight, column), None if bias is None else _rounded(bias, scale * input_scale)
    anchor = column * _FORMATS[weight.dtype].anchor
    rounded = _anchored(weight, anchor)
    return rounded, None if bias is None else _anchored(bias, anchor.reshape(-1) * _constant(input_scale, bias.dtype))


def quantize_activation(x: Tensor, scale: float, low: float, high: float, *, scales: Scales, offset: int = 0) -> Tensor:
    """`x` clipped to [low, high] and rounded (half to even) to multiples of `scale`; gradient 1 inside, 0 outside.

    With `low` 0 this is ReLU and quantizer in one. The clipped copy is rounded in place behind autograd's back:
    hardtanh's backward reads its input, never its result.

    Args:
        x: any shape. low, high: multiples of `scale`.
        offset: zero point that is added before rounding and taken off after, as ONNX Runtime's pooling does it: that
            differs only where the sum is beyond float32's precision.
    """
    clipped = F.hardtanh(x, low, high)
    values = clipped.detach()
    if scales == "free" or offset:
        values.div_(scale).add_(offset).round_().sub_(offset).mul_(scale)
    else:
        anchor = _constant(scale * 1.5 * _ULPS[x.dtype], x.dtype)
        values.add_(anchor).sub_(anchor)
    return clipped


@lru_cache(maxsize=1024)
def _constant(value: float, dtype: torch.dtype) -> Tensor:
    """`value` as a tensor without axes: torch would make one in every call."""
    return torch.tensor(value, dtype=dtype)


def _anchored(values: Tensor, anchor: Tensor) -> Tensor:
    rounded = values + anchor
    rounded.detach().sub_(anchor)  # behind autograd's back: one node less to walk
    return rounded


def _rounded(values: Tensor, grid: Tensor) -> Tensor:
    copy = values.clone()
    copy.detach().div_(grid).round_().mul_(grid)
    return copy
