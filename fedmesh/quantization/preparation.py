"""From a float model to its quantization-aware graph: norms folded, layers replaced, quantizers where int8 needs them.

A quantizer stands after the last of [max pool, ReLU] that follows a layer, never between an addition or a layer and its
ReLU: max pooling is monotone, so rounding after it gives the same values for a quarter of the work.
"""

import operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fedmesh.errors import ConfigError, UnsupportedLayerError
from fedmesh.quantization.folding import fold
from fedmesh.quantization.geometry import convolution_geometry, pool_module
from fedmesh.quantization.grids import ActivationGrid, Scales
from fedmesh.quantization.layers import (
    AveragePool,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedLinear,
    Quantizer,
    WeightedLayer,
)
from fedmesh.quantization.steps import Step, steps_of

__all__ = ["prepare"]


def prepare(model: nn.Module, example: Tensor, *, scales: Scales = "power-of-two") -> fx.GraphModule:
    """The quantization-aware graph of `model`; the model itself is not touched.

    Batch norms are folded with their running statistics, dropout is the identity (a device's noise and its few steps
    regularize), and the parameters are float32 master weights in the order in which the layers are used. The graph has
    no buffers. Call `calibrate` or `load_ranges` before the first forward.

    Args:
        model: a float32 torch module, one input, one output of logits [B, classes].
        example: one batch of inputs [B >= 1, ...]; only its shape matters.
        scales: ``power-of-two``: bit-identical to the exported model; ``free``: finer grids, equal up to rounding.

    Raises:
        UnsupportedLayerError: a layer has no int8 kernel; the message names it and what to use.
        ConfigError: the model does not take `example`, or `scales` is unknown.
    """
    if scales not in ("power-of-two", "free"):
        raise ConfigError(f"scales is {scales!r}: use 'power-of-two' or 'free'")
    graph = _Builder(steps_of(model, example), scales).build()
    if any(parameter.dtype != torch.float32 for parameter in graph.parameters()):
        raise ConfigError("the model's parameters are not float32: call model.float() first")
    return graph


@dataclass(slots=True)
class _Value:
    """A node of the new graph. `grid` is None while its values are exact accumulators and no quantizer stands yet."""

    node: fx.Node
    name: str
    kind: str
    grid: ActivationGrid | None = None
    rectifier: str | None = None


