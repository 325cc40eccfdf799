"""Small ONNX models whose answers tell which one gave them, and an int8 model of real digits."""

import hashlib
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES, CLASSES = 4, 5


def write_constant(path: Path, label: int, *, features: int = FEATURES, boost: float = 3.0, logit: float = 0.0) -> str:
    """A model of [batch, features] that says `label` whatever it is given, plus `logit` to all; returns its SHA-256."""
    bias = np.full(CLASSES, logit, np.float32)
    bias[label] += boost
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["input", "w", "b"], ["logits"])],
        "constant",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.zeros((features, CLASSES), np.float32), "w"), numpy_helper.from_array(bias, "b")],
    )
    return _saved(graph, path)


def write_linear(path: Path, weights: np.ndarray) -> str:
    """logits = x @ weights, x [batch, features]; returns its SHA-256."""
    features, classes = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    return _saved(graph, path)


def write_adding(path: Path) -> Path:
    """A model of [batch, 4] that adds its input to itself in ONNX Runtime's QLinearAdd."""
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"]),
            helper.make_node("QLinearAdd", ["q", "s", "z", "q", "s", "z", "s", "z"], ["sum"], domain="com.microsoft"),
            helper.make_node("DequantizeLinear", ["sum", "s", "z"], ["logits"]),
        ],
        "adds",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", FEATURES])],
        [scale, zero],
    )
    _saved(graph, path)
    return path


def write_failing(path: Path, *, at_most: int) -> str:
    """A model of [batch, 4] that fails on batches of another size than `at_most`; returns its SHA-256."""
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["input", "shape"], ["fixed"]),
            helper.make_node("MatMul", ["fixed", "w"], ["logits"]),
        ],
        "fails",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [
            numpy_helper.from_array(np.array([at_most, FEATURES], np.int64), "shape"),
            numpy_helper.from_array(np.zeros((FEATURES, CLASSES), np.float32), "w"),
        ],
    )
    return _saved(graph, path)


def _saved(graph: onnx.GraphProto, path: Path) -> str:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Handwritten digits of scikit-learn: x [N, 1, 8, 8] in 0 to 1 and y, 1,400 to train on and the rest."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = (data.images[:, np.newaxis] / 16).astype(np.float32)
    y = data.target.astype(np.int64)
    return x[:1400], y[:1400], x[1400:], y[1400:]


def write_digits_int8(path: Path, size: Literal["small", "big"]) -> None:
    """An int8 model of `digits`: a small one that is right in four of five and often unsure, or a better one."""
    path.write_bytes(_digits_int8(2, 100) if size == "small" else _digits_int8(8, 150))


@cache
def _digits_int8(channels: int, steps: int) -> bytes:
    """A convolutional network of `channels`, trained for `steps` steps on `digits`, then put into int8."""
    import torch
    from torch import nn

    from fedmesh.quantization import calibrate, export_int8, prepare

    x, y = map(torch.from_numpy, digits()[:2])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * channels, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(steps):
            batch = torch.randint(0, len(x), (128,))
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        prepared = prepare(model.eval(), x[:2])
        calibrate(prepared, [x[:512]])
        with tempfile.TemporaryDirectory() as folder:
            export_int8(prepared.eval(), Path(folder) / "m.onnx", example=x[:1])
            return (Path(folder) / "m.onnx").read_bytes()
