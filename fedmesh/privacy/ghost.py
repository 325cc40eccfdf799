"""Per-example gradients of linear layers and convolutions as products of two factors (*ghost clipping*).

The weight gradient of one example is backprops times inputs, summed over T positions. Its norm follows from two Gram
matrices of T x T without the product (Goodfellow 2015 for T = 1; Lee & Kifer 2021; Li et al. 2021), and the clipped sum
over all examples is one matrix product of the same factors, each example's backprops times its clip factor, with no
second backward pass (Bu et al. 2023). Where T is large the product is smaller than the Grams: `pays` takes the cheaper
way for each layer (Bu et al. 2022, *mixed* ghost clipping). A layer without a `law` goes by its sampler.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

__all__ = ["Factors", "factors", "in_blocks", "law", "pays", "weight_order"]

Law = Literal["linear", "convolution"]

_GRAM = 16
"""Multiplications of Gram matrices for which one entry of a gradient is worth making, reading and adding: measured
between 14, rows in the cache, and 35, rows in memory."""

_BLOCK_BYTES = 1 << 21
"""Columns made at a time: they stay in the second- or third-level cache."""

_LONG_RUN = 16
"""Numbers of a kernel's row from which copying them together is quicker than copying along the image."""

_ROUNDING = 4.0
"""In units of float32's step: what the clipped sum's rounding may add, see `Factors.norms`."""


def law(layer: nn.Module) -> Law | None:
    """How the layer's weight gradient is made of its input and its backprops, or None if it is not known here.

    torch's own layers by their exact type, as a subclass may compute anything; any other layer that declares
    ``gradient_law``: it has the attributes of torch's layer, its geometry as tuples, and gradients pass from what it
    applies to its parameters unchanged.
    """
    if type(layer) is nn.Linear:
        return "linear"
    if type(layer) in {nn.Conv1d, nn.Conv2d}:
        return None if isinstance(layer.padding, str) or layer.padding_mode != "zeros" else "convolution"
    declared: Law | None = getattr(layer, "gradient_law", None)
    return declared


def pays(positions: int, inputs: int, outputs: int) -> bool:
    """Whether norms by Gram matrices cost less than the gradients themselves, for one group of one example.

    Args:
        positions: T, where the layer is applied. inputs: J, of one output. outputs: O; the gradient is [O, J].
    """
    return positions == 1 or positions**2 * (inputs + outputs) <= _GRAM * inputs * outputs


@dataclass(frozen=True, slots=True)
class Factors:
    """The weight gradient of example b in group g is ``backprops[b, g] @ columns[b, g]``, [O, J].

    Attributes:
        backprops: float [B, G, O, T]. columns: float [B, G, T, J], what each position is computed from.
    """

    backprops: Tensor
    columns: Tensor

    def products(self) -> Tensor:
        """The gradients themselves, [B, G, O, J]."""
        return self.backprops @ self.columns

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Sum over the examples of their gradients times `weights` [B]: one product for each group, [G, O, J]."""
        groups, outputs = self.backprops.shape[1:3]
        left = (self.backprops * weights.view(-1, 1, 1, 1)).permute(1, 2, 0, 3).reshape(groups, outputs, -1)
        return left @ self.columns.transpose(0, 1).reshape(groups, left.shape[2], -1)

    def norms(self) -> Tensor:
        """L2 norms over all groups, float64 [B], from factors in float64: products of float32 numbers are exact there.

        Where an example's parts cancel over its positions, the clipped sum keeps the rounding of the parts: a gradient
        of norm 1 made of parts of norm 1e8 could add 8, not 1. So the norm is that of the gradient and of this
        rounding together: no example adds more than it is clipped to.
        """
        outer = self.backprops.mT @ self.backprops
        inner = self.columns @ self.columns.mT
        squares: Tensor = torch.linalg.vecdot(outer.flatten(1), inner.flatten(1)).clamp_(min=0)
        parts = (outer.diagonal(dim1=2, dim2=3) * inner.diagonal(dim1=2, dim2=3)).clamp_(min=0).sqrt_().sum((1, 2))
        return squares.sqrt_().add_(parts, alpha=_ROUNDING * torch.finfo(torch.float32).eps)


def factors(layer: Any, x: Tensor, backprops: Tensor, dtype: torch.dtype) -> Factors:
    """Of one call of a layer that has a `law`.

    Args:
        x: the layer's input, [B, ...]. backprops: gradient of its output, [B, ...].
        dtype: what the factors are made in.
    """
    if law(layer) == "linear":
        flat = backprops.to(dtype).reshape(len(x), 1, -1, backprops.shape[-1])
        return Factors(flat.mT, x.to(dtype).reshape(len(x), 1, -1, x.shape[-1]))
    flat = backprops.to(dtype).reshape(len(x), layer.groups, backprops.shape[1] // layer.groups, -1)
    return Factors(flat, _columns(layer, x, dtype))


def weight_order(layer: Any, gradient: Tensor) -> Tensor:
    """[G, O, J] in any shape, as products of `factors` give it, in the weight's own shape; a view."""
    shape: torch.Size = layer.weight.shape
    if law(layer) == "convolution" and _innermost(layer):
        return gradient.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return gradient.view(shape)