class _Builder:
    def __init__(self, steps: list[Step], scales: Scales) -> None:
        self.steps = _fold_norms(steps)
        self.scales: Scales = scales
        self.users = Counter(name for step in self.steps for name in step.inputs)
        self.graph = fx.Graph()
        self.modules: dict[str, nn.Module] = {}
        self.values: dict[str, _Value] = {}

    def build(self) -> fx.GraphModule:
        for step in self.steps:
            if step.kind == "output":
                self.graph.output(self._logits(step.inputs[0]))
                continue
            value = self._emit(step)
            self.values[step.name] = value
            if self.users[step.name] > 1 and value.grid is None:
                self._quantize(value)
        return fx.GraphModule(self.modules, self.graph, "QuantizedModel")

    def _emit(self, step: Step) -> _Value:
        emit = {
            "input": self._input,
            "relu": self._rectify,
            "relu6": self._rectify,
            "max-pool": self._max_pool,
            "flatten": self._flatten,
            "add": self._add,
            "average-pool": self._average,
            "adaptive-pool": self._average,
            "position-mean": self._average,
            "convolution": self._layer,
            "linear": self._layer,
        }[step.kind]
        return emit(step)

    def _input(self, step: Step) -> _Value:
        return _Value(self.graph.placeholder("input"), "input", step.kind)

    def _max_pool(self, step: Step) -> _Value:
        value = self.values[step.inputs[0]]
        return self._follow(value, self._call(step, pool_module(step, None), value.node))

    def _flatten(self, step: Step) -> _Value:
        _check_flatten(step)
        value = self.values[step.inputs[0]]
        return self._follow(value, self.graph.call_function(torch.flatten, (value.node, 1)))

    def _add(self, step: Step) -> _Value:
        nodes = tuple(self._quantized(name).node for name in step.inputs)
        return _Value(self.graph.call_function(operator.add, nodes), step.name, step.kind)

    def _follow(self, value: _Value, node: fx.Node) -> _Value:
        """`node` holds the same values elsewhere, or a selection of them: it inherits the grid, or the lack of one."""
        return _Value(node, value.name, value.kind, value.grid, value.rectifier)

    def _rectify(self, step: Step) -> _Value:
        value = self.values[step.inputs[0]]
        if value.grid is None:
            name = step.name if value.rectifier is None and value.kind != "input" else value.name
            rectifier = "relu6" if "relu6" in (step.kind, value.rectifier) else "relu"
            return _Value(value.node, name, value.kind, None, rectifier)
        if step.kind == "relu6":
            raise UnsupportedLayerError(
                f"the input of {step.target or step.name!r} (ReLU6) is also used without it: use ReLU there"
            )
        return self._follow(value, self.graph.call_function(torch.relu, (value.node,)))

    def _average(self, step: Step) -> _Value:
        node = self._quantized(step.inputs[0]).node
        before = next(other.shape for other in self.steps if other.name == step.inputs[0])
        module = pool_module(step, before)
        node = self._call(step, module, node)
        kind = "average-pool" if isinstance(module, AveragePool) else "global-pool"
        if step.kind == "position-mean" and len(step.shape) == 2:
            node = self.graph.call_function(torch.flatten, (node, 1))
        return _Value(node, step.name, kind)

    def _layer(self, step: Step) -> _Value:
        source = self._quantized(step.inputs[0])
        grid = source.grid
        assert grid is not None
        layer = _quantized_layer(step, grid)
        return _Value(self._call(step, layer, source.node), step.name, step.kind)

    def _quantized(self, name: str) -> _Value:
        value = self.values[name]
        if value.grid is None:
            self._quantize(value)
        return value

    def _quantize(self, value: _Value) -> None:
        grid = ActivationGrid(value.name, self.scales, signed=value.rectifier is None)
        target = self._unique(f"quantize_{value.name}")
        self.modules[target] = Quantizer(grid, value.rectifier, offset_first=value.kind == "average-pool")
        value.node = self.graph.call_module(target, (value.node,))
        value.grid = grid

    def _logits(self, name: str) -> fx.Node:
        """The output: a linear layer's exact accumulators as they are, everything else on a grid."""
        value = self.values[name]
        direct = next(step.kind for step in self.steps if step.name == name) == "linear"
        if value.grid is None and direct and value.rectifier is None:
            return value.node
        return self._quantized(name).node

    def _call(self, step: Step, module: nn.Module, node: fx.Node) -> fx.Node:
        target = step.target if isinstance(module, WeightedLayer) else self._unique(f"pool_{step.name}")
        self.modules[target] = module
        return self.graph.call_module(target, (node,))

    def _unique(self, target: str) -> str:
        taken = {step.target for step in self.steps} | set(self.modules)
        while target in taken:
            target += "_"
        return target


def _fold_norms(steps: list[Step]) -> list[Step]:
    """The steps without batch norms: each is folded into the (copied) convolution or linear layer before it."""
    users = Counter(name for step in steps for name in step.inputs)
    by_name = {step.name: step for step in steps}
    renamed: dict[str, str] = {}
    kept = []
    for step in steps:
        step.inputs = tuple(renamed.get(name, name) for name in step.inputs)
        if step.kind != "batch-norm":
            kept.append(step)
            continue
        layer = by_name[step.inputs[0]]
        if layer.kind not in ("convolution", "linear") or users[layer.name] != 1:
            raise UnsupportedLayerError(
                f"the batch norm {step.target!r} does not directly follow a convolution or linear layer of its own: "
                "put it there, so that it can be folded"
            )
        _fold_into(layer, step)
        renamed[step.name] = layer.name
        users[layer.name] = users[step.name]
    return kept


def _fold_into(layer: Step, norm: Step) -> None:
    module = layer.module
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)
    assert isinstance(norm.module, nn.BatchNorm1d | nn.BatchNorm2d)
    weight, bias = fold(module.weight, module.bias, norm.module)
    module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)


def _quantized_layer(step: Step, grid: ActivationGrid) -> WeightedLayer:
    module = step.module
    if isinstance(module, nn.Linear):
        if len(step.shape) != 2:
            raise UnsupportedLayerError(
                f"the linear layer {step.target!r} works on {len(step.shape)} axes: "
                "flatten its input to [batch, features]"
            )
        return QuantizedLinear(module.weight, module.bias, grid)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    layer = QuantizedConv1d if isinstance(module, nn.Conv1d) else QuantizedConv2d
    return layer(module.weight, module.bias, grid, **convolution_geometry(step.target, module))


def _check_flatten(step: Step) -> None:
    module = step.module
    assert isinstance(module, nn.Flatten)
    if module.start_dim != 1 or len(step.shape) != 2:
        raise UnsupportedLayerError(
            f"{step.target or step.name!r} flattens from axis {module.start_dim}: flatten all axes but the batch"
        )
