"""Layers of K models at once: weights with an axis of models in front, examples as K equal blocks of one batch.

Example ``k * B + b`` is the b-th of model k, so that everything without weights works on the batch as it is. A linear
layer is one batched matrix product; `patches` holds the convolutions. Under power-of-two scales the outputs are those
of the models one by one bit for bit, since every sum is exact; gradients agree up to float32 rounding.
"""

import torch
from torch import Tensor

from fedmesh.quantization.patches import GatheredLines, GatheredPatches, Geometry, thin

__all__ = ["convolution", "linear"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``y = x W^T + b`` for each model.

    Args:
        x: [K * B, in]. weight: [K, out, in]. bias: [K, out] or None.

    Returns:
        [K * B, out].
    """
    blocks = x.reshape(len(weight), -1, x.shape[1])
    if bias is None:
        return torch.bmm(blocks, weight.mT).flatten(0, 1)
    return torch.baddbmm(bias.unsqueeze(1), blocks, weight.mT).flatten(0, 1)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """A 1-d or 2-d convolution for each model.

    Args:
        x: [K * B, in, L] or [K * B, in, H, W]. weight: [K, out, in / groups, *kernel]. bias: [K, out] or None.

    Returns:
        [K * B, out, L'] or [K * B, out, H', W'], the channels innermost in memory.
    """
    if weight.dim() == 4:  # a sequence is an image of height 1
        image = convolution(
            x.unsqueeze(2),
            weight.unsqueeze(3),
            bias,
            stride=(1, *stride),
            padding=(0, *padding),
            dilation=(1, *dilation),
            groups=groups,
        )
        return image.squeeze(2)
    if groups > 1:
        return _grouped(x, weight, bias, stride, padding, dilation, groups)
    geometry = Geometry((weight.shape[3], weight.shape[4]), _two(stride), _two(padding), _two(dilation))
    way = GatheredPatches if thin(weight) and not x.requires_grad else GatheredLines
    out: Tensor = way.apply(x, weight, bias, geometry)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out


def _two(numbers: tuple[int, ...]) -> tuple[int, int]:
    vertical, horizontal = numbers
    return vertical, horizontal


def _grouped(  # noqa: PLR0917 - the geometry of a convolution
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """Models are more groups: depthwise kernels are too thin for matrix products."""
    models = len(weight)
    side_by_side = x.reshape(models, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)
    flat = None if bias is None else bias.flatten()
    out = torch.conv2d(side_by_side, weight.flatten(0, 1), flat, stride, padding, dilation, models * groups)
    return out.reshape(len(out), models, -1, *out.shape[2:]).transpose(0, 1).flatten(0, 1)
