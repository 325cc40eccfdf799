"""Labels and confidences are those of the logits; what is not finite is no prediction."""

from pathlib import Path

import numpy as np
import pytest
from served_models import write_constant, write_linear

from fedmesh.errors import ConfigError, NotFiniteError
from fedmesh.inference import Engine
from fedmesh.inference.prediction import predictions, softmax


def test_softmax_of_large_logits() -> None:
    probabilities = softmax(np.array([[1000, 1000, -1000], [0, np.log(3), -np.inf]], np.float32))
    np.testing.assert_allclose(probabilities, [[0.5, 0.5, 0], [0.25, 0.75, 0]], atol=1e-7)


def test_what_a_prediction_says() -> None:
    one, other = predictions(np.array([[0, 2, 1], [5, 5, 0]], np.float32), model="ab" * 32, seconds=0.5)
    assert (one.label, other.label) == (1, 0)
    assert one.confidence == pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)))
    assert one.model == "ab" * 32
    assert one.seconds == 0.5
    assert one.handoff == "none"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(bad: float) -> None:
    with pytest.raises(NotFiniteError, match="go back"):
        predictions(np.array([[0, 1], [0, bad]], np.float32), model="a", seconds=0)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 0)])
def test_logits_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="wanted logits"):
        predictions(np.zeros(shape, np.float32), model="a", seconds=0)


def test_an_engine_predicts_what_it_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    digest = write_linear(tmp_path / "m.onnx", rng.normal(size=(4, 3)))
    engine, x = Engine(tmp_path / "m.onnx"), rng.normal(size=(7, 4)).astype(np.float32)
    found = engine.predict(x, batch_size=3)
    logits = engine.run(x)
    assert [one.label for one in found] == logits.argmax(axis=1).tolist()
    np.testing.assert_allclose([one.confidence for one in found], softmax(logits).max(axis=1))
    assert {one.model for one in found} == {digest}
    assert all(one.seconds > 0 for one in found)


def test_warm_up_runs_a_model_of_any_batch(tmp_path: Path) -> None:
    write_constant(tmp_path / "m.onnx", 1)
    Engine(tmp_path / "m.onnx").warm_up()
