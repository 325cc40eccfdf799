"""A traced model as a list of steps: the few operations that the int8 pipeline knows, whatever way they were written.

Functional calls, tensor methods and modules of one operation become the same step; everything else is refused by name.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fedmesh.errors import ConfigError, UnsupportedLayerError
from fedmesh.quantization.operations import MODULES, as_module, hint

__all__ = ["Step", "steps_of"]


@dataclass(slots=True)
class Step:
    """One operation of the model.

    Attributes:
        name: unique. target: dotted path of the module, empty for functional calls.
        module: what computes it (a torch.nn module); None for the input and ``add``.
        kind: ``input``, ``add``, ``output``, or a value of `MODULES`.
        inputs: names of the steps it reads.
        shape: of its result, the batch axis included.
    """

    name: str
    target: str
    kind: str
    inputs: tuple[str, ...]
    module: nn.Module | None
    shape: tuple[int, ...]


class _Shapes(fx.Interpreter):
    """Runs the graph once and keeps the shape of every tensor."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        return result


def steps_of(model: nn.Module, example: Tensor) -> list[Step]:
    """The steps of `model` in order, the last one of kind ``output``; the model is not touched.

    Args:
        example: one batch of inputs [B >= 1, ...], float32; only its shape matters.

    Raises:
        UnsupportedLayerError: an operation without an int8 kernel.
        ConfigError: the model does not take `example`.
    """
    frozen = copy.deepcopy(model).eval()
    if type(model) in MODULES or not any(True for _ in model.children()):
        frozen = nn.Sequential(frozen)  # a bare layer: tracing would look into it instead of at it
    traced = _trace(frozen)
    # Two examples: an axis of length 1 could be taken for the batch.
    batch = torch.cat([example[:1], example[:1]])
    shapes = _Shapes(traced)
    try:
        with torch.no_grad():
            shapes.run(batch)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"the model does not run on an input of shape {tuple(batch.shape)}: {error}") from error
    return _Reader(traced, shapes.shapes).read()


def _trace(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(model)
    except Exception as error:  # the model's own forward runs here: it may raise anything
        raise UnsupportedLayerError(
            f"the forward of {type(model).__name__} cannot be traced ({type(error).__name__}: {error}): write it "
            "without branches or loops that depend on the values of tensors, and with one tensor as its input"
        ) from error


class _Reader:
    def __init__(self, traced: fx.GraphModule, shapes: dict[fx.Node, tuple[int, ...]]) -> None:
        self.traced = traced
        self.shapes = shapes
        self.steps: list[Step] = []
        self.names: dict[fx.Node, str] = {}  # node -> the step that holds its value

    def read(self) -> list[Step]:
        seen: set[int] = set()
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "output":
                self._output(node)
            elif node in self.shapes:  # others compute a shape, for a view
                self._operation(node, seen)
        return self.steps

    def _placeholder(self, node: fx.Node) -> None:
        if self.steps:
            raise UnsupportedLayerError("the model has more than one input: a device trains on one tensor")
        self._append(node, "input", (), None)

    def _output(self, node: fx.Node) -> None:
        value = node.args[0]
        if not (isinstance(value, fx.Node) and value in self.names):
            raise UnsupportedLayerError("the model returns something else than one tensor of logits")
        self.steps.append(Step("output", "", "output", (self.names[value],), None, self.shapes[value]))

    def _operation(self, node: fx.Node, seen: set[int]) -> None:
        reads = tuple(self.names[n] for n in node.all_input_nodes if n in self.names)
        if node.op == "get_attr":
            raise UnsupportedLayerError(
                f"{node.target!r} is a tensor that the model uses itself: put it in a Linear or a convolution"
            )
        if self.shapes[node][:1] != (2,):
            raise UnsupportedLayerError(f"{node.name!r} does not keep the batch as its first axis")
        if node.op == "call_module":
            module: nn.Module | None = self.traced.get_submodule(str(node.target))
            assert module is not None
            if any(True for _ in module.parameters()):
                if id(module) in seen:
                    raise UnsupportedLayerError(
                        f"the layer {node.target!r} is used twice: give each use a layer of its own"
                    )
                seen.add(id(module))
        else:
            first = node.all_input_nodes[0]
            module = as_module(node, self.shapes[first], self.shapes[node])
        if module is None:
            self._append(node, "add", self._terms(node), None)
            return
        kind = MODULES.get(type(module))
        if kind is None:
            raise UnsupportedLayerError(hint(str(node.target), module))
        if kind == "identity":
            self.names[node] = reads[0]
            return
        self._append(node, kind, reads[:1], module)

    def _terms(self, node: fx.Node) -> tuple[str, ...]:
        terms = tuple(self.names[term] for term in node.args if isinstance(term, fx.Node) and term in self.names)
        shapes = {step.shape for step in self.steps if step.name in terms}
        if len(terms) != 2 or len(shapes) != 1:
            raise UnsupportedLayerError(f"{node.name!r} adds something else than two activations of one shape")
        return terms

    def _append(self, node: fx.Node, kind: str, reads: tuple[str, ...], module: nn.Module | None) -> None:
        self.names[node] = node.name
        target = str(node.target) if node.op == "call_module" else ""
        self.steps.append(Step(node.name, target, kind, reads, module, self.shapes[node]))
