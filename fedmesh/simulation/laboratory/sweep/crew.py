"""Runs of cells in processes of their own, some at a time.

Each run is forked from a server that has imported what a run needs, once: a process that has done nothing else, with
libraries on one thread, so that a figure depends neither on the number of jobs nor on what ran before. A run that dies
takes nobody with it. When this process ends, however it ends, so do the runs; every finished round of theirs is kept.
"""

import contextlib
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from fedmesh.events import Event
from fedmesh.simulation.laboratory.sweep.cells import Cell
from fedmesh.simulation.laboratory.sweep.facts import CellEnded, CellFailed, CellRound, CellStarted
from fedmesh.simulation.laboratory.sweep.process import PRELOADED, Request, run_cell

__all__ = ["Crew", "Job", "Processes"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GRACE_S = 5.0
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """A run to be done in `folder`; `resume` where one was begun."""

    cell: Cell
    folder: Path
    resume: bool


class Crew(Protocol):
    """Those who do the runs."""

    def work(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """Does all `jobs`; the facts of each are a CellStarted, CellRounds, and a CellEnded or a CellFailed.

        Whoever stops early closes the iterator: what runs is then ended, and can be resumed.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Running:
    cell: Cell
    process: BaseProcess


class Processes:
    """A crew of processes on this machine."""

    def __init__(
        self,
        count: int,
        *,
        workers: int = 1,
        data_dir: Path | None = None,
        target: Callable[[Connection, Request], None] = run_cell,
        preloaded: Sequence[str] = PRELOADED,
    ) -> None:
        """At most `count` runs at a time, each with `workers` worker processes; `target` is what runs in a process."""
        self._count, self._workers, self._data_dir, self._target = count, workers, data_dir, target
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preloaded))

    def work(self, jobs: Sequence[Job]) -> Generator[Event, None, None]:
        """See `Crew.work`."""
        waiting, running = deque(jobs), dict[Connection, _Running]()
        try:
            while waiting or running:
                while waiting and len(running) < self._count:
                    job = waiting.popleft()
                    yield CellStarted(job.cell)
                    self._start(job, running)
                for channel in wait(list(running)):
                    assert isinstance(channel, Connection)
                    yield from self._hear(channel, running)
        finally:
            for channel, run in running.items():
                run.process.terminate()
                channel.close()
            for run in running.values():
                _bury(run.process)

    def _start(self, job: Job, running: dict[Connection, _Running]) -> None:
        mine, its = self._context.Pipe()
        request = Request(
            scenario=job.cell.scenario.model_dump_json(),
            folder=str(job.folder.absolute()),
            resume=job.resume,
            workers=self._workers,
            data_dir=None if self._data_dir is None else str(self._data_dir.absolute()),
        )
        process = self._context.Process(target=self._target, args=(its, request), daemon=True, name=job.cell.name)
        running[mine] = _Running(job.cell, process)
        try:
            with _one_thread():
                process.start()
        except BaseException:
            del running[mine]
            mine.close()
            raise
        finally:
            its.close()

    def _hear(self, channel: Connection, running: dict[Connection, _Running]) -> Iterator[Event]:
        """One word of a run, or its end."""
        run = running[channel]
        try:
            word = json.loads(channel.recv_bytes(_MOST_BYTES))
        except (EOFError, OSError):
            word = {"failed": "", "kind": ""}
        if "round" in word:
            yield CellRound(run.cell, word["round"])
            return
        del running[channel]
        channel.close()
        ending = _bury(run.process)
        if "failed" in word:
            yield CellFailed(run.cell, word["failed"] or f"its process {ending}", word["kind"])
        else:
            yield CellEnded(run.cell)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """An environment in which a new process has one thread: the server is started with the first run, and stays so."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _bury(process: BaseProcess) -> str:
    """Waits for the end of `process`, or ends it; how it ended, in words."""
    process.join(_GRACE_S)
    if process.is_alive():
        process.kill()
        process.join()
    code = process.exitcode
    with contextlib.suppress(ValueError):
        process.close()
    if code is not None and code < 0:
        return f"was killed by signal {-code}{'; the system may be out of memory' if code == -9 else ''}"
    return f"exited with status {code}"
