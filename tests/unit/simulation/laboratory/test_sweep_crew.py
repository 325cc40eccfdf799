"""Processes that do what a run may do: end well, fail, die, or be stopped."""

import os
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sweeping import behave, scenario

from fedmesh.simulation.laboratory.sweep.cells import Cell
from fedmesh.simulation.laboratory.sweep.crew import Job, Processes
from fedmesh.simulation.laboratory.sweep.facts import CellEnded, CellFailed, CellRound, CellStarted

if TYPE_CHECKING:
    from fedmesh.events import Event


def crew(count: int = 2) -> Processes:
    return Processes(count, target=behave, preloaded=())


def jobs(folder: Path, *words: str) -> list[Job]:
    return [
        Job(Cell("local", 1.0, seed, scenario()), folder / f"{word}-{seed}", resume=False)
        for seed, word in enumerate(words)
    ]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_every_job_is_told_of_whatever_becomes_of_it(tmp_path: Path) -> None:
    todo = jobs(tmp_path, "fine", "failed", "killed", "silent", "fine")
    facts: dict[int, list[Event]] = {}
    for event in crew().work(todo):
        assert isinstance(event, CellStarted | CellRound | CellEnded | CellFailed)
        facts.setdefault(event.cell.seed, []).append(event)
    for seed, job in enumerate(todo):
        assert facts[seed][:2] == [CellStarted(job.cell), CellRound(job.cell, 0)]
    ends = {seed: told[-1] for seed, told in facts.items()}
    assert ends[0] == CellEnded(todo[0].cell)
    assert ends[4] == CellEnded(todo[4].cell)
    assert ends[1] == CellFailed(todo[1].cell, "it rained", "RoundError")
    assert ends[2] == CellFailed(
        todo[2].cell, "its process was killed by signal 9; the system may be out of memory", ""
    )
    assert ends[3] == CellFailed(todo[3].cell, "its process exited with status 0", "")


def test_a_process_has_one_thread_and_this_one_keeps_its_environment(tmp_path: Path) -> None:
    before = dict(os.environ)
    (job,) = jobs(tmp_path, "fine")
    list(crew().work([job]))
    assert Path(f"{job.folder}.pid").read_text().split()[1] == "1"
    assert dict(os.environ) == before


def test_no_more_than_asked_for_run_at_a_time(tmp_path: Path) -> None:
    running, most = 0, 0
    for event in crew(2).work(jobs(tmp_path, *["fine"] * 3)):
        running += isinstance(event, CellStarted)
        running -= isinstance(event, CellEnded)
        most = max(most, running)
    assert (running, most) == (0, 2)


def test_who_stops_early_leaves_no_process_behind(tmp_path: Path) -> None:
    todo = jobs(tmp_path, "slow", "slow", "fine")
    with closing(crew().work(todo)) as facts:
        seen = 0
        for event in facts:
            seen += isinstance(event, CellRound)
            if seen == 2:
                break
    files = sorted(tmp_path.glob("*.pid"))
    assert len(files) == 2
    end = time.monotonic() + 120  # they would sleep for ten minutes
    while any(is_alive(int(file.read_text().split()[0])) for file in files):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_no_jobs_are_no_work() -> None:
    assert list(crew().work([])) == []
