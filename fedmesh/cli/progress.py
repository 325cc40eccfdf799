"""A run's facts as progress on stderr: bars on a terminal, lines elsewhere; the first before anything is loaded."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatchmethod
from typing import TYPE_CHECKING

from fedmesh.events import (
    DeviceFailed,
    DeviceReplied,
    Event,
    EventSink,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    StageStarted,
    StepDone,
    ignore,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["bars_on", "described", "progress"]


@contextmanager
def progress(*, quiet: bool, title: str = "Preparing") -> Iterator[EventSink]:
    """The sink that shows what it is told on stderr until the context ends; `title` is of what comes before a round."""
    if quiet:
        yield ignore
        return
    from rich.console import Console

    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        lines = Lines()
        yield lines.handle
        lines.close()
        return
    with bars_on(console) as bars:
        sink = Bars(bars, title)
        yield sink.handle
        sink.close()


def bars_on(console: "Console") -> "Progress":
    """Bars with a note and the time, to be entered; what is told between them scrolls by above."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("[dim]{task.fields[note]}[/]"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=False, refresh_per_second=8)


class Lines:
    """One line a step and a round: for logs and pipes."""

    def __init__(self) -> None:
        self._rounds = 0
        self._begun = time.monotonic()
        self._write("loading")

    @singledispatchmethod
    def handle(self, event: Event) -> None:
        """Facts that say nothing to a reader of lines are passed over."""

    @handle.register
    def _(self, event: RunStarted) -> None:
        self._rounds = event.rounds
        resumed = f", going on at round {event.first_round}" if event.first_round > 1 else ""
        self._write(f"{event.name}: {event.devices} devices, {event.rounds} rounds{resumed}")

    @handle.register
    def _(self, event: StepDone) -> None:
        self._write(f"{event.what}: {event.seconds:.1f} s")

    @handle.register
    def _(self, event: RoundFinished) -> None:
        self._write(f"round {event.round}/{self._rounds}: {described(event)}, {event.seconds:.1f} s")

    def close(self) -> None:
        """The last line: everything is written, the report too."""
        self._write(f"done in {time.monotonic() - self._begun:.1f} s")

    @staticmethod
    def _write(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class Bars:
    """A spinner for the preparation, a bar for the rounds and one for the devices of the current round."""

    def __init__(self, bars: "Progress", title: str = "Preparing") -> None:
        self._bars = bars
        self._step = bars.add_task(title, total=None, note="loading")
        self._rounds = 0
        self._round_bar: TaskID | None = None
        self._device_bar: TaskID | None = None

    @singledispatchmethod
    def handle(self, event: Event) -> None:
        """Facts without a place on the screen are passed over."""

    @handle.register
    def _(self, event: StepDone) -> None:
        from rich.markup import escape

        self._bars.console.print(f"[green]✓[/] {escape(event.what)} [dim]{event.seconds:.1f} s[/]")
        if self._round_bar is None:
            self._bars.update(self._step, note="")  # what was loading is there

    @handle.register
    def _(self, event: RunStarted) -> None:
        self._rounds = event.rounds
        self._bars.update(self._step, total=1, note=f"{event.devices} devices, {event.rounds} rounds")

    @handle.register
    def _(self, event: RoundStarted) -> None:
        if self._round_bar is None:
            self._bars.remove_task(self._step)
            self._round_bar = self._bars.add_task("Round", total=self._rounds, completed=event.round - 1, note="")
            self._device_bar = self._bars.add_task("Devices", total=None, note="")
        self._bars.update(self._round_bar, description=f"Round {event.round}/{self._rounds}")

    @handle.register
    def _(self, event: StageStarted) -> None:
        if self._device_bar is not None:
            self._bars.reset(self._device_bar, total=event.devices, description="Devices", note=event.stage)

    @handle.register(DeviceReplied)
    @handle.register(DeviceFailed)
    def _(self, _event: Event) -> None:
        if self._device_bar is not None:
            self._bars.advance(self._device_bar)

    @handle.register
    def _(self, event: RoundFinished) -> None:
        if self._round_bar is not None and self._device_bar is not None:
            self._bars.update(self._round_bar, completed=event.round, note=_short(event))
            if event.round == self._rounds:
                self._bars.remove_task(self._device_bar)
                self._device_bar = None
                self._step = self._bars.add_task("Finishing", total=None, note="final evaluation")

    @handle.register
    def _(self, _event: RunFinished) -> None:
        self._bars.update(self._step, note="report")

    def close(self) -> None:
        """Leaves the bar of the rounds; everything else is over."""
        for task in self._bars.tasks:
            if task.id != self._round_bar:
                self._bars.remove_task(task.id)


def _short(event: RoundFinished) -> str:
    """A round beside its bar, in 80 columns."""
    if event.failed is not None:
        return "failed, the model is as it was"
    spent = "" if event.epsilon is None else f", epsilon {event.epsilon:.2f}"
    return f"accuracy {event.accuracy_int8:.1%}{spent}"


def described(event: RoundFinished) -> str:
    """A round on a line."""
    spent = "" if event.epsilon is None else f", epsilon {event.epsilon:.2f}"
    devices = f"{event.survivors}/{event.clients} devices"
    if event.failed is not None:
        return f"failed, the model is as it was ({event.failed}){spent}, {devices}"
    return f"accuracy {event.accuracy_int8:.1%}, loss {event.loss:.3f}{spent}, {devices}"
