"""Whether the written model is the trained one: integer kernels only, and the same logits as the torch model."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmesh.errors import ConfigError, MismatchError
from fedmesh.quantization.layers import Quantizer
from fedmesh.quantization.runtime import session_options

__all__ = ["Agreement", "compare", "integer_kernels", "verify"]

_BETWEEN = {
    "Flatten",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Clip",
    "MaxPool",
    "NhwcMaxPool",
    "SpaceToDepth",
}
"""Move or select values of any type; they are on uint8 when no DequantizeLinear stands before them."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How an ONNX model and its torch model agree on `count` inputs.

    Attributes:
        argmax_agreement: share of inputs with the same argmax, 0..1.
        max_abs_logit_difference: in units of the logits; 0.0 means bit-equal.
    """

    count: int
    argmax_agreement: float
    max_abs_logit_difference: float


def compare(
    model: nn.Module, path: str | Path, inputs: Tensor | NDArray[np.float32], *, batch_size: int = 256
) -> Agreement:
    """Runs the torch model and the ONNX file at `path` on the same inputs.

    Args:
        model: prepared and calibrated.
        path: an ONNX file.
        inputs: [N, ...] float32, N >= 1.
        batch_size: how many of them run at once.

    Raises:
        ConfigError: `path` is not an ONNX model, or does not take these inputs.
    """
    batches = inputs if isinstance(inputs, Tensor) else torch.from_numpy(np.array(inputs, dtype=np.float32))
    if not len(batches):
        raise ConfigError("there is no input to compare on: give at least one")
    session = _session(Path(path))
    name = session.get_inputs()[0].name
    same, worst = 0, 0.0
    for batch in torch.split(batches, batch_size):
        with torch.no_grad():
            ours = model(batch).numpy()
        theirs = _run(session, path, name, batch.numpy())
        if theirs.shape != ours.shape:
            raise ConfigError(f"{path} returns {theirs.shape[1:]} for an input, the model {ours.shape[1:]}")
        same += int((ours.argmax(1) == theirs.argmax(1)).sum())
        difference = float(np.abs(ours - theirs).max())
        worst = difference if not difference <= worst else worst  # NaN stays
    return Agreement(len(batches), same / len(batches), worst)


def integer_kernels(path: str | Path) -> Counter[str]:
    """Node type -> count in the graph that ONNX Runtime runs on this machine, after its optimizations.

    Raises:
        MismatchError: something is computed in float. ConfigError: `path` is not an ONNX model.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        _session(Path(path), optimized)
        graph = onnx.load(optimized).graph
    counts = Counter(str(node.op_type) for node in graph.node)
    outputs = {output.name for output in graph.output}
    allowed = {*_BETWEEN, "QuantizeLinear", "DequantizeLinear"}
    sums = {name for node in graph.node if node.op_type == "Sum" for name in node.input}
    for node in graph.node:
        kind = str(node.op_type)
        inner = kind == "DequantizeLinear" and not ({*node.output} <= outputs | sums)
        if inner or not (kind in allowed or kind.startswith("Q") or (kind == "Sum")):
            raise MismatchError(
                f"{path} computes {node.name or kind!r} ({kind}) in float: ONNX Runtime "
                f"{onnxruntime.__version__} found no integer kernel for it; its nodes are {dict(counts)}"
            )
    return counts


def verify(
    model: nn.Module, path: str | Path, inputs: Tensor | NDArray[np.float32], *, batch_size: int = 256
) -> Agreement:
    """`integer_kernels` and `compare` in one: that the file at `path` is `model`.

    Raises:
        MismatchError: a float kernel is left, or with power-of-two scales a logit differs at all.
        ConfigError: `path` is not an ONNX model, or does not take these inputs.
    """
    integer_kernels(path)
    agreement = compare(model, path, inputs, batch_size=batch_size)
    exact = all(m.grid.scales == "power-of-two" for m in model.modules() if isinstance(m, Quantizer))
    if exact and agreement.max_abs_logit_difference != 0.0:
        raise MismatchError(
            f"{path} differs from the trained model by up to {agreement.max_abs_logit_difference} in a logit, wanted "
            "0.0: do not deploy it; an accumulator beyond 2**24 (a very wide layer) or other arithmetic on this "
            "machine (residual additions on arm64: export with residual='sum') can be the cause"
        )
    return agreement


def _session(path: Path, optimized: Path | None = None) -> Any:
    options = session_options()
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ConfigError(f"{path} is not an ONNX model that can be run: {error}") from error


def _run(session: Any, path: str | Path, name: str, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        result: NDArray[np.float32] = session.run(None, {name: batch})[0]
    except Exception as error:  # as above
        wanted = session.get_inputs()[0].shape
        raise ConfigError(f"{path} takes inputs of shape {wanted}, got {list(batch.shape)}: {error}") from error
    return result
