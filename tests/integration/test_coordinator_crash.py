"""A coordinator killed with SIGKILL at random moments: no round is lost, and none is done twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from journals import place
from postgres import shared_server

PROGRAM = Path(__file__).parents[1] / "support" / "killed_run.py"
ROUNDS = 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize(
    ("kind", "journal"), [("ours", "file"), ("fedadam", "file"), ("ours", "sqlite"), ("ours", "postgresql")]
)
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(
    tmp_path: Path, kind: str, journal: str
) -> None:
    where = place(journal, tmp_path, lambda: shared_server().database()).where
    rounds = ROUNDS // 2 if journal == "postgresql" else ROUNDS  # it takes longer to open
    command = [sys.executable, str(PROGRAM), where, kind, str(rounds), "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=480, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    assert len(found["kills"]) >= 3
    assert found["kills"] == sorted(found["kills"])
    assert len({kill for kill in found["kills"] if 0 < kill < rounds}) >= 2, "no child died in the middle of the run"
    # A device counts its visits in its Context: more or fewer than rounds would be a round done twice, or lost.
    assert found["resumed"]["records"] == found["whole"]["records"]
    if kind == "ours":
        assert found["resumed"]["arrays"] == found["whole"]["arrays"]
    else:
        for mine, theirs in zip(found["resumed"]["arrays"], found["whole"]["arrays"], strict=True):
            expected = np.frombuffer(bytes.fromhex(theirs), np.float64)
            assert np.frombuffer(bytes.fromhex(mine), np.float64) == pytest.approx(expected, rel=1e-9)
