"""The float32 model of the same master weights: what the int8 model is compared with in size and latency."""

from typing import Any

import numpy as np
from torch import nn

from fedmesh.quantization.layers import QuantizedConv, Quantizer, WeightedLayer
from fedmesh.quantization.onnx_graph import INPUT, OnnxGraph, scalar
from fedmesh.quantization.writer import average, convolution_attributes

__all__ = ["FloatWriter"]


class FloatWriter:
    """Writes the function that `fake_quantization(model, False)` leaves. A value is the name of a float32 tensor."""

    def __init__(self) -> None:
        self.onnx = OnnxGraph()

    def start(self) -> str:
        """The input."""
        return INPUT

    def layer(self, name: str, layer: WeightedLayer, x: str) -> str:
        """Conv or Gemm."""
        inputs = [x, self.onnx.constant(f"{name}.weight", layer.weight.detach().numpy())]
        if layer.bias is not None:
            inputs.append(self.onnx.constant(f"{name}.bias", layer.bias.detach().numpy()))
        if isinstance(layer, QuantizedConv):
            return self.onnx.node("Conv", inputs, **convolution_attributes(layer))
        return self.onnx.node("Gemm", inputs, transB=1)

    def quantizer(self, quantizer: Quantizer, x: str) -> str:
        """Relu, Clip, or nothing."""
        if quantizer.rectifier == "relu":
            return self.onnx.node("Relu", [x])
        if quantizer.rectifier == "relu6":
            bounds = [self.onnx.constant(f"bound_{bound}", scalar(bound, np.float32)) for bound in (0, 6)]
            return self.onnx.node("Clip", [x, *bounds])
        return x

    def average(self, pool: nn.Module, x: str) -> str:
        """AveragePool or GlobalAveragePool."""
        return average(self.onnx, pool, x)

    def selection(self, op: str, attributes: dict[str, Any], x: str) -> str:
        """MaxPool or Flatten."""
        return self.onnx.node(op, [x], **attributes)

    def addition(self, x: str, y: str) -> str:
        """Add."""
        return self.onnx.node("Add", [x, y])

    def rectifier(self, x: str) -> str:
        """Relu."""
        return self.onnx.node("Relu", [x])

    def finish(self, x: str) -> str:
        """The output."""
        return x
