"""Batch normalization with frozen statistics is an affine map of the layer before it: it disappears into its weights.

Folding is done in float64 once, so that the float32 weights are off by one rounding (2e-8 relative).
"""

import torch
from torch import Tensor, nn

from fedmesh.errors import UnsupportedLayerError

__all__ = ["fold"]


def fold(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that computes ``norm(layer(x))``.

    Args:
        weight: [out, ...]. bias: [out] or None. norm: over `out` channels, with running statistics.

    Returns:
        weight and bias, in the dtype of `weight`.

    Raises:
        UnsupportedLayerError: the norm has no running statistics, so its output depends on the batch.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise UnsupportedLayerError(
            "a batch norm without running statistics cannot be folded: construct it with track_running_stats=True"
        )
    gain = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        gain = gain * norm.weight.detach().double()
    shift = -norm.running_mean.double() * gain
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    if bias is not None:
        shift = shift + bias.detach().double() * gain
    folded = weight.detach().double() * gain.reshape(-1, *[1] * (weight.dim() - 1))
    return folded.to(weight.dtype), shift.to(weight.dtype)
