"""`infer` runs the examples that were held out, says which, and refuses what it cannot judge."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fedmesh.cli import main
from fedmesh.cli.held_out import _shipped_scenario, held_out
from fedmesh.errors import ConfigError, DataError
from fedmesh.features import fit, save
from fedmesh.federation.scenarios import load
from fedmesh.types import Examples

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDMESH_DATA", raising=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A linear model of [1, 8, 8] images: class k's logit is the brightness of row k % 8."""
    weights = np.zeros((64, 10), np.float32)
    for label in range(10):
        weights[(label % 8) * 8 : (label % 8) * 8 + 8, label] = 1 + label / 100
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "rows",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "model.int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_run(folder: Path, seed: int) -> None:
    scenario = load("digits", {"seed": seed}).model_dump(mode="json")
    (folder / "run.json").write_text(json.dumps({"format": 1, "scenario": scenario, "data_sha256": ""}))


def infer(arguments: list[str], capsys: Capture) -> dict[str, object]:
    assert main(["infer", *arguments, "--json"]) == 0
    report: dict[str, object] = json.loads(capsys.readouterr().out)
    return report


def test_a_file_of_examples(model: Path, tmp_path: Path, capsys: Capture) -> None:
    x = np.zeros((16, 1, 8, 8), np.float32)
    y = np.arange(16) % 8
    x[np.arange(16), 0, y] = 1
    y[12:] = 9  # four wrong labels: rows 0 to 7 say classes 0, 1, 2... or 8, 9
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    report = infer([str(model), "--data", str(tmp_path / "mine.npz")], capsys)
    assert report["count"] == 16
    assert report["accuracy"] == np.mean(np.where(np.arange(16) % 8 < 2, np.arange(16) % 8 + 8, np.arange(16) % 8) == y)
    assert set(report["latency_ms"]) == {"p50", "p95", "p99"}
    assert report["examples"] == f"all of {tmp_path / 'mine.npz'}"
    assert main(["infer", str(model), "--data", str(tmp_path / "mine.npz")]) == 0
    assert "of 16 examples" in capsys.readouterr().out


def test_the_run_beside_the_model_says_what_was_held_out(model: Path, tmp_path: Path) -> None:
    shipped, words = held_out("digits", model, None)
    assert "no run beside the model" in words
    write_run(tmp_path, seed=5)
    examples, words = held_out("digits", model, None)
    assert "seed 5" in words
    assert examples.x.shape != shipped.x.shape or not np.array_equal(examples.x, shipped.x)


def test_a_damaged_run_beside_the_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"scenario": ')
    with pytest.raises(ConfigError, match=r"run\.json is damaged"):
        held_out("digits", model, None)


def test_the_test_part_of_a_file_goes_first(model: Path, tmp_path: Path) -> None:
    x, y = np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64)
    np.savez(tmp_path / "d.npz", x=x, y=y, test_x=x[:3], test_y=y[:3])
    examples, words = held_out(str(tmp_path / "d.npz"), model, None)
    assert len(examples) == 3
    assert words.startswith("test part")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((3, 1, 8, 8), np.float32)}, "y"),
        ({"y": np.zeros(3, np.int64)}, "x"),
        ({"x": np.zeros((3, 1, 8, 8), np.float32), "y": np.zeros(2, np.int64)}, "shape"),
        ({"x": np.full((3, 1, 8, 8), np.nan, np.float32), "y": np.zeros(3, np.int64)}, "NaN"),
        ({"x": np.zeros((3, 1, 9, 9), np.float32), "y": np.zeros(3, np.int64)}, "takes [1, 8, 8]"),
        ({"x": np.zeros((3, 1, 8, 8), np.float32), "y": np.array([0, 1, 77])}, "labels run from 0 to 77"),
    ],
)
def test_files_that_do_not_fit(
    arrays: dict[str, np.ndarray], said: str, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    assert main(["infer", str(model), "--data", str(tmp_path / "bad.npz")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{folder}/none.onnx", "--data", "digits"], "cannot be read"),
        (["{folder}/text.onnx", "--data", "digits"], "is not an ONNX model"),
        (["{model}", "--data", "qwerty"], "'qwerty' is not a data set"),
        (["{model}", "--data", "{folder}/none.npz"], "none.npz"),
        (["{model}", "--data", "{folder}/text.npz"], "text.npz"),
        (["{model}", "--data", "fashion"], "FEDMESH_DATA"),
        (["{model}", "--data", "digits", "--data-dir", "/no/such"], "/no/such is not there"),
        (["{model}", "--data", "digits", "--threads", "0"], "'--threads'"),
        (["{model}"], "Missing option '--data'"),
    ],
)
def test_mistakes(arguments: list[str], said: str, model: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "text.npz").write_text("not arrays")
    assert main(["infer", *(part.format(folder=tmp_path, model=model) for part in arguments)]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_a_set_that_nobody_cut() -> None:
    with pytest.raises(DataError, match="no scenario says what is held out of 'faces'"):
        _shipped_scenario("faces")


def test_features_are_made_of_the_data_first(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((30, 1, 8, 8), np.float32), rng.integers(0, 3, 30)
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    features = fit("hog", Examples(x, y), components=4, bias=0.3)
    save(features, tmp_path / "features.cbor")
    weights = rng.normal(size=(5, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "head",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    head = tmp_path / "head.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), head)
    arguments = [str(head), "--data", str(tmp_path / "mine.npz")]
    report = infer([*arguments, "--features", str(tmp_path / "features.cbor")], capsys)
    assert report["accuracy"] == np.mean((features(x) @ weights).argmax(axis=1) == y)
    assert report["features"] == str(tmp_path / "features.cbor")
    assert main(["infer", *arguments]) == 2  # the head takes vectors, not images
    assert main(["infer", *arguments, "--features", str(head)]) == 2
    assert "is no feature map" in capsys.readouterr().err


def test_where_a_run_drew_people_of_its_own_they_are_judged_on(tmp_path: Path) -> None:
    groups = np.repeat(np.arange(12), 5)
    arrays = {"x": np.arange(60, dtype=np.float32)[:, None], "y": np.arange(60) % 3, "groups": groups}
    file = str(tmp_path / "people.npz")
    np.savez(file, **arrays)
    tables = {"name": "people", "data": {"name": file, "held_out": "ids", "held_out_ids": 4, "public_ids": 2}}
    tables |= {"partition": {"kind": "natural", "clients": 6}}
    (tmp_path / "run.json").write_text(json.dumps({"scenario": tables}))
    examples, words = held_out(file, tmp_path / "model.int8.onnx", None)
    assert len(np.unique(examples.x // 5)) == 4
    assert "held out of" in words
