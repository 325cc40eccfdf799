"""The modules of a quantization-aware graph: each forward is exactly what its exported int8 node computes.

They hold float32 master weights and no buffers (what DP-SGD can train), and grids that are plain numbers. Layers
without an int8 kernel are not here: `prepare` refuses them by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmesh.quantization import per_sample, stacked
from fedmesh.quantization.grids import ActivationGrid
from fedmesh.quantization.rounding_ops import quantize_activation, quantize_weights, weight_scales

__all__ = [
    "AveragePool",
    "GlobalAveragePool",
    "QuantizedConv",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedLinear",
    "QuantizedModule",
    "Quantizer",
    "WeightedLayer",
]


class QuantizedModule(nn.Module):
    """Root of the modules that fake-quantize; `enabled` False makes it the plain float32 function."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True


class Quantizer(QuantizedModule):
    """Activation quantizer, with the ReLU or ReLU6 before it fused in.

    Attributes:
        grid: where it rounds to; shared with the layers that read its output.
        rectifier: None, ``relu`` or ``relu6``.
        offset_first: see `quantize_activation`.
    """

    def __init__(self, grid: ActivationGrid, rectifier: str | None, *, offset_first: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.rectifier = rectifier
        self.offset_first = offset_first

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, shape kept."""
        if not self.enabled:
            return self.rectify(x)
        grid = self.grid
        offset = grid.zero_point if self.offset_first else 0
        return quantize_activation(x, grid.step, grid.low, self.high, scales=grid.scales, offset=offset)

    def rectify(self, x: Tensor) -> Tensor:
        """The float function: ReLU, ReLU6 or the identity."""
        if self.rectifier == "relu":
            return F.relu(x)
        return F.relu6(x) if self.rectifier == "relu6" else x

    @property
    def high(self) -> float:
        """Largest output: the grid's, or for ReLU6 the level nearest to 6 where that is lower."""
        high = self.grid.high
        return min(high, round(6.0 / self.grid.step) * self.grid.step) if self.rectifier == "relu6" else high

    def get_extra_state(self) -> dict[str, Any]:
        """The grid, so that a state dict is complete without buffers."""
        return {"scale": self.grid.scale, "zero_point": self.grid.zero_point}

    def set_extra_state(self, state: Any) -> None:
        """Restores the grid; layers that share it follow."""
        if state["scale"] is not None:
            self.grid.set(float(state["scale"]), int(state["zero_point"]))

    def extra_repr(self) -> str:
        """Grid and rectifier, for print(model)."""
        grid = self.grid
        return f"{grid.name}, scale={grid.scale}, zero_point={grid.zero_point}, rectifier={self.rectifier}"


class WeightedLayer(QuantizedModule, ABC):
    """Weights int8 per output channel, bias int32 on the accumulator's grid; subclasses apply them.

    Called through `torch.func.functional_call` with weights [K, out, ...] and bias [K, out], a layer is that of K
    models: its batch is K equal blocks, one for each (see `stacked`).

    Attributes:
        weight: float32 master weights [out, ...]; bias: float32 [out] or None.
        input_grid: grid of the input.
        gradient_law: says to code that takes examples one by one that the weight's gradient is that of torch's layer,
            ``linear`` or ``convolution``, on the same input: the quantizer passes it on unchanged.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    gradient_law: ClassVar[str]

    def __init__(self, weight: Tensor, bias: Tensor | None, input_grid: ActivationGrid) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.input_grid = input_grid
        self._rank = weight.dim()

    def scales(self) -> Tensor:
        """Weight scale of each output channel, [out]."""
        return weight_scales(self.weight, self.bias, self.input_grid.step, self.input_grid.scales)

    def quantized(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as the int8 graph sees them, as float32 with straight-through gradients."""
        grid = self.input_grid
        return quantize_weights(self.weight, self.bias, self.scales(), grid.step, grid.scales)

    def integers(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """What the int8 graph stores: weight int8 [out, ...], bias int32 [out] or None, weight scale float32 [out]."""
        scale = self.scales()
        weight, bias = self.quantized()
        levels = weight.detach() / scale.reshape(-1, *[1] * (weight.dim() - 1))
        if bias is None:
            return levels.round().to(torch.int8), None, scale
        return levels.round().to(torch.int8), (bias.detach() / (scale * self.input_grid.step)).round().int(), scale

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, exact accumulator values times their scale."""
        if self.weight.dim() > self._rank:
            return self._stacked(x)
        weight, bias = self.quantized() if self.enabled else (self.weight, self.bias)
        return self.apply_to(x, weight, bias)

    def _stacked(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return self.apply_stacked(x, self.weight, self.bias)
        grid, shape = self.input_grid, self.weight.shape
        # To the grid of an output channel it is all one which model the channel is of.
        master, offset = self.weight.flatten(0, 1), None if self.bias is None else self.bias.flatten()
        scales = weight_scales(master, offset, grid.step, grid.scales)
        weight, bias = quantize_weights(master, offset, scales, grid.step, grid.scales)
        return self.apply_stacked(x, weight.view(shape), None if bias is None else bias.view(shape[:2]))

    @abstractmethod
    def apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's linear map."""

    @abstractmethod
    def apply_stacked(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The linear maps of K models, weights [K, out, ...], each on its block of the batch [K * B, ...]."""

    def per_sample_gradients(self, activations: Sequence[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        """Gradient of each sample, as an Opacus grad sampler returns it.

        Args:
            activations: the layer's input, one tensor [B, ...]. backprops: gradient of the output [B, out, ...].

        Returns:
            for each parameter that is trained, a tensor [B, *shape]; B may be 0.
        """
        weight, bias = self.sample_gradients(activations[0].to(backprops.dtype), backprops)
        found = {self.weight: weight} if self.weight.requires_grad else {}
        if self.bias is not None and self.bias.requires_grad:
            found[self.bias] = bias
        return found

    @abstractmethod
    def sample_gradients(self, x: Tensor, backprops: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias gradients [B, ...]."""


class QuantizedLinear(WeightedLayer):
    """``y = x W^T + b`` over [B, in]."""

    gradient_law: ClassVar = "linear"

    def apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[B, in] -> [B, out]."""
        return F.linear(x, weight, bias)

    def apply_stacked(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[K * B, in] -> [K * B, out]."""
        return stacked.linear(x, weight, bias)

    def sample_gradients(self, x: Tensor, backprops: Tensor) -> tuple[Tensor, Tensor]:
        """[B, out, in] and [B, out]."""
        return per_sample.linear(x, backprops)


class QuantizedConv(WeightedLayer):
    """A convolution of any rank; geometry as one number for each spatial axis."""

    gradient_law: ClassVar = "convolution"

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        input_grid: ActivationGrid,
        *,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> None:
        super().__init__(weight, bias, input_grid)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def apply_stacked(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[K * B, in, ...] -> [K * B, out, ...]."""
        return stacked.convolution(
            x, weight, bias, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )

    def sample_gradients(self, x: Tensor, backprops: Tensor) -> tuple[Tensor, Tensor]:
        """[B, *weight] and [B, out]."""
        return per_sample.convolution(
            x,
            backprops,
            weight_shape=self.weight.shape,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        """Shape and geometry, for print(model)."""
        return f"{tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}, groups={self.groups}"


class QuantizedConv2d(QuantizedConv):
    """2-d convolution over [B, in, H, W]; grouped and depthwise included."""

    def apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[B, in, H, W] -> [B, out, H', W']."""
        return torch.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class QuantizedConv1d(QuantizedConv):
    """1-d convolution over [B, in, L]; grouped and depthwise included."""

    def apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[B, in, L] -> [B, out, L']."""
        return torch.conv1d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class AveragePool(nn.Module):
    """Average over windows of [B, C, L] or [B, C, H, W], no padding; its output is quantized by the node after it."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """The windows' means."""
        if len(self.kernel) == 1:
            return F.avg_pool1d(x, self.kernel, self.stride)
        return F.avg_pool2d(x, self.kernel, self.stride)


class GlobalAveragePool(nn.Module):
    """Mean over all positions of [B, C, ...], positions kept as 1."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 1, ...]; the exact sum times the rounded 1 / count, in this order, as the integer kernel does it."""
        positions = tuple(range(2, x.dim()))
        count = 1
        for axis in positions:
            count *= x.shape[axis]
        return x.sum(positions, keepdim=True) * (1.0 / count)
