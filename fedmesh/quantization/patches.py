"""Convolutions of K models by matrix products over gathered input (im2col, Chellapilla et al. 2006).

As the grouped convolution that it would be otherwise, also under torch.func.vmap, a training step takes 1.2 to 1.7
times as long on a CPU. Channels are innermost in memory, so that what is gathered comes in runs of a whole kernel row.
Gathering every patch would copy each input `kernel height` times, and cost as much as the products: instead only the
rows of the kernel are laid out (*lines*), positions ordered by image row first, and the product for each row of the
kernel reads the same lines a few image rows further on. Gradients take the same way back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["GatheredLines", "GatheredPatches", "Geometry", "thin"]

_CACHED = 1 << 17
"""Elements of the lines that are held at once: half a megabyte, of a second-level cache of one or two."""
_THIN = 32
"""Inputs of one output, kernel size times channels, up to which whole patches are cheap enough to be gathered."""


def thin(weight: Tensor) -> bool:
    """Whether weights [K, out, in, *kernel] are those of a layer for `GatheredPatches`."""
    return math.prod(weight.shape[2:]) <= _THIN


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a kernel lies on an image: [vertical, horizontal] throughout."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def outer(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns with the padding, the rows up to a multiple of the stride."""
        rows = height + 2 * self.padding[0]
        return rows + -rows % self.stride[0], width + 2 * self.padding[1]

    def inside(self, image: Tensor, height: int, width: int) -> Tensor:
        """What lies within the padding of [N, H', W', in], a view [N, H, W, in]."""
        vertical, horizontal = self.padding
        return image[:, vertical : vertical + height, horizontal : horizontal + width]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output for an input without its padding."""
        rows, columns = (
            (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for length, kernel, stride, padding, dilation in zip(
                (height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return rows, columns


class GatheredPatches(torch.autograd.Function):
    """A first layer of few inputs: whole patches, with a 1 for the bias, kept for the weights' gradient."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """See `fedmesh.quantization.stacked.convolution`; the last input is a `Geometry`."""
        x, weight, bias, geometry = inputs
        models, channels_out = weight.shape[:2]
        size = geometry.size(*x.shape[2:])
        image = x.new_zeros(len(x), *geometry.outer(*x.shape[2:]), x.shape[1])
        geometry.inside(image, *x.shape[2:]).copy_(x.permute(0, 2, 3, 1))
        image = image.unflatten(0, (models, -1))
        model, example, row, pixel, _ = image.stride()
        (down, right), (deep, far) = geometry.stride, geometry.dilation
        shape = (models, *geometry.kernel, image.shape[4], image.shape[1], *size)
        steps = (model, row * deep, pixel * far, 1, example, row * down, pixel * right)
        taps = math.prod(weight.shape[2:])
        columns = x.new_ones(models, taps + (bias is not None), image.shape[1] * size[0] * size[1])
        columns[:, :taps].view(shape).copy_(image.as_strided(shape, steps))
        rows = weight.permute(0, 3, 4, 2, 1).reshape(models, taps, channels_out)
        if bias is not None:
            rows = torch.cat([rows, bias.unsqueeze(1)], 1)
        ctx.save_for_backward(columns)
        ctx.shape = weight.shape
        out = torch.bmm(columns.mT, rows)
        return out.view(len(x), *size, channels_out).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Of the weights and the bias; the input is data."""
        (columns,) = ctx.saved_tensors
        models, channels_out, channels, *kernel = ctx.shape
        upstream = grads[0].permute(0, 2, 3, 1).reshape(models, -1, channels_out)
        rows = torch.bmm(columns, upstream)
        taps = rows[:, : channels * kernel[0] * kernel[1]].view(models, *kernel, channels, channels_out)
        bias = rows[:, -1] if ctx.needs_input_grad[2] else None
        return None, taps.permute(0, 4, 3, 1, 2), bias, None


class GatheredLines(torch.autograd.Function):
    """Any layer without groups: a matrix product for each row of the kernel, a few models at a time."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """See `fedmesh.quantization.stacked.convolution`; the last input is a `Geometry`."""
        x, weight, bias, geometry = inputs
        models, channels_out = weight.shape[:2]
        # [kernel height, K, kernel width * in, out]
        rows = weight.permute(3, 0, 4, 2, 1).reshape(geometry.kernel[0], models, -1, channels_out)
        lines = _Lines.of(x, geometry, models)
        high, wide = geometry.size(*x.shape[2:])
        sums = x.new_empty(lines.models, high, lines.examples, wide, channels_out)
        flat, by_example = sums.view(lines.models, -1, channels_out), sums.transpose(1, 2)
        out = x.new_empty(models, lines.examples, high, wide, channels_out)
        offsets = x.new_zeros(models, channels_out) if bias is None else bias
        sources = x.permute(0, 2, 3, 1).split(len(lines.image))
        parts = zip(
            sources, rows.split(lines.models, 1), out.split(lines.models), offsets.split(lines.models), strict=True
        )
        for source, some_rows, some_out, some_offsets in parts:
            lines.gather(source)
            first, *others = zip(lines.taps, some_rows.unbind(), strict=True)
            torch.bmm(*first, out=flat)
            for tap, row in others:
                flat.baddbmm_(tap, row)
            torch.add(by_example, some_offsets[:, None, None, None], out=some_out)
        ctx.save_for_backward(x, rows)
        ctx.geometry = geometry
        result: Tensor = out.flatten(0, 1).permute(0, 3, 1, 2)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        """Of input, weights and bias. Lines are gathered again: that costs less than to fetch them from memory."""
        x, rows = ctx.saved_tensors
        high, models, _, channels_out = rows.shape
        lines = _Lines.of(x, ctx.geometry, models)
        back = _Lines.of(x, ctx.geometry, models) if ctx.needs_input_grad[0] else None
        grad: Tensor = grads[0].permute(0, 2, 3, 1)
        upstream = grad.reshape(models, lines.examples, *grad.shape[1:]).transpose(1, 2)  # [K, H', B, W', out]
        held = x.new_empty(lines.models, *upstream.shape[1:])
        flat = held.view(lines.models, -1, channels_out)
        weight = rows.new_empty(rows.mT.shape)
        x_grad = torch.empty_like(x, memory_format=torch.channels_last)
        parts = zip(
            torch.split(upstream, lines.models),
            torch.split(rows, lines.models, 1),
            torch.split(weight, lines.models, 1),
            torch.split(x.permute(0, 2, 3, 1), len(lines.image)),
            torch.split(x_grad.permute(0, 2, 3, 1), len(lines.image)),
            strict=True,
        )
        for some_upstream, some_rows, some_weight, source, target in parts:
            held.copy_(some_upstream)
            lines.gather(source)
            for tap, row in zip(lines.taps, some_weight.unbind(), strict=True):
                torch.bmm(flat.mT, tap, out=row)
            if back is not None:
                back.held.zero_()
                for tap, row in zip(back.taps, some_rows.unbind(), strict=True):
                    tap.baddbmm_(flat, row.mT)
                back.scatter(target)
        by_tap = weight.view(high, models, channels_out, -1, x.shape[1]).permute(1, 2, 4, 0, 3)
        bias = upstream.sum((1, 2, 3)) if ctx.needs_input_grad[2] else None
        return None if back is None else x_grad, by_tap, bias, None


class _Lines(NamedTuple):
    """The lines of a few models at a time, in memory that is used again for the next.

    Image rows are dealt out by their remainder modulo the vertical stride: what one row of the kernel reads is then one
    piece of memory, whatever the stride.

    Attributes:
        models: how many at a time; it divides K. examples: B.
        image: their examples with padding, [k * B, H', W', in], H' a multiple of the stride. inside: view without it.
        view: view of the image as [k, stride, H' / stride, B, W", kernel width, in].
        held: of the same shape, the lines.
        taps: views of `held` as matrices [k, H" * B * W", kernel width * in], for each row of the kernel.
    """

    models: int
    examples: int
    image: Tensor
    inside: Tensor
    view: Tensor
    held: Tensor
    taps: Sequence[Tensor]

    @classmethod
    def of(cls, x: Tensor, geometry: Geometry, models: int) -> "_Lines":
        examples, channels, height, width = len(x) // models, *x.shape[1:]
        (rows, length), down = geometry.size(height, width), geometry.stride[0]
        high, wide = geometry.outer(height, width)
        run = geometry.kernel[1] * channels
        fitting = max(1, min(models, _CACHED // (high * examples * length * run)))
        few = next(few for few in range(fitting, 0, -1) if models % few == 0)
        image = x.new_zeros(few * examples, high, wide, channels)
        view = _view(image, geometry, length, few)
        held = torch.empty_like(view, memory_format=torch.contiguous_format)
        matrices = held.view(few, down, -1, run).unbind(1)
        taps = []
        for tap in range(geometry.kernel[0]):
            first, remainder = divmod(tap * geometry.dilation[0], down)
            taps.append(matrices[remainder].narrow(1, first * examples * length, rows * examples * length))
        return cls(few, examples, image, geometry.inside(image, height, width), view, held, taps)

    def gather(self, source: Tensor) -> None:
        """Lines of examples [k * B, H, W, in]."""
        self.inside.copy_(source)
        self.held.copy_(self.view)

    def scatter(self, target: Tensor) -> None:
        """The transpose of `gather`: to [k * B, H, W, in], overwritten, the sum of all that was taken from there."""
        self.image.zero_()
        for column, run in zip(self.view.unbind(5), self.held.unbind(5), strict=True):
            column.add_(run)  # no two places of one column of the kernel are the same
        target.copy_(self.inside)


def _view(image: Tensor, geometry: Geometry, length: int, models: int) -> Tensor:
    count, height, _, channels = image.shape
    examples = count // models
    example, row, pixel, _ = image.stride()
    down, right = geometry.stride
    shape = (models, down, height // down, examples, length, geometry.kernel[1], channels)
    steps = (example * examples, row, row * down, example, pixel * right, pixel * geometry.dilation[1], 1)
    return image.as_strided(shape, steps)
