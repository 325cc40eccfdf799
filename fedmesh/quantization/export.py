"""The prepared graph as an ONNX file: int8 with Q/DQ nodes, or float32 of the same master weights.

Written directly, node by node: the torch exporters leave fake quantization as float arithmetic.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from fedmesh.errors import ConfigError
from fedmesh.files import write_atomically
from fedmesh.quantization.float_writer import FloatWriter
from fedmesh.quantization.int8_writer import Int8Writer
from fedmesh.quantization.layers import Quantizer
from fedmesh.quantization.model import float_function
from fedmesh.quantization.writer import Nodes, walk

__all__ = ["Residual", "export_float", "export_int8"]

Residual = Literal["add", "sum"]


def export_int8(model: nn.Module, path: str | Path, *, example: Tensor, residual: Residual = "add") -> None:
    """Writes the int8 model: input ``input`` float32 [batch, ...], output ``logits`` float32 [batch, classes].

    Args:
        model: prepared and calibrated.
        path: replaced as a whole or not at all.
        example: one batch of inputs; only its shape matters.
        residual: ``add`` runs as the integer kernel QLinearAdd. ``sum`` keeps residual additions in float32 between
            DequantizeLinear and QuantizeLinear: bit-equal on arm64 too, where QLinearAdd is off by up to 2e-3, at 2-5 %
            more time.

    Raises:
        ConfigError: the model is not prepared or not calibrated, or the file cannot be written.
    """
    if residual not in ("add", "sum"):
        raise ConfigError(f"residual is {residual!r}: use 'add' or 'sum'")
    _write(Int8Writer("Add" if residual == "add" else "Sum", tuple(example.shape[1:])), model, Path(path), example)


def export_float(model: nn.Module, path: str | Path, *, example: Tensor) -> None:
    """Writes the float32 model of the same master weights; names and shapes as in `export_int8`.

    Raises:
        ConfigError: the model is not prepared, or the file cannot be written.
    """
    _write(FloatWriter(), model, Path(path), example)


def _write(writer: Nodes[Any], model: nn.Module, path: Path, example: Tensor) -> None:
    if not (isinstance(model, fx.GraphModule) and any(isinstance(m, Quantizer) for m in model.modules())):
        raise ConfigError(f"a {type(model).__name__} is not a prepared model: call fedmesh.quantization.prepare first")
    with torch.no_grad():
        result = walk(writer, model)
        shape = tuple(example.shape[1:])
        write_atomically(path, writer.onnx.serialize(result, shape, _output_shape(model, shape)))


def _output_shape(model: fx.GraphModule, shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        with float_function(model):
            return tuple(model(torch.zeros(1, *shape)).shape[1:])
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"the model does not run on an input of shape {[1, *shape]}: {error}") from error
