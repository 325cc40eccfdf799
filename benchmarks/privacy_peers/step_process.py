"""A contender in a process of its own, so that its memory is nobody else's, timed a few steps at a time."""

import contextlib
import multiprocessing
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.secagg_peers.clocks import Cost


class StepProcess:
    """Steps of one contender; `peak_bytes` is known once it is up.

    Attributes:
        peak_bytes: that its process grew by at most during its first steps.
    """

    def __init__(self, trainer: str, model: str, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, trainer, model, size), daemon=True)
        self._process.start()
        there.close()
        self.peak_bytes: int = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(10)

    def steps(self, count: int) -> list[Cost]:
        """What each of the next `count` steps costs."""
        self._pipe.send(count)
        costs: list[Cost] = self._answer()
        return costs

    def _answer(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, trainer: str, model: str, size: int) -> None:
    warnings.simplefilter("ignore")
    try:
        _measure(pipe, trainer, model, size)
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - it is raised where the figures were asked for
        pipe.send(error)


def _measure(pipe: Connection, trainer: str, model: str, size: int) -> None:
    import torch

    from benchmarks.privacy_peers.trainers import TRAINERS

    torch.set_num_threads(1)
    TRAINERS[trainer](model, 1)()  # what is made once in a process is no step's
    step = TRAINERS[trainer](model, size)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    step()
    step()
    pipe.send(_resident("VmHWM") - before)
    while True:
        costs = []
        for _ in range(pipe.recv()):
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            costs.append(Cost(time.process_time() - cpu, time.perf_counter() - wall))
        pipe.send(costs)


def _resident(which: str) -> int:
    """Bytes of memory of this process: now (VmRSS), or at most since the peak began (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024
