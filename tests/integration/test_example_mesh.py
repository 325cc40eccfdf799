"""The mesh of examples/mesh_no_server, as its README says to run it."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "examples" / "mesh_no_server" / "run.py"


@pytest.mark.exhaustive
def test_a_mesh_that_learns_without_a_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, RUN, tmp_path / "mesh"], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert (
        sum(line.startswith(("round 1: certified", "round 2: certified", "round 3: certified")) for line in lines) == 3
    )
    assert sum("rounds paid" in line for line in lines) == 6
    assert "real digits right" in lines[-1]
