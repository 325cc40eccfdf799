"""A device killed with SIGKILL at random moments: what its store acknowledged is never forgotten."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "support" / "killed_store.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_nothing_that_was_acknowledged_is_forgotten(tmp_path):
    command = [sys.executable, str(PROGRAM), str(tmp_path / "store"), "100", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    assert found["forgotten"] == []
    assert found["reported"] >= 300  # a child is killed after 0 to 9 facts, however long they take
