"""The command as a person runs it: as a process, on real digits, interrupted and taken up again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import start, wait_for_round

from fedmesh.cli import main

ROUNDS = 4
SMALL = ("privacy.enabled=false", "partition.clients=4", "model.pretrain_epochs=3")
FAST = [*(f"--set={pair}" for pair in SMALL), "--workers", "2", "--seed", "3"]
TIMEOUT_S = 480

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command in an empty folder."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fedmesh", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)

    return call


def children_of(group: int) -> list[int]:
    """Processes of a process group that are still alive."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            alive.append(int(stat.parent.name))
    return alive


@pytest.mark.slow
def test_interrupted_by_ctrl_c_and_resumed(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "run"
    with start(["simulate", "digits", "--rounds", str(ROUNDS), "--out", str(folder), *FAST], held=True) as process:
        wait_for_round(process, 2)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: everybody in the group gets it
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"fedmesh simulate --resume {folder}" in err
    assert out == ""
    assert children_of(process.pid) == []

    resumed = run("simulate", "--resume", str(folder), "--json")
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    assert [row["round"] for row in result["rounds"]] == list(range(1, ROUNDS + 1))
    assert f"{ROUNDS} rounds, going on at round 3" in resumed.stderr
    assert json.loads((folder / "result.json").read_text()) == result

    inferred = run("infer", str(folder / "model.int8.onnx"), "--data", "digits", "--json")
    assert inferred.returncode == 0, inferred.stderr
    report = json.loads(inferred.stdout)
    assert report["accuracy"] == result["final"]["accuracy_int8"]
    assert report["count"] == result["held_out"]
    assert report["sha256"] == result["final"]["sha256"]
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p95"] <= report["latency_ms"]["p99"]
    assert "seed 3" in report["examples"]


@pytest.mark.slow
def test_quiet_prints_the_run_directory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "digits", "--rounds", "1", "--quiet", *FAST]) == 0
    out, err = capfd.readouterr()  # that of its workers is in it
    assert err == ""
    folder = tmp_path / out.strip()
    assert folder.parent == tmp_path / "runs"
    assert {"result.json", "report.html", "model.int8.onnx", "model.float.onnx"} <= {p.name for p in folder.iterdir()}


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path, run: Run) -> None:
    done = run("simulate", "digits", "--set", "data.name=no-such-set")
    assert done.returncode == 2
    assert "'no-such-set' is not a data set" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_is_full_costs_what_was_unfinished_only(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "run"
    limit = ["sh", "-c", 'ulimit -f 40; exec "$@"', "sh"]  # no file over 20 kB: the public start does not fit
    command = [sys.executable, "-m", "fedmesh", "simulate", "digits", "--rounds", "1", "--out", str(folder), *FAST]
    full = subprocess.run([*limit, *command], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert full.returncode in {1, 2}
    assert "File too large" in full.stderr
    assert "Traceback" not in full.stderr
    assert f"fedmesh simulate --resume {folder}" in full.stderr
    resumed = run("simulate", "--resume", str(folder), "--quiet")
    assert (resumed.returncode, resumed.stdout, resumed.stderr) == (0, f"{folder}\n", "")


def test_resume_of_what_is_no_run(tmp_path: Path, run: Run) -> None:
    done = run("simulate", "--resume", str(tmp_path))
    assert done.returncode == 2
    assert "holds no run" in done.stderr
    assert tmp_path.is_dir()
