"""A sweep's facts as progress on stderr: a bar for all and one a run on a terminal, a line a cell elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import singledispatchmethod
from typing import TYPE_CHECKING

from fedmesh.cli.progress import bars_on
from fedmesh.dashboard.text import counted, percent, seconds
from fedmesh.events import Event, EventSink, ignore
from fedmesh.federation.overrides import NO_PRIVACY
from fedmesh.simulation.laboratory.sweep.cells import Cell
from fedmesh.simulation.laboratory.sweep.facts import CellFailed, CellFinished, CellRound, CellStarted, SweepStarted

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Estimate", "SweepBars", "SweepLines", "sweep_progress"]

_PREPARATION = 3
"""What comes before the first round and after the last, in rounds: a guess, for the time that is left."""


@contextmanager
def sweep_progress(*, quiet: bool) -> Iterator[EventSink]:
    """The sink that shows what it is told on stderr until the context ends."""
    if quiet:
        yield ignore
        return
    from rich.console import Console

    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        yield SweepLines().handle
        return
    with bars_on(console) as bars:
        yield SweepBars(bars).handle


class Estimate:
    """How far a sweep is, and how long it will yet take, from the work that was done since it began.

    Attributes:
        cells: of the sweep; over: how many of them have come to an end, with or without a result.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self.cells = 0
        self.over = 0
        self._work: dict[Cell, int] = {}
        self._done: dict[Cell, int] = {}
        self._before: dict[Cell, int] = {}

    def begin(self, event: SweepStarted) -> None:
        """Takes in the plan; cells that are kept are no work."""
        self._begun = self._clock()
        self.cells = len(event.cells)
        kept = set(event.kept)
        self._work = {cell: cell.scenario.rounds + _PREPARATION for cell in event.cells if cell not in kept}

    def come_to(self, cell: Cell, number: int) -> None:
        """`cell` is at the end of round `number`; what a resumed run had done before is not counted as speed."""
        done = number + _PREPARATION - 1
        if cell not in self._done:
            self._before[cell] = number
        self._done[cell] = done

    def end(self, cell: Cell) -> None:
        """`cell` is over, with or without a result."""
        self.over += 1
        self._done[cell] = self._work.get(cell, 0)

    def was_kept(self, cell: Cell) -> bool:
        """Whether `cell` was finished before the sweep began."""
        return cell not in self._work

    @property
    def share(self) -> float:
        """Of all work that is done, from 0 to 1."""
        total = sum(self._work.values())
        return sum(self._done.values()) / total if total else 1.0

    def left_s(self) -> float | None:
        """Seconds that are left, about; None before anything is known."""
        now = sum(self._done.values()) - sum(self._before.values())
        elapsed = self._clock() - self._begun
        remaining = sum(self._work.values()) - sum(self._done.values())
        return None if now <= 0 or elapsed <= 0 else elapsed / now * remaining

    def left(self) -> str:
        """The same in words; empty where nothing is known or left."""
        left = self.left_s()
        if left is None or left < 1:
            return ""
        return f"about {seconds(round(left, -1)) if left >= 100 else f'{left:.0f} s'} left"


class SweepLines:
    """One line a cell: for logs and pipes."""

    def __init__(self, estimate: Estimate | None = None) -> None:
        self._estimate = estimate or Estimate()

    @singledispatchmethod
    def handle(self, event: Event) -> None:
        """Facts that say nothing to a reader of lines are passed over."""

    @handle.register
    def _(self, event: SweepStarted) -> None:
        self._estimate.begin(event)
        kept = f", {len(event.kept)} finished before" if event.kept else ""
        self._write(f"{counted(len(event.cells), 'cell')}{kept}; {event.jobs} at a time")

    @handle.register
    def _(self, event: CellRound) -> None:
        self._estimate.come_to(event.cell, event.round)

    @handle.register
    def _(self, event: CellFinished) -> None:
        self._estimate.end(event.cell)
        if not self._estimate.was_kept(event.cell):
            self._tell(_finished(event))

    @handle.register
    def _(self, event: CellFailed) -> None:
        self._estimate.end(event.cell)
        self._tell(f"{describe(event.cell)}: failed: {event.reason}")

    def _tell(self, what: str) -> None:
        left = self._estimate.left()
        self._write(f"[{self._estimate.over}/{self._estimate.cells}] {what}{f'; {left}' if left else ''}")

    @staticmethod
    def _write(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class SweepBars:
    """A bar for the sweep, one for each run that is under way, and a line for each that is over."""

    def __init__(self, bars: "Progress", estimate: Estimate | None = None) -> None:
        self._bars = bars
        self._estimate = estimate or Estimate()
        self._all = bars.add_task("Sweep", total=None, note="loading")
        self._runs: dict[Cell, TaskID] = {}

    @singledispatchmethod
    def handle(self, event: Event) -> None:
        """Facts without a place on the screen are passed over."""

    @handle.register
    def _(self, event: SweepStarted) -> None:
        self._estimate.begin(event)
        if event.kept:
            self._bars.console.print(f"[green]✓[/] {counted(len(event.kept), 'cell')} finished before")
        self._update()

    @handle.register
    def _(self, event: CellStarted) -> None:
        rounds = event.cell.scenario.rounds
        self._runs[event.cell] = self._bars.add_task(f"  {describe(event.cell)}", total=rounds + 1, note="preparing")

    @handle.register
    def _(self, event: CellRound) -> None:
        self._estimate.come_to(event.cell, event.round)
        rounds = event.cell.scenario.rounds
        note = f"round {event.round}/{rounds}" if event.round < rounds else "final evaluation"
        self._bars.update(self._runs[event.cell], completed=event.round, note=note)
        self._update()

    @handle.register
    def _(self, event: CellFinished) -> None:
        new = not self._estimate.was_kept(event.cell)
        self._end(event.cell, f"[green]✓[/] {_finished(event)}" if new else "")

    @handle.register
    def _(self, event: CellFailed) -> None:
        from rich.markup import escape

        self._end(event.cell, f"[red]✗[/] {describe(event.cell)}: failed: {escape(event.reason)}")

    def _end(self, cell: Cell, line: str) -> None:
        self._estimate.end(cell)
        if cell in self._runs:
            self._bars.remove_task(self._runs.pop(cell))
        if line:
            self._bars.console.print(line)
        self._update()

    def _update(self) -> None:
        self._bars.update(
            self._all,
            description=f"Sweep {self._estimate.over}/{self._estimate.cells}",
            total=1,
            completed=self._estimate.share,
            note=self._estimate.left(),
        )


def describe(cell: Cell) -> str:
    """A cell in words."""
    if cell.mode == NO_PRIVACY:
        return f"no privacy, seed {cell.seed}"
    return f"{cell.mode}, epsilon {cell.epsilon:g}, seed {cell.seed}"


def _finished(event: CellFinished) -> str:
    outcome = event.outcome
    gain = f"{outcome.gain * 100:+.1f} over public data only"
    return f"{describe(event.cell)}: accuracy {percent(outcome.accuracy_int8)}, {gain}, {seconds(outcome.seconds)}"
