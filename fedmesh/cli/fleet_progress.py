"""What a coordinator tells, on stderr: a table that is kept up to date on a terminal, a line a fact elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import TYPE_CHECKING

from fedmesh.cli.progress import described
from fedmesh.events import (
    DeviceAnswered,
    DeviceFailed,
    DeviceReplied,
    DeviceSeen,
    Event,
    EventSink,
    ModelReported,
    Notice,
    OfTask,
    PacketRefused,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    RunStopped,
    StageStarted,
    StepDone,
    WaitingForDevices,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["fleet_progress"]

_ENDS: dict[type[Event], str] = {RunFinished: "finished", RunStopped: "stopped", RunPaused: "paused"}


@contextmanager
def fleet_progress() -> Iterator[EventSink]:
    """The sink that shows what it is told on stderr until the context ends."""
    from rich.console import Console

    console = Console(file=sys.stderr, highlight=False)
    lines = Lines(console)
    lines.handle(Notice("loading"))
    if not console.is_terminal:
        yield lines.handle
        return
    from rich.live import Live

    board = Board()
    with Live(get_renderable=board.table, console=console, refresh_per_second=4):

        def both(event: Event) -> None:
            board.handle(event)
            lines.handle(event)  # what is printed while the table is alive scrolls by above it

        yield both


class Lines:
    """One line a fact that an operator would want in a log."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._rounds: dict[str, int] = {}
        self._task = ""

    @singledispatchmethod
    def handle(self, event: Event) -> None:
        """Facts that say nothing to a reader of lines are passed over."""

    @handle.register
    def _(self, event: OfTask) -> None:
        self._task = event.task
        self.handle(event.event)
        self._task = ""

    @handle.register
    def _(self, event: Notice) -> None:
        self._write(event.text)

    @handle.register
    def _(self, event: RunStarted) -> None:
        self._rounds[self._task] = event.rounds
        resumed = f", going on at round {event.first_round}" if event.first_round > 1 else ""
        self._write(f"{event.rounds} rounds, planned for {event.devices} devices{resumed}")

    @handle.register
    def _(self, event: StepDone) -> None:
        self._write(f"{event.what}: {event.seconds:.1f} s")

    @handle.register
    def _(self, event: WaitingForDevices) -> None:
        self._write(f"waiting for devices: {event.present} are there, round {event.round} wants {event.wanted}")

    @handle.register
    def _(self, event: RoundFinished) -> None:
        self._write(
            f"round {event.round}/{self._rounds.get(self._task, '?')}: {described(event)}, {event.seconds:.1f} s"
        )

    @handle.register
    def _(self, event: DeviceAnswered) -> None:
        self._write(f"{event.device} takes part" if event.accepted else f"{event.device} declines: {event.why}")

    @handle.register
    def _(self, event: DeviceFailed) -> None:
        self._write(f"round {event.round}, {event.stage}: device {event.device} fell out: {event.reason}")

    @handle.register
    def _(self, event: PacketRefused) -> None:
        self._write(f"refused a packet from {event.sender}: {event.code}")

    @handle.register
    def _(self, event: ModelReported) -> None:
        self._write(f"{event.device}, model {event.version}: {event.outcome}")

    @handle.register
    def _(self, event: RunFinished) -> None:
        self._write(f"finished after {event.seconds:.1f} s")

    @handle.register
    def _(self, event: RunStopped) -> None:
        given_up = ", the round under way was given up" if event.abandoned else ""
        self._write(f"stopped behind round {event.last_round}{given_up}")

    @handle.register
    def _(self, event: RunPaused) -> None:
        self._write(f"paused behind round {event.last_round}, until fedmesh runs resume")

    @handle.register
    def _(self, event: RunResumed) -> None:
        self._write(f"goes on with round {event.round}")

    def _write(self, line: str) -> None:
        """`line`, with nothing in it that a terminal would take for a command."""
        text = "".join(letter if letter.isprintable() else "?" for letter in line)
        self._console.print(f"{self._task}: {text}" if self._task else text, markup=False, soft_wrap=True)


@dataclass(slots=True)
class _Row:
    rounds: int = 0
    round: int = 0
    doing: str = "preparing"
    asked: int = 0
    answered: int = 0
    devices: set[str] = field(default_factory=set)
    last: str = ""


class Board:
    """Tasks and what each is at. Told from several threads, drawn from another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, _Row] = {}
        self._seen: dict[str, bool] = {}
        self._begun = time.monotonic()

    def handle(self, event: Event) -> None:
        """Takes a fact in."""
        with self._lock:
            if isinstance(event, OfTask):
                self._change(self._rows.setdefault(event.task, _Row()), event.event)
            elif isinstance(event, DeviceSeen):
                self._seen[event.device] = event.available

    def table(self) -> "Table":
        """As it is now."""
        from rich.table import Table

        with self._lock:
            willing = sum(self._seen.values())
            table = Table(title=f"{len(self._seen)} devices seen, {willing} available", title_justify="left")
            for name in ("task", "round", "now", "answered", "devices", "last round"):
                table.add_column(name)
            for task, row in self._rows.items():
                of = f"{row.round}/{row.rounds}" if row.rounds else ""
                answered = f"{row.answered}/{row.asked}" if row.asked else ""
                table.add_row(task, of, row.doing, answered, str(len(row.devices)), row.last)
        return table

    @staticmethod
    def _change(row: _Row, event: Event) -> None:
        match event:
            case RunStarted():
                row.rounds, row.round, row.doing = event.rounds, event.first_round - 1, "waiting for devices"
            case WaitingForDevices():
                row.doing = f"waiting: {event.present} of {event.wanted} devices"
            case RoundStarted():
                row.round = event.round
            case StageStarted():
                row.doing, row.asked, row.answered = event.stage, event.devices, 0
            case DeviceReplied() | DeviceFailed():
                row.answered += 1
            case DeviceAnswered():
                (row.devices.add if event.accepted else row.devices.discard)(event.device)
            case RoundFinished():
                row.last, row.asked = described(event), 0
            case RunFinished() | RunStopped() | RunPaused():
                row.doing, row.asked = _ENDS[type(event)], 0
            case RunResumed():
                row.doing = "waiting for devices"
