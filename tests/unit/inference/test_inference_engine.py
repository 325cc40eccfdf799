"""The engine runs ONNX files, says what is wrong with others, and never shows ONNX Runtime's own exceptions."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fedmesh.errors import ConfigError, DataError
from fedmesh.inference import Engine, Latency, evaluate
from fedmesh.inference.engine import _onnxruntime_errors
from fedmesh.types import Examples

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7 - 0.5


def write_linear(path: Path, *, batch: int | str = "batch", inputs: int = 1) -> Path:
    """logits = x @ WEIGHTS, x [batch, 4]."""
    names = [f"input{i}" for i in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[0], "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(10, 4)).astype(np.float32)


@pytest.mark.parametrize("batch", ["batch", 1, 4])
def test_logits_whatever_the_batch(tmp_path: Path, x: np.ndarray, batch: int | str) -> None:
    engine = Engine(write_linear(tmp_path / "m.onnx", batch=batch))
    logits = engine.run(x, batch_size=3)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, x @ WEIGHTS, rtol=1e-5, atol=1e-6)


def test_says_what_it_loaded(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx")
    engine = Engine(path)
    assert engine.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert engine.size_bytes == path.stat().st_size
    assert engine.input_shape == (None, 4)
    assert engine.classes == 3
    assert "m.onnx" in repr(engine)


@pytest.mark.parametrize("content", [b"", b"this is not a model", b"\x08\x07\x12\x04junk" * 9, b"\x00" * 4096])
def test_a_file_that_is_not_a_model(tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"m\.onnx is not an ONNX model"):
        Engine(path)
    assert capfd.readouterr().err == ""


def test_a_truncated_model(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="not an ONNX model"):
        Engine(path)


@pytest.mark.parametrize("name", ["missing.onnx", "."])
def test_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Engine(tmp_path / name)


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"input0.*input1.*wanted one float32"):
        Engine(write_linear(tmp_path / "m.onnx", inputs=2))


def test_no_thread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="threads is 0"):
        Engine(write_linear(tmp_path / "m.onnx"), threads=0)


@pytest.mark.parametrize("shape", [(10, 5), (10, 4, 1), (10,)])
def test_examples_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    engine = Engine(write_linear(tmp_path / "m.onnx"))
    with pytest.raises(DataError, match=r"takes \[4\]"):
        engine.run(np.zeros(shape, np.float32))


def test_no_examples(tmp_path: Path) -> None:
    engine = Engine(write_linear(tmp_path / "m.onnx"))
    with pytest.raises(DataError, match="empty"):
        engine.run(np.zeros((0, 4), np.float32))
    with pytest.raises(DataError, match="no example"):
        evaluate(engine, Examples(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))


def test_every_exception_of_the_binding_is_known() -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as binding

    declared = {v for v in vars(binding).values() if isinstance(v, type) and issubclass(v, BaseException)}
    assert declared <= set(_onnxruntime_errors())
    assert len(declared) >= 10


def test_a_model_that_fails_while_running(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["input", "shape"], ["logits"])],
        "fails",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [5, 3])],
        [numpy_helper.from_array(np.array([5, 3], np.int64), "shape")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ConfigError, match="fails in ONNX Runtime"):
        Engine(path).run(np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("batch", ["batch", 4])
def test_measure_gives_one_latency_a_run(tmp_path: Path, x: np.ndarray, batch: int | str) -> None:
    spent = Engine(write_linear(tmp_path / "m.onnx", batch=batch)).measure(x, runs=17, warm_up=2)
    assert spent.shape == (17,)
    assert (spent > 0).all()


def test_evaluation_by_hand(tmp_path: Path, x: np.ndarray) -> None:
    engine = Engine(write_linear(tmp_path / "m.onnx"))
    logits = (x @ WEIGHTS).astype(np.float64)
    y = logits.argmax(axis=1)
    y[:3] = (y[:3] + 1) % 3
    result = evaluate(engine, Examples(x, y))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert result.accuracy == pytest.approx(0.7)
    assert result.count == 10
    assert result.loss == pytest.approx(-np.log(softmax[np.arange(10), y]).mean(), rel=1e-5)


def test_labels_beyond_the_classes(tmp_path: Path, x: np.ndarray) -> None:
    with pytest.raises(DataError, match="labels run from 0 to 7, the model has 3 classes"):
        evaluate(Engine(write_linear(tmp_path / "m.onnx")), Examples(x, np.array([0] * 9 + [7])))


def test_percentiles_are_latencies_that_were_measured() -> None:
    assert Latency.of([5.0]) == Latency(5.0, 5.0, 5.0)
    assert Latency.of([float(v) for v in range(1, 101)]) == Latency(51.0, 96.0, 100.0)
