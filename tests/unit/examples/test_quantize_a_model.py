"""The example that quantizes a model runs, and keeps its promise."""

import runpy
from pathlib import Path

import torch

EXAMPLE = Path(__file__).parents[3] / "examples" / "quantize_a_model.py"


def test_its_int8_model_is_as_good_as_the_float_one(tmp_path: Path, capsys) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        int8, float32 = runpy.run_path(str(EXAMPLE))["main"](tmp_path / "model.onnx")
    assert int8 > 0.9
    assert abs(int8 - float32) < 0.01
    assert "largest logit difference 0.0" in capsys.readouterr().out
    assert (tmp_path / "model.onnx").stat().st_size < (tmp_path / "model.float.onnx").stat().st_size
