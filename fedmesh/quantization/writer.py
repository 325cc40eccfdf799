"""The walk over a prepared graph that both ONNX writers share; what a node becomes is theirs."""

import operator
from typing import Any, Protocol, TypeVar

import torch
from torch import fx, nn

from fedmesh.quantization.layers import AveragePool, GlobalAveragePool, QuantizedConv, Quantizer, WeightedLayer
from fedmesh.quantization.onnx_graph import OnnxGraph

__all__ = ["Nodes", "average", "convolution_attributes", "walk"]

V = TypeVar("V")


class Nodes(Protocol[V]):
    """How each kind of node is written; a value `V` is what is known about a tensor on the way."""

    onnx: OnnxGraph

    def start(self) -> V:
        """The graph's input."""
        ...

    def layer(self, name: str, layer: WeightedLayer, x: V) -> V:
        """A convolution or linear layer."""
        ...

    def quantizer(self, quantizer: Quantizer, x: V) -> V:
        """A quantizer, with its rectifier."""
        ...

    def average(self, pool: nn.Module, x: V) -> V:
        """An average pool."""
        ...

    def selection(self, op: str, attributes: dict[str, Any], x: V) -> V:
        """A max pool or flattening: values move or are dropped, none is computed."""
        ...

    def addition(self, x: V, y: V) -> V:
        """A residual addition."""
        ...

    def rectifier(self, x: V) -> V:
        """ReLU of an activation that is on a grid already."""
        ...

    def finish(self, x: V) -> str:
        """The name of the tensor that is the output."""
        ...


def walk(nodes: Nodes[V], model: fx.GraphModule) -> str:
    """Writes `model` node by node; returns the name of its output tensor."""
    values: dict[fx.Node, V] = {}
    for node in model.graph.nodes:
        reads = [values[argument] for argument in node.all_input_nodes]
        if node.op == "output":
            return nodes.finish(reads[0])
        values[node] = nodes.start() if node.op == "placeholder" else _visit(nodes, model, node, reads)
    raise AssertionError("an fx graph ends with its output")


def _visit(nodes: Nodes[V], model: fx.GraphModule, node: fx.Node, reads: list[V]) -> V:
    if node.op == "call_module":
        return _visit_module(nodes, str(node.target), model.get_submodule(str(node.target)), reads[0])
    if node.target is operator.add:
        return nodes.addition(reads[0], reads[-1])
    if node.target is torch.relu:
        return nodes.rectifier(reads[0])
    return nodes.selection("Flatten", {"axis": 1}, reads[0])


def _visit_module(nodes: Nodes[V], name: str, module: nn.Module, x: V) -> V:
    if isinstance(module, WeightedLayer):
        return nodes.layer(name, module, x)
    if isinstance(module, Quantizer):
        return nodes.quantizer(module, x)
    if isinstance(module, AveragePool | GlobalAveragePool):
        return nodes.average(module, x)
    return nodes.selection("MaxPool", _max_pool_attributes(module), x)


def average(onnx: OnnxGraph, pool: nn.Module, x: str) -> str:
    """An average pool over the float tensor `x`."""
    if isinstance(pool, AveragePool):
        return onnx.node("AveragePool", [x], kernel_shape=pool.kernel, strides=pool.stride)
    return onnx.node("GlobalAveragePool", [x])


def convolution_attributes(layer: QuantizedConv) -> dict[str, Any]:
    """The attributes of the ONNX operator Conv."""
    return {
        "kernel_shape": tuple(layer.weight.shape[2:]),
        "strides": layer.stride,
        "pads": layer.padding * 2,
        "dilations": layer.dilation,
        "group": layer.groups,
    }


def _max_pool_attributes(pool: nn.Module) -> dict[str, Any]:
    assert isinstance(pool, nn.MaxPool1d | nn.MaxPool2d)
    kernel, stride, padding, dilation = pool.kernel_size, pool.stride, pool.padding, pool.dilation
    assert isinstance(padding, tuple)  # `geometry` spells them out
    return {"kernel_shape": kernel, "strides": stride, "pads": padding * 2, "dilations": dilation}
