"""A sweep stopped, failed, taken up again: with a crew that runs nothing."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sweeping import FakeCrew, accuracy_of, scenario

from fedmesh.errors import ConfigError, DataError
from fedmesh.events import Event
from fedmesh.simulation.laboratory.sweep.cells import Cell, plan_cells
from fedmesh.simulation.laboratory.sweep.facts import CellFailed, CellFinished, CellStarted, SweepStarted
from fedmesh.simulation.laboratory.sweep.folder import SweepFolder
from fedmesh.simulation.laboratory.sweep.runner import run_sweep


def plan(epsilons: Sequence[float] = (1.0, math.inf), seeds: int = 2, **tables: Any) -> tuple[Cell, ...]:
    return plan_cells(scenario(**tables), epsilons=epsilons, modes=["local"], seeds=seeds)


def test_every_cell_is_run_once_and_read(tmp_path: Path) -> None:
    cells, crew, told = plan(), FakeCrew(), list[Event]()
    sweep = run_sweep(cells, tmp_path / "s", crew, jobs=3, events=told.append)
    assert crew.begun == [cell.name for cell in cells]
    assert [(o.mode, o.seed, o.accuracy_int8) for o in sweep.outcomes] == [
        (cell.mode, cell.seed, accuracy_of(cell)) for cell in cells
    ]
    assert sweep.failures == ()
    assert told[0] == SweepStarted(cells, (), 3)
    assert [type(event) for event in told if isinstance(event, CellStarted | CellFinished)] == [
        CellStarted,
        CellFinished,
    ] * 4
    first = sweep.outcomes[1]
    assert (first.delta, first.epsilon_spent, first.noise_multiplier) == (1e-5, 0.75, 2.5)
    assert (first.rounds, first.lost_rounds, first.bytes_up, first.seconds) == (4, 1, 1000.0, 1.5)
    assert first.gain == pytest.approx(accuracy_of(cells[1]) - 0.5)
    free = sweep.outcomes[0]
    assert (free.delta, free.epsilon_spent, free.noise_multiplier) == (None, None, None)


def test_a_sweep_that_was_stopped_goes_on(tmp_path: Path) -> None:
    cells = plan()
    stopped = FakeCrew(stop_at=cells[2].name)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(cells, tmp_path, stopped)
    assert stopped.closed
    crew, told = FakeCrew(), list[Event]()
    sweep = run_sweep(cells, tmp_path, crew, events=told.append)
    assert crew.resumed == [cells[2].name]
    assert crew.begun == [cells[3].name]
    assert told[0] == SweepStarted(cells, cells[:2], 1)
    assert sweep == run_sweep(cells, tmp_path / "whole", FakeCrew())


def test_a_finished_sweep_runs_nothing(tmp_path: Path) -> None:
    first = run_sweep(plan(), tmp_path, FakeCrew())
    crew = FakeCrew()
    assert run_sweep(plan(), tmp_path, crew) == first
    assert crew.begun == crew.resumed == []


def test_more_budgets_and_seeds_add_to_what_is_there(tmp_path: Path) -> None:
    run_sweep(plan((1.0,), seeds=1), tmp_path, FakeCrew())
    crew = FakeCrew()
    sweep = run_sweep(plan((1.0, 3.0), seeds=2), tmp_path, crew)
    assert crew.begun == ["local-eps3-seed1", "local-eps1-seed2", "local-eps3-seed2"]
    assert len(sweep.outcomes) == 4


def test_a_failed_cell_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    cells, told = plan(), list[Event]()
    crew = FakeCrew(fails={cells[1].name: ("every round failed", "NothingLearnedError")})
    sweep = run_sweep(cells, tmp_path, crew, events=told.append)
    assert sweep.failures == ((cells[1], "every round failed"),)
    assert [o.seed for o in sweep.outcomes] == [1, 2, 2]
    assert [event.cell for event in told if isinstance(event, CellFailed)] == [cells[1]]
    again = FakeCrew()
    assert run_sweep(cells, tmp_path, again).failures == ()
    assert again.resumed == [cells[1].name]


def test_data_that_is_missing_stops_the_sweep(tmp_path: Path) -> None:
    cells = plan()
    with pytest.raises(DataError, match="is not at"):
        run_sweep(cells, tmp_path, FakeCrew(fails={cells[0].name: ("the data is not at /data", "DataError")}))


def test_data_that_one_cell_alone_cannot_use_does_not(tmp_path: Path) -> None:
    cells = plan()
    sweep = run_sweep(cells, tmp_path, FakeCrew(fails={cells[1].name: ("too little to calibrate", "DataError")}))
    assert sweep.failures == ((cells[1], "too little to calibrate"),)


def test_a_changed_scenario_is_refused_with_what_differs(tmp_path: Path) -> None:
    run_sweep(plan(), tmp_path, FakeCrew())
    crew = FakeCrew()
    with pytest.raises(ConfigError, match=r"none-epsinf-seed1: client.learning_rate was 0.1, is now 0.3; rounds was 4"):
        run_sweep(plan(rounds=5, client={"learning_rate": 0.3}), tmp_path, crew)
    assert crew.begun == []


def test_a_changed_table_is_refused_for_the_cells_it_is_for(tmp_path: Path) -> None:
    run_sweep(plan(), tmp_path, FakeCrew())
    tables = [{"mode": "local", "epsilon": 1.0, "set": {"rounds": 9}}]
    with pytest.raises(ConfigError, match=r"local-eps1-seed1: rounds was 4, is now 9\nlocal-eps1-seed2") as refused:
        run_sweep(plan(sweep=tables), tmp_path, FakeCrew())
    assert "none" not in str(refused.value)


def test_a_changed_table_for_other_cells_is_not(tmp_path: Path) -> None:
    first = run_sweep(plan(), tmp_path, FakeCrew())
    tables = [{"mode": "local", "epsilon": 3.0, "set": {"rounds": 9}}, {"mode": "shared", "set": {"rounds": 9}}]
    assert run_sweep(plan(sweep=tables), tmp_path, FakeCrew()) == first


def test_a_run_that_was_begun_with_other_settings_is_refused_too(tmp_path: Path) -> None:
    cells = plan()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(cells, tmp_path, FakeCrew(stop_at=cells[0].name))
    with pytest.raises(ConfigError, match="rounds was 4, is now 5"):
        run_sweep(plan(rounds=5), tmp_path, FakeCrew())


def test_data_that_changed_on_the_way_is_found(tmp_path: Path) -> None:
    run_sweep(plan((1.0,), seeds=1), tmp_path, FakeCrew())
    with pytest.raises(ConfigError, match="has changed during the sweep: local-eps1-seed1 and local-eps3-seed1"):
        run_sweep(plan((1.0, 3.0), seeds=1), tmp_path, FakeCrew(data="e" * 64))


def test_what_a_run_leaves_that_never_began_is_no_hindrance(tmp_path: Path) -> None:
    cells = plan()
    folder = tmp_path / "runs" / cells[0].name
    (folder / "ledgers").mkdir(parents=True)
    (folder / ".run.json.0a1b2c3d").write_text("{")
    crew = FakeCrew()
    run_sweep(cells, tmp_path, crew)
    assert cells[0].name in crew.begun


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / plan()[0].name
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("all of it")
    with pytest.raises(ConfigError, match="is no run, and not empty"):
        run_sweep(plan(), tmp_path, FakeCrew())
    assert (folder / "thesis.tex").read_text() == "all of it"


def test_a_ledger_without_a_run_is_left_alone(tmp_path: Path) -> None:
    ledgers = tmp_path / "runs" / plan()[0].name / "ledgers"
    ledgers.mkdir(parents=True)
    (ledgers / "device-0.ledger").write_text("spent")
    with pytest.raises(ConfigError, match="is no run, and not empty"):
        run_sweep(plan(), tmp_path, FakeCrew())
    assert (ledgers / "device-0.ledger").exists()


def test_a_result_that_is_half_written_is_made_again(tmp_path: Path) -> None:
    cells = plan()
    run_sweep(cells, tmp_path, FakeCrew())
    (tmp_path / "runs" / cells[0].name / "result.json").write_text('{"config": ')
    crew = FakeCrew()
    run_sweep(cells, tmp_path, crew)
    assert crew.resumed == [cells[0].name]


def test_a_result_without_figures_is_a_failed_cell(tmp_path: Path) -> None:
    cells = plan()
    run_sweep(cells, tmp_path, FakeCrew())
    file = tmp_path / "runs" / cells[0].name / "result.json"
    file.write_text(json.dumps({"config": json.loads(file.read_text())["config"]}))
    sweep = run_sweep(cells, tmp_path, FakeCrew())
    assert [cell for cell, _ in sweep.failures] == [cells[0]]
    assert "is not the result of a run" in sweep.failures[0][1]


def test_the_directory_of_a_single_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="the directory of a single run"):
        run_sweep(plan(), tmp_path, FakeCrew())


def test_two_sweeps_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with SweepFolder.opened(tmp_path), pytest.raises(ConfigError, match="another sweep is at work"):
        run_sweep(plan(), tmp_path, FakeCrew())
    run_sweep(plan(), tmp_path, FakeCrew())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        run_sweep(plan(), tmp_path / "file" / "s", FakeCrew())
