"""The int8 model: uint8 between layers, Q/DQ nodes around what ONNX Runtime replaces by one integer kernel.

Each layer reads its input through a DequantizeLinear of its own and writes it through a QuantizeLinear. Max pools,
flattening and the bound of ReLU6 work on the uint8 values themselves, and ReLU is the lower bound of a grid: none of
these is a node that could stay in float.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from fedmesh.errors import ConfigError
from fedmesh.quantization.grids import LEVELS, ActivationGrid
from fedmesh.quantization.layers import QuantizedConv, Quantizer, WeightedLayer
from fedmesh.quantization.onnx_graph import INPUT, OnnxGraph, scalar
from fedmesh.quantization.stem import BLOCK, blocked
from fedmesh.quantization.writer import average, convolution_attributes

__all__ = ["Int8Writer", "Value"]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: uint8 on `grid`, or float32 accumulators without one.

    `pending`: max pools and flattenings that stand before the quantizer in the training graph; they commute with it,
    and are written behind it, on uint8. `image`: height and width, as long as it is the model's input.
    """

    tensor: str
    grid: ActivationGrid | None = None
    pending: tuple[tuple[str, dict[str, Any]], ...] = ()
    image: tuple[int, int] | None = None


class Int8Writer:
    """Writes a calibrated model.

    Attributes:
        onnx: the graph so far. addition_op: ``Add`` (becomes QLinearAdd) or ``Sum``.
    """

    def __init__(self, addition_op: str, input_shape: tuple[int, ...]) -> None:
        self.onnx = OnnxGraph()
        self.addition_op = addition_op
        self._image = (input_shape[1], input_shape[2]) if len(input_shape) == 3 else None

    def start(self) -> Value:
        """The float32 input."""
        return Value(INPUT, image=self._image)

    def layer(self, name: str, layer: WeightedLayer, x: Value) -> Value:
        """Conv or Gemm over dequantized input, weights and bias."""
        weight, bias, scale = (None if part is None else part.numpy() for part in layer.integers())
        assert weight is not None
        assert scale is not None
        linear = not isinstance(layer, QuantizedConv)
        attributes = convolution_attributes(layer) if isinstance(layer, QuantizedConv) else {}
        if isinstance(layer, QuantizedConv) and (stem := blocked(layer, weight, x.image)) is not None:
            x = self.selection("SpaceToDepth", {"blocksize": BLOCK}, x)
            weight = stem.weight
            attributes |= {"kernel_shape": weight.shape[2:], "strides": (1, 1), "pads": stem.pads}
        names = [
            self.onnx.constant(f"{name}.weight", weight.T.copy() if linear else weight),
            self.onnx.constant(f"{name}.weight_scale", scale),
            self.onnx.constant(f"{name}.weight_zero_point", np.zeros(len(scale), np.int8)),
        ]
        inputs = [self.dequantized(x), self.onnx.node("DequantizeLinear", names, axis=1 if linear else 0)]
        if bias is not None:
            step = scale * np.float32(layer.input_grid.step)
            names = [self.onnx.constant(f"{name}.bias", bias), self.onnx.constant(f"{name}.bias_scale", step)]
            inputs.append(self.onnx.node("DequantizeLinear", names, axis=0))
        return Value(self.onnx.node("Gemm" if linear else "Conv", inputs, **attributes))

    def quantizer(self, quantizer: Quantizer, x: Value) -> Value:
        """QuantizeLinear, the bound of ReLU6 where the grid reaches beyond it, and what was pending."""
        grid = quantizer.grid
        tensor = self.onnx.node("QuantizeLinear", [x.tensor, *self._grid(grid)])
        top = round(quantizer.high / grid.step) + grid.zero_point
        if top < LEVELS:
            tensor = self.onnx.node("Clip", [tensor, "", self._level(top)])
        value = Value(tensor, grid, image=x.image if not x.pending else None)
        for op, attributes in x.pending:
            value = self.selection(op, attributes, value)
        return value

    def average(self, pool: nn.Module, x: Value) -> Value:
        """An average over dequantized values."""
        return Value(average(self.onnx, pool, self.dequantized(x)))

    def selection(self, op: str, attributes: dict[str, Any], x: Value) -> Value:
        """On uint8; put off while there is no grid."""
        if x.grid is None:
            return replace(x, pending=(*x.pending, (op, attributes)), image=None)
        return replace(x, tensor=self.onnx.node(op, [x.tensor], **attributes), image=None)

    def addition(self, x: Value, y: Value) -> Value:
        """A sum of dequantized values."""
        return Value(self.onnx.node(self.addition_op, [self.dequantized(x), self.dequantized(y)]))

    def rectifier(self, x: Value) -> Value:
        """On uint8: nothing below the zero point."""
        assert x.grid is not None
        return replace(x, tensor=self.onnx.node("Clip", [x.tensor, self._level(x.grid.zero_point)]))

    def finish(self, x: Value) -> str:
        """Logits in float32."""
        if x.pending:
            raise ConfigError("the output of the model is not quantized: prepare it again")
        return x.tensor if x.grid is None else self.dequantized(x)

    def dequantized(self, x: Value) -> str:
        """The name of `x` in float32, by a node of its own."""
        assert x.grid is not None, "`prepare` puts a quantizer before whatever reads quantized values"
        return self.onnx.node("DequantizeLinear", [x.tensor, *self._grid(x.grid)])

    def _grid(self, grid: ActivationGrid) -> tuple[str, str]:
        return (
            self.onnx.constant(f"{grid.name}.scale", scalar(grid.step, np.float32)),
            self.onnx.constant(f"{grid.name}.zero_point", scalar(grid.zero_point, np.uint8)),
        )

    def _level(self, level: int) -> str:
        return self.onnx.constant(f"level_{level}", scalar(level, np.uint8))
