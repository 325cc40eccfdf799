"""A model cut before its last linear layer: the int8 graph of the rest, for devices that train that layer alone.

What the graph gives is what the layer sees in the fake-quantized torch model: bit-equal under power-of-two scales, up
to float rounding under free ones, like the whole model's logits. `check_backbone` holds a graph against its model.
"""

import numpy as np
import onnxruntime
import torch
from torch import Tensor, fx

from fedmesh.errors import ConfigError, MismatchError, UnsupportedLayerError
from fedmesh.quantization.export import Residual
from fedmesh.quantization.head import Head
from fedmesh.quantization.int8_writer import Int8Writer, Value
from fedmesh.quantization.layers import QuantizedLinear, Quantizer, WeightedLayer
from fedmesh.quantization.model import arrays_of
from fedmesh.quantization.runtime import session_options
from fedmesh.quantization.writer import walk
from fedmesh.types import Float32

__all__ = ["FEATURES", "check_backbone", "export_backbone", "head_of"]

FEATURES = "features"
"""Name of the output: float32 [batch, width], the input of the last layer."""


def head_of(model: fx.GraphModule) -> Head:
    """The last layer of a prepared model.

    Raises:
        UnsupportedLayerError: the model does not end with a linear layer.
        ConfigError: it is not prepared.
    """
    name, layer = _last(model)
    arrays = arrays_of(model)
    quantizers = [m for m in model.modules() if isinstance(m, Quantizer) and m.grid is layer.input_grid]
    return Head(
        names=tuple(arrays),
        shapes=tuple(tuple(array.shape) for array in arrays.values()),
        weight=f"{name}.weight",
        bias=None if layer.bias is None else f"{name}.bias",
        grid=layer.input_grid.name,
        signed=quantizers[0].grid.signed,
    )


def export_backbone(model: fx.GraphModule, *, example: Tensor, residual: Residual = "add") -> bytes:
    """The int8 ONNX model of all but the last layer, as bytes: input ``input``, output ``features``, both float32.

    Args:
        model: prepared and calibrated.
        example: one batch of inputs; only its shape matters.
        residual: see `fedmesh.quantization.export_int8`.

    Raises:
        UnsupportedLayerError: the model does not end with a linear layer.
        ConfigError: it is not prepared or not calibrated.
    """
    name, layer = _last(model)
    shape = tuple(example.shape[1:])
    writer = _Backbone(name, "Add" if residual == "add" else "Sum", shape)
    with torch.no_grad():
        result = walk(writer, model)
        return writer.onnx.serialize(result, shape, (layer.weight.shape[1],), output=FEATURES)


def check_backbone(model: fx.GraphModule, data: bytes, inputs: Float32) -> None:
    """Runs both on `inputs`, [N, ...] float32, N >= 1.

    Raises:
        MismatchError: `data` does not give what the last layer of `model` sees.
    """
    try:
        session = onnxruntime.InferenceSession(data, session_options(), providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {session.get_inputs()[0].name: inputs})
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise MismatchError(f"the backbone cannot be run on inputs {list(inputs.shape)}: {error}") from error
    _, layer = _last(model)
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        with torch.no_grad():
            model(torch.from_numpy(inputs))
    finally:
        hook.remove()
    want = seen[0].numpy()
    difference = float(np.abs(got - want).max()) if got.shape == want.shape else np.inf
    grid = layer.input_grid
    if not difference <= (0.0 if grid.scales == "power-of-two" else grid.step):
        raise MismatchError(
            f"the backbone's features {list(got.shape)} differ from the trained model's {list(want.shape)} by up to "
            f"{difference}: do not send it; the causes are those of a model that differs (docs/quantization.md)"
        )


class _Backbone(Int8Writer):
    """Writes nothing of the layer `last`: its value is its dequantized input."""

    def __init__(self, last: str, addition_op: str, input_shape: tuple[int, ...]) -> None:
        super().__init__(addition_op, input_shape)
        self._last = last

    def layer(self, name: str, layer: WeightedLayer, x: Value) -> Value:
        """As `Int8Writer.layer`, for all but the last one."""
        return Value(self.dequantized(x)) if name == self._last else super().layer(name, layer, x)


def _last(model: fx.GraphModule) -> tuple[str, QuantizedLinear]:
    """Name and module of the last layer."""
    if not (isinstance(model, fx.GraphModule) and any(isinstance(m, Quantizer) for m in model.modules())):
        raise ConfigError(f"a {type(model).__name__} is not a prepared model: call fedmesh.quantization.prepare first")
    output = next(node for node in model.graph.nodes if node.op == "output")
    last = output.all_input_nodes[0]
    layer = model.get_submodule(str(last.target)) if last.op == "call_module" else None
    if not isinstance(layer, QuantizedLinear):
        what = last.name if layer is None else f"{last.target} ({type(layer).__name__})"
        raise UnsupportedLayerError(
            f"the model ends with {what}: a lite device trains the last layer, which has to be a Linear whose outputs "
            "are the logits. Put one there, or let all devices train the whole model"
        )
    return str(last.target), layer
