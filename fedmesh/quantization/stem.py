"""The first convolution of an image model, rewritten so that integer kernels can feed on it.

A convolution of stride 2 over three channels reads its input three bytes at a time: it was a fifth of an int8
ResNet-18's time with a fifteenth of its products. Taking every 2x2 block of pixels for one pixel of four times the
channels (SpaceToDepth) makes it a convolution of stride 1 with a kernel half as wide, over 12 channels. The products
and so the int32 sum are the same, bit for bit; the kernel's size is rounded up to even by weights of zero.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmesh.quantization.layers import QuantizedConv

__all__ = ["BLOCK", "BlockedStem", "blocked"]

BLOCK = 2
_FEW_CHANNELS = 4
_SMALLEST_SIDE = 64
"""Pixels. Below, the time is in the launch of operators, and one more does not pay."""


@dataclass(frozen=True, slots=True)
class BlockedStem:
    """A convolution over the output of SpaceToDepth: `weight` int8 [out, 4 * in, k/2, k/2]; `pads` as in ONNX."""

    weight: NDArray[np.int8]
    pads: tuple[int, int, int, int]


def blocked(layer: QuantizedConv, weight: NDArray[np.int8], image: tuple[int, int] | None) -> BlockedStem | None:
    """The rewritten convolution, or None where it would not pay or not fit.

    Args:
        layer: for stride, padding, dilation and groups.
        weight: int8 [out, in, k, k].
        image: height and width of its input; None if they are not known.
    """
    strided = layer.stride == (BLOCK, BLOCK) and layer.dilation == (1, 1) and layer.groups == 1
    if image is None or not strided or weight.shape[1] > _FEW_CHANNELS or min(weight.shape[2:]) <= BLOCK:
        return None
    if min(image) < _SMALLEST_SIDE or any(side % BLOCK for side in image):
        return None
    sides = [_side(*geometry) for geometry in zip(weight.shape[2:], layer.padding, image, strict=True)]
    if any(end < 0 for _, _, _, end in sides):
        return None
    (top, height, begin_y, end_y), (left, width, begin_x, end_x) = sides
    padded = np.zeros((*weight.shape[:2], height * BLOCK, width * BLOCK), np.int8)
    padded[:, :, top : top + weight.shape[2], left : left + weight.shape[3]] = weight
    blocks = padded.reshape(*weight.shape[:2], height, BLOCK, width, BLOCK).transpose(0, 3, 5, 1, 2, 4)
    return BlockedStem(blocks.reshape(len(weight), -1, height, width).copy(), (begin_y, begin_x, end_y, end_x))


def _side(kernel: int, padding: int, size: int) -> tuple[int, int, int, int]:
    """Along one axis: zeros before the kernel, its size in blocks, and the padding in blocks before and after."""
    lead = padding % BLOCK  # windows begin at 2i - padding; with the zeros in front, on an even pixel
    blocks = -(-(lead + kernel) // BLOCK)
    begin = (padding + lead) // BLOCK
    outputs = (size + 2 * padding - kernel) // BLOCK + 1
    return lead, blocks, begin, outputs - size // BLOCK - begin + blocks - 1
