"""examples/private_sum.py comes near the mean, and one device's part of it tells nothing."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "private_sum.py"


def test_the_mean_is_right_and_a_single_part_is_noise(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    mean, truth, alone, _, epsilon, *_ = map(float, re.findall(r"\d+\.\d+", capsys.readouterr().out))
    # One coordinate's noise is 0.04 of a clip, the mean's over a thousand is 0.0013.
    assert mean == pytest.approx(truth, abs=0.007)
    assert alone > 0.35
    assert 0.9 < epsilon < 1.2
