"""The probe takes the model that was meant and no other; a golden file that is none is refused."""

from pathlib import Path

import numpy as np
import pytest
from served_models import write_linear

from fedmesh.errors import ConfigError, MismatchError
from fedmesh.inference import Engine
from fedmesh.inference.probe import ARM64_RESIDUAL, Golden, Probe, golden_beside, tolerance_for
from fedmesh.wire import dumps


class Fixed:
    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits

    def run(self, x: np.ndarray) -> np.ndarray:
        return self.logits


LOGITS = np.array([[1.5, -2], [0, 3]], np.float32)
GOLDEN = Golden(np.zeros((2, 4), np.float32), LOGITS)


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
    probe = Probe(GOLDEN, tolerance=0.001)
    if passes:
        probe(Fixed(other))
        return
    with pytest.raises(MismatchError, match=r"tolerance 0\.001"):
        probe(Fixed(other))


def test_another_number_of_classes() -> None:
    with pytest.raises(MismatchError, match=r"\[2, 3\]; wanted \[2, 2\]"):
        Probe(GOLDEN)(Fixed(np.zeros((2, 3), np.float32)))


def test_only_integer_additions_on_arm64_are_let_off() -> None:
    assert tolerance_for("aarch64", integer_additions=True) == ARM64_RESIDUAL
    assert tolerance_for("aarch64", integer_additions=False) == 0
    assert tolerance_for("x86_64", integer_additions=True) == 0


def test_a_golden_file_beside_a_model(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    write_linear(model, np.eye(4)[:, :2])
    assert golden_beside(model) is None
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    engine = Engine(model)
    (tmp_path / "golden.cbor").write_bytes(dumps({"x": x, "logits": engine.run(x)}))
    golden = golden_beside(model)
    assert golden is not None
    Probe(golden)(engine)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        dumps([1]),
        dumps({"x": np.zeros((2, 4), np.float32)}),
        dumps({"x": np.zeros((2, 4), np.float32), "logits": np.zeros((3, 2), np.float32)}),
        dumps({"x": np.zeros((2, 4)), "logits": np.zeros((2, 2))}),
        dumps({"x": np.zeros((2, 4), np.float32), "logits": np.zeros((2, 2), np.float32), "integer_additions": 1}),
        dumps({"x": np.zeros((2, 4), np.float32), "logits": np.zeros((2, 2), np.float32), "more": 1}),
        dumps({"x": np.zeros((0, 4), np.float32), "logits": np.zeros((0, 2), np.float32)}),
    ],
)
def test_a_golden_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "golden.cbor").write_bytes(content)
    with pytest.raises(ConfigError, match="not a golden set"):
        golden_beside(tmp_path / "m.onnx")
