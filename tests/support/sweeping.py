"""A crew that runs nothing and leaves results all the same, and what processes of a sweep can do instead of a run."""

import json
import os
import signal
import time
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fedmesh.events import Event
from fedmesh.federation.directory import RunDirectory
from fedmesh.federation.scenario import Scenario
from fedmesh.simulation.laboratory.sweep.cells import Cell
from fedmesh.simulation.laboratory.sweep.crew import Job
from fedmesh.simulation.laboratory.sweep.facts import CellEnded, CellFailed, CellRound, CellStarted
from fedmesh.simulation.laboratory.sweep.outcome import Outcome
from fedmesh.simulation.laboratory.sweep.process import Request

DATA = "d" * 64


def scenario(**tables: Any) -> Scenario:
    """A scenario that nobody runs."""
    return Scenario.parse({"name": "tiny", "rounds": 4, **tables}, source="test")


def result_of(cell: Cell, accuracy: float, public: float = 0.5) -> dict[str, Any]:
    """What of result.json a sweep reads."""
    private = cell.scenario.privacy.enabled
    return {
        "start": {"accuracy_int8": public, "accuracy_float": public, "loss": 1.0},
        "final": {
            "accuracy_int8": accuracy,
            "accuracy_float": accuracy,
            "epsilon": cell.epsilon * 0.75 if private else None,
            "delta": 1e-5 if private else None,
        },
        "rounds": [
            {"round": number, "bytes_up": 100.0 * number, "failed": "lost" if number == 2 else None}
            for number in range(1, cell.scenario.rounds + 1)
        ],
        "privacy": {"enabled": True, "noise_multiplier": 2.5} if private else {"enabled": False},
        "config": cell.scenario.model_dump(mode="json"),
        "versions": {"fedmesh": "0.1.0"},
        "seconds": 1.5,
    }


def accuracy_of(cell: Cell) -> float:
    """A figure of a cell's own."""
    return 0.9 if cell.mode == "none" else 0.6 + cell.epsilon / 100 + cell.seed / 1000


class FakeCrew:
    """Does its jobs one after another; `fails` maps names of cells to the reason and class of their failure."""

    def __init__(
        self,
        *,
        fails: dict[str, tuple[str, str]] | None = None,
        stop_at: str = "",
        accuracy: Callable[[Cell], float] = accuracy_of,
        data: str = DATA,
    ) -> None:
        self.fails, self.stop_at, self.accuracy, self.data = fails or {}, stop_at, accuracy, data
        self.begun: list[str] = []
        self.resumed: list[str] = []
        self.closed = False

    def work(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """See `Crew.work`."""
        try:
            for job in jobs:
                yield from self._do(job)
        finally:
            self.closed = True

    def _do(self, job: Job) -> Generator[Event, None, None]:
        name = job.cell.name
        (self.resumed if job.resume else self.begun).append(name)
        yield CellStarted(job.cell)
        if not job.resume:
            RunDirectory.create(job.folder, job.cell.scenario, self.data)
        yield CellRound(job.cell, 1)
        if name == self.stop_at:
            raise KeyboardInterrupt
        if name in self.fails:
            yield CellFailed(job.cell, *self.fails[name])
            return
        result = result_of(job.cell, self.accuracy(job.cell))
        (job.folder / "result.json").write_text(json.dumps(result))
        yield CellEnded(job.cell)


def outcome(
    mode: str, epsilon: float, seed: int, accuracy: float, *, public: float = 0.5, spent: float | None = None
) -> Outcome:
    """A cell's figures."""
    private = mode != "none"
    return Outcome(
        mode=mode,
        epsilon=epsilon,
        delta=1e-5 if private else None,
        seed=seed,
        accuracy_int8=accuracy,
        accuracy_float=accuracy,
        public_only=public,
        gain=accuracy - public,
        epsilon_spent=(epsilon if spent is None else spent) if private else None,
        rounds=3,
        lost_rounds=0,
        noise_multiplier=1.25 if private else None,
        bytes_up=1000.0,
        seconds=2.0,
        data=DATA,
        versions={"fedmesh": "0.1.0"},
    )


def behave(channel: Connection, request: Request) -> None:
    """In a process: does what the folder's name says, in place of a run."""
    word = Path(request.folder).name.partition("-")[0]
    Path(f"{request.folder}.pid").write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")
    channel.send_bytes(json.dumps({"round": 0}).encode())
    if word == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "silent":
        return
    if word == "slow":
        time.sleep(600)
    if word == "failed":
        channel.send_bytes(json.dumps({"failed": "it rained", "kind": "RoundError"}).encode())
        return
    channel.send_bytes(json.dumps({"done": True}).encode())
