"""The sweep command's mistakes, progress and table; what runs is elsewhere."""

import io
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress
from sweeping import outcome, scenario

from fedmesh.cli import main, toml
from fedmesh.cli.sweep_progress import Estimate, SweepBars, SweepLines
from fedmesh.cli.sweep_summary import print_sweep
from fedmesh.federation.scenario import Scenario
from fedmesh.simulation.laboratory.sweep.cells import Cell
from fedmesh.simulation.laboratory.sweep.facts import (
    CellEnded,
    CellFailed,
    CellFinished,
    CellRound,
    CellStarted,
    SweepStarted,
)
from fedmesh.simulation.laboratory.sweep.means import points_of
from fedmesh.simulation.laboratory.sweep.outcome import Outcome
from fedmesh.simulation.laboratory.sweep.runner import Sweep

Capture = pytest.CaptureFixture[str]

FREE, LOCAL, SHARED = (
    Cell("none", math.inf, 1, scenario()),
    Cell("local", 1.0, 1, scenario()),
    Cell("shared", 1.0, 1, scenario()),
)
STORY = (
    SweepStarted((FREE, LOCAL, SHARED), (FREE,), 2),
    CellFinished(FREE, outcome("none", math.inf, 1, 0.9)),
    CellStarted(LOCAL),
    CellStarted(SHARED),
    CellRound(LOCAL, 0),
    CellRound(LOCAL, 1),
    CellEnded(LOCAL),
    CellFinished(LOCAL, outcome("local", 1.0, 1, 0.623)),
    CellFailed(SHARED, "it [rained]", "RoundError"),
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such"], "there is no scenario 'no-such'"),
        (["digits", "--epsilon", "1,x"], "not a list of numbers: wanted one like 1,3,8,inf"),
        (["digits", "--epsilon", "0"], "a budget is above 0"),
        (["digits", "--epsilon", ","], "--epsilon names nothing"),
        (["digits", "--modes", "lokal"], "there are local, shared, client, central"),
        (["digits", "--set", "privacy.mode=local"], "privacy.mode cannot be set"),
        (["digits", "--set", "secure_aggregation.enabled=false"], "in the mode shared at epsilon 1"),
        (["digits", "--data", "no/such/folder"], "no/such/folder is not there"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    out = tmp_path / "sweep"
    assert main(["privacy", "sweep", *arguments, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_lines_tell_of_every_cell_once_and_of_the_time_left(capsys: Capture) -> None:
    clock = Clock()
    lines = SweepLines(Estimate(clock))
    for event in STORY:
        clock.now += 10
        lines.handle(event)
    # Two cells of 4 rounds and 3 of preparation; one is done after 70 s of the sweep: as long again.
    assert capsys.readouterr().err.splitlines() == [
        "3 cells, 1 finished before; 2 at a time",
        "[2/3] local, epsilon 1, seed 1: accuracy 62.3%, +12.3 over public data only, 2.0 s; about 70 s left",
        "[3/3] shared, epsilon 1, seed 1: failed: it [rained]",
    ]


def test_bars_end_with_nothing_but_the_sweeps_own() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, highlight=False, width=100)
    with Progress(console=console) as bars:
        sink = SweepBars(bars)
        for event in STORY:
            sink.handle(event)
            assert len(bars.tasks) <= 3
        assert [task.description for task in bars.tasks] == ["Sweep 3/3"]
        assert bars.tasks[0].percentage == 100
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "accuracy 62.3%, +12.3 over public data only" in text
    assert "failed: it [rained]" in text


def test_rounds_that_a_resumed_run_had_done_before_are_no_speed() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    long = Cell("local", 1.0, 1, scenario(rounds=97))
    estimate.begin(SweepStarted((long,), (), 1))
    estimate.come_to(long, 50)
    clock.now = 10.0
    estimate.come_to(long, 60)
    assert estimate.left_s() == pytest.approx(10.0 / 12 * 38)  # 12 of work in 10 s, 38 are left


def shown(outcomes: list[Outcome], capsys: Capture) -> str:
    print_sweep(Sweep(tuple(outcomes), points_of(outcomes), ()), "tiny", Path("nowhere"))
    return capsys.readouterr().out


def test_the_table_has_means_errors_and_what_is_hopeless(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [outcome("none", math.inf, seed, 0.8 + 0.02 * seed) for seed in (1, 2)]
    rows += [outcome("local", 1.0, seed, 0.6 + 0.02 * seed, spent=0.87) for seed in (1, 2)]
    rows += [outcome("shared", 1.0, 1, 0.31)]
    text = shown(rows, capsys)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "no privacy inf - 83.0 ±1.0 50.0 ±0.0 +33.0 ±1.0" in lines
    assert "local 1 0.87 63.0 ±1.0 50.0 ±0.0 +13.0 ±1.0 -20.0 ±0.0" in lines
    assert "shared 1 1.00 31.0 50.0 -19.0 * -51.0" in lines
    assert "shared at 1: 1 of 2 seeds only" in lines
    assert "* hopeless: not above public data alone by two standard errors" in lines
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_narrow_terminal_cuts_no_figure_off(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    rows = [outcome("none", math.inf, seed, 0.8 + 0.02 * seed) for seed in (1, 2)]
    rows += [outcome("central", 1.0, seed, 0.2 + 0.02 * seed, spent=0.0005) for seed in (1, 2)]
    text = shown(rows, capsys)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 60
    for figure in ("no privacy", "central", "0.0005", "accuracy", "-27.0", "-60.0"):
        assert figure in text


def test_one_seed_has_no_errors(capsys: Capture) -> None:
    text = shown([outcome("local", 1.0, 1, 0.4)], capsys)
    assert "±" not in text
    assert "* hopeless: not above public data alone\n" in text


def test_config_show_writes_tables_of_a_sweep_that_read_back(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\n[[sweep]]\nmode = "none"\n'
        '[[sweep]]\nmode = "shared"\nepsilon = 3\nset = {rounds = 20, "client.learning_rate" = 3.0}\n'
    )
    assert main(["config", "show", str(file)]) == 0
    again = tmp_path / "again.toml"
    again.write_text(capsys.readouterr().out)
    assert Scenario.load(again) == Scenario.load(file)
    assert Scenario.load(file).sweep[1].set == {"rounds": 20, "client.learning_rate": 3.0}


@pytest.mark.parametrize(
    "tables", [{"a": [{"b": 1}, {"c": {"d": "e"}}]}, {"a": {"b": [{"c": 1, "d": [{"e": 2}]}]}}, {"a": [], "b": [1, 2]}]
)
def test_arrays_of_tables_read_back(tables: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(tables)) == tables
