"""A small builder of ONNX graphs: nodes, constants, one float32 input with a dynamic batch, one float32 output."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["INPUT", "OUTPUT", "OnnxGraph", "scalar"]

INPUT = "input"
OUTPUT = "logits"

_OPSET = 17  # the newest operator used is of opset 13; ONNX Runtime reads 17 since 1.12
_IR_VERSION = 8


class OnnxGraph:
    """Collects nodes in the order in which they run; names are made here and unique."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._count = 0

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds `value` under `name`, once; returns `name`."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(value, name)
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        self._count += 1
        output = f"{op.lower()}_{self._count}"
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def serialize(
        self, result: str, input_shape: tuple[int, ...], output_shape: tuple[int, ...], *, output: str = OUTPUT
    ) -> bytes:
        """The checked model as bytes; tensor `result` becomes the one output, under the name `output`.

        Args:
            input_shape, output_shape: of one example; the batch axis is dynamic.
        """
        for node in self._nodes:
            node.output[:] = [output if name == result else name for name in node.output]
            node.input[:] = [output if name == result else name for name in node.input]
        graph = helper.make_graph(
            self._nodes,
            "fedmesh",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *input_shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *output_shape])],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, producer_name="fedmesh", opset_imports=opsets, ir_version=_IR_VERSION)
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data


def scalar(value: float, dtype: type[np.generic]) -> NDArray[Any]:
    """A tensor without axes, as the pooling kernels want their scales."""
    return np.array(value, dtype=dtype)
