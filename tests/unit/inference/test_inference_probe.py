"""The probe takes the model that was meant and no other; what lies beside a model and is no golden set is refused."""

from pathlib import Path

import numpy as np
import pytest
from served_models import write_adding, write_linear

from fedmesh.errors import ConfigError, MismatchError
from fedmesh.inference import Engine
from fedmesh.inference.probe import ARM64_RESIDUAL, Probe, golden_set, probe
from fedmesh.registry import GoldenSet


class Fixed:
    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.logits


LOGITS = np.array([[1.5, -2], [0, 3]], np.float32)
GOLDEN = GoldenSet(np.zeros((2, 4), np.float32), LOGITS)


def test_the_same_bits_pass() -> None:
    Probe(GOLDEN)(Fixed(LOGITS.copy()))


def test_one_bit_is_another_model() -> None:
    other = LOGITS.copy()
    other[1, 1] = np.nextafter(other[1, 1], 9, dtype=np.float32)
    with pytest.raises(MismatchError, match="1 of 2 golden examples"):
        Probe(GOLDEN)(Fixed(other))
    negative_zero = LOGITS.copy()
    negative_zero[1, 0] = -0.0
    with pytest.raises(MismatchError):
        Probe(GOLDEN)(Fixed(negative_zero))


@pytest.mark.parametrize(("off", "passes"), [(0.0009, True), (0.0011, False), (np.nan, False), (np.inf, False)])
def test_a_stated_tolerance(off: float, passes: bool) -> None:
    other = LOGITS.copy()
    other[0, 0] += off
    tried = Probe(GoldenSet(GOLDEN.inputs, LOGITS, 0.001))
    if passes:
        tried(Fixed(other))
        return
    with pytest.raises(MismatchError, match=r"tolerance 0\.001"):
        tried(Fixed(other))


def test_another_number_of_classes() -> None:
    with pytest.raises(MismatchError, match=r"\[2, 3\]; wanted \[2, 2\]"):
        Probe(GOLDEN)(Fixed(np.zeros((2, 3), np.float32)))


def test_a_golden_set_is_of_the_first_examples(tmp_path: Path) -> None:
    write_linear(tmp_path / "m.onnx", np.eye(4)[:, :2])
    engine = Engine(tmp_path / "m.onnx")
    golden = golden_set(engine, np.random.default_rng(0).normal(size=(20, 4)))
    assert golden.inputs.shape == (16, 4)
    assert golden.inputs.dtype == np.float32
    assert golden.tolerance == 0
    Probe(golden)(engine)


def test_only_integer_additions_are_let_off(tmp_path: Path) -> None:
    engine = Engine(write_adding(tmp_path / "m.onnx"))
    assert golden_set(engine, np.zeros((2, 4), np.float32)).tolerance == ARM64_RESIDUAL


def test_the_golden_set_beside_a_model(tmp_path: Path) -> None:
    for name, weights in (("m", np.eye(4)[:, :2]), ("n", 2 * np.eye(4)[:, :2])):
        (tmp_path / name).mkdir()
        write_linear(tmp_path / name / "model.onnx", weights)
    engine, other = (Engine(tmp_path / name / "model.onnx") for name in "mn")
    probe(engine)
    golden = golden_set(engine, np.ones((3, 4), np.float32)).encode()
    for name in "mn":
        (tmp_path / name / "golden.cbor").write_bytes(golden)
    probe(engine)
    with pytest.raises(MismatchError, match="3 of 3 golden examples"):
        probe(other)
    (tmp_path / "m" / "golden.cbor").write_bytes(b"junk")
    with pytest.raises(ConfigError, match="not a golden set"):
        probe(engine)
