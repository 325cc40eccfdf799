"""The fleet of examples/mqtt_fleet, as its README says to run it."""

import subprocess
import sys
from pathlib import Path

import pytest
from mqtt_fleet import require_mosquitto

require_mosquitto()
RUN = Path(__file__).parents[2] / "examples" / "mqtt_fleet" / "run.py"


@pytest.mark.slow
def test_a_whole_fleet_on_one_machine(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, RUN, tmp_path / "fleet"], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("round 2: ") and "of 5 devices in the sum" in line for line in lines)
    assert sum("has the last model" in line for line in lines) == 6
    assert "real digits right" in lines[-1]
