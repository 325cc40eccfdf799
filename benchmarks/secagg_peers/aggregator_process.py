"""An aggregator in a process of its own, so that its time and its memory are nobody else's."""

import multiprocessing
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.secagg_peers.clocks import Cost
from fedmesh.secagg import Aggregator, Identity, Roster, SessionHeader
from fedmesh.secagg.masks import expand

Outgoing = list[tuple[str, bytes]]


@dataclass(slots=True)
class Report:
    """What an aggregator did: cost by step, bytes that its process grew by at most, and the sum."""

    steps: dict[str, Cost] = field(default_factory=dict)
    peak_bytes: int = 0
    total: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    survivors: tuple[str, ...] = ()


class AggregatorProcess:
    """`handle` and `advance` of an Aggregator that lives elsewhere; `report` when its result is there."""

    def __init__(self, header: SessionHeader, identity: Identity, roster: Roster, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        told = (header.to_bytes(), identity.private_bytes(), roster.to_bytes(), threads)
        self._process = context.Process(target=_serve, args=(there, *told), daemon=True)
        self._process.start()
        there.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(10)

    def handle(self, sender: str, message: bytes) -> Outgoing:
        outgoing: Outgoing = self._ask("handle", sender, message)
        return outgoing

    def advance(self) -> Outgoing:
        outgoing: Outgoing = self._ask("advance")
        return outgoing

    def report(self) -> Report:
        report: Report = self._ask("report")
        return report

    def _ask(self, *request: Any) -> Any:
        self._pipe.send(request)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe: Connection, header: bytes, private: bytes, roster: bytes, threads: int) -> None:
    aggregator = Aggregator(
        SessionHeader.from_bytes(header), Identity.from_private(private), Roster.from_bytes(roster), threads=threads
    )
    expand(bytes(32), 1 << 20, np.uint16)  # what is made once in a process is no session's
    report, before = Report(), _resident("VmRSS")
    while True:
        try:
            kind, *rest = pipe.recv()
        except EOFError:
            return
        if kind == "report":
            result = aggregator.result
            assert result is not None
            report.peak_bytes = _resident("VmHWM") - before
            report.total, report.survivors = result.total, result.survivors
            pipe.send(report)
            continue
        step, cpu, wall = aggregator.step, time.process_time(), time.perf_counter()
        try:
            answer: Any = aggregator.handle(*rest) if kind == "handle" else aggregator.advance()
        except Exception as error:  # noqa: BLE001 - it is raised where the question was asked
            answer = error
        cost = Cost(time.process_time() - cpu, time.perf_counter() - wall)
        report.steps[step] = report.steps.get(step, Cost(0, 0)) + cost
        pipe.send(answer)


def _resident(which: str) -> int:
    """Bytes of memory of this process: now (VmRSS), or at most since it was started (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024
