"""A sweep as a person runs it: real simulations of digits, stopped, taken up again, changed."""

import csv
import json
import signal
import time
from pathlib import Path

import pytest
from small_runs import cli, finish, start

MOST_WAIT_S = 400


def arguments(out: Path, *more: str) -> list[str]:
    few = ["--set=partition.clients=4", "--set=model.pretrain_epochs=3", "--set=privacy.steps=2", "--set=rounds=2"]
    parts = ["--epsilon", "8,inf", "--seeds", "2", "--modes", "local"]
    return ["privacy", "sweep", "digits", "--out", str(out), *few, *parts, *more]


@pytest.mark.slow
def test_a_sweep_is_stopped_goes_on_and_is_the_same_again(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    process = start(arguments(out, "--jobs", "2"))
    end = time.monotonic() + MOST_WAIT_S
    while not any((out / "runs").glob("*/journal.sqlite3")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, printed, told = finish(process)
    assert (code, printed) == (130, "")
    assert "the same command goes on" in told
    assert "Traceback" not in told

    code, printed, told = cli(*arguments(out, "--json"))
    assert code == 0, told
    content = json.loads(printed)
    assert content == json.loads((out / "sweep.json").read_text())
    assert [(cell["mode"], cell["seed"]) for cell in content["cells"]] == [
        ("none", 1), ("local", 1), ("none", 2), ("local", 2),
    ]  # fmt: skip
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    for cell, row in zip(content["cells"], rows, strict=True):
        result = json.loads((out / cell["run"] / "result.json").read_text())
        assert cell["accuracy_int8"] == result["final"]["accuracy_int8"] == float(row["accuracy_int8"])
        assert cell["public_only"] == result["start"]["accuracy_int8"]
        assert cell["epsilon_spent"] == result["final"]["epsilon"]
        assert result["config"]["seed"] == cell["seed"]
        assert result["privacy"]["enabled"] == (cell["mode"] == "local")
    assert 0 < content["cells"][1]["epsilon_spent"] <= 8
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert list((out / "runs").glob("*.log")) == []

    # One at a time, without a stop, and with fewer seeds and budgets: the same figures.
    code, printed, told = cli(*arguments(tmp_path / "again", "--jobs", "1", "--seeds", "1", "--epsilon", "8", "--json"))
    assert code == 0, told
    steady = {"seconds", "bytes_up"}  # a run that was stopped has exchanged some keys twice
    again = json.loads(printed)
    for one, other in zip(content["cells"][1:2], again["cells"], strict=True):
        assert {k: v for k, v in one.items() if k not in steady} == {k: v for k, v in other.items() if k not in steady}

    # Nothing is left to do; another scenario is refused.
    code, printed, told = cli(*arguments(out, "--quiet"))
    assert (code, printed, told) == (0, f"{out}\n", "")
    code, _, told = cli(*arguments(out, "--set=rounds=3"))
    assert code == 2
    assert "rounds was 2, is now 3" in told


@pytest.mark.slow
def test_cells_that_fail_are_told_and_the_command_fails(tmp_path: Path) -> None:
    code, printed, told = cli(*arguments(tmp_path, "--set=strategy.name=nobody", "--seeds", "1", "--json"))
    assert code == 1
    content = json.loads(printed)
    assert content["cells"] == content["aggregates"] == []
    assert len(content["failures"]) == 2
    assert "nobody" in content["failures"][0]["reason"]
    assert "error: 2 of 2 cells failed; the same command tries them again:" in told
    assert "Traceback" not in told
    assert not (tmp_path / "sweep.png").exists()