def in_blocks(examples: int, positions: int, inputs: int) -> Iterator[slice]:
    """Slices of a batch of `examples`, so that the columns of each, T x J in float64, stay in the cache."""
    size = max(1, _BLOCK_BYTES // (8 * positions * inputs))
    for start in range(0, examples, size):
        yield slice(start, start + size)


def _columns(layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, G, T, J]: what the kernel covers at each position; J in the order that `_innermost` chooses.

    Two to eight times as fast as ``F.unfold``, which copies one number at a time.
    """
    size, stride, padding, dilation = layer.weight.shape[2:], layer.stride, layer.padding, layer.dilation
    innermost = _innermost(layer)
    if x.dim() == 3:  # a sequence is an image of height 1
        x = x.unsqueeze(2)
        size, stride, padding, dilation = (1, *size), (1, *stride), (0, *padding), (1, *dilation)
    image = _padded(x, padding, dtype, innermost=innermost)
    high, wide = (
        (length - step * (taps - 1) - 1) // jump + 1
        for length, taps, jump, step in zip(image.shape[2:], size, stride, dilation, strict=True)
    )
    example, channel, row, pixel = image.stride()
    moves = (row * stride[0], pixel * stride[1])
    taps = (row * dilation[0], pixel * dilation[1])
    if innermost:
        taken = image.as_strided((len(x), high, wide, *size, x.shape[1]), (example, *moves, *taps, channel))
        return taken.reshape(len(x), 1, high * wide, -1)
    taken = image.as_strided((len(x), x.shape[1], *size, high, wide), (example, channel, *taps, *moves))
    return taken.reshape(len(x), layer.groups, -1, high * wide).mT


def _innermost(layer: Any) -> bool:
    """Whether J is (kernel, channels), copied in runs of a kernel's row; else (channels, kernel), in image rows."""
    return bool(layer.groups == 1 and layer.weight.shape[-1] * layer.weight.shape[1] >= _LONG_RUN)


def _padded(x: Tensor, padding: tuple[int, ...], dtype: torch.dtype, *, innermost: bool) -> Tensor:
    """[B, C, H', W'] with zeros around, the channels innermost in memory or not."""
    vertical, horizontal = padding
    shape = [len(x), x.shape[1], x.shape[2] + 2 * vertical, x.shape[3] + 2 * horizontal]
    order = torch.channels_last if innermost else torch.contiguous_format
    if not vertical and not horizontal:
        return x.to(dtype, memory_format=order)
    image = torch.empty(shape, dtype=dtype, memory_format=order).zero_()
    image[:, :, vertical : vertical + x.shape[2], horizontal : horizontal + x.shape[3]] = x
    return image
