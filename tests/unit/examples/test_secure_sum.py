"""The secure sum of examples/secure_sum.py is the plain one, of all but the device that is lost."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "secure_sum.py"


def test_the_sum_is_right_without_the_lost_device(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    members, secure, plain = (line.split(":")[1].strip() for line in capsys.readouterr().out.splitlines())
    assert members.split(", ") == [f"device-{number}" for number in (0, 1, 2, 4, 5, 6)]
    assert secure == plain
