"""Per-sample gradients of convolutions and linear layers, in the shape of an Opacus grad sampler.

Exact for the quantized layers too: their weight scale never saturates, so the straight-through estimator is the
identity and the ordinary formulas hold on the quantized input. Grouped and depthwise convolutions are one batched
matrix product (not the full channel-by-channel product of which the diagonal is kept).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["convolution", "linear"]


def linear(x: Tensor, backprops: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``y = x W^T + b`` for each sample.

    Args:
        x: [B, in]. backprops: dL/dy [B, out].

    Returns:
        weight [B, out, in] and bias [B, out].
    """
    return backprops.unsqueeze(2) * x.unsqueeze(1), backprops


def convolution(
    x: Tensor,
    backprops: Tensor,
    *,
    weight_shape: torch.Size,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of a 1-d or 2-d convolution for each sample.

    Args:
        x: [B, in, L] or [B, in, H, W]. backprops: dL/dy, [B, out, L'] or [B, out, H', W'].
        weight_shape: [out, in / groups, *kernel].

    Returns:
        weight [B, *weight_shape] and bias [B, out]; B may be 0.
    """
    samples, out = backprops.shape[:2]
    kernel = tuple(weight_shape[2:])
    if samples == 0:
        return backprops.new_zeros(0, *weight_shape), backprops.new_zeros(0, out)
    if len(kernel) == 1:  # im2col is two-dimensional: a sequence is an image of height 1
        x = x.unsqueeze(2)
        kernel, stride, padding, dilation = (1, *kernel), (1, *stride), (0, *padding), (1, *dilation)
    columns = F.unfold(x, kernel, dilation=dilation, padding=padding, stride=stride)  # [B, in * K, L']
    flat = backprops.reshape(samples, out, -1)
    grad = flat.reshape(samples * groups, out // groups, -1) @ columns.reshape(
        samples * groups, -1, flat.shape[2]
    ).transpose(1, 2)
    return grad.reshape(samples, *weight_shape), flat.sum(2)
