"""The facts of a sweep, as they happen."""

from dataclasses import dataclass

from fedmesh.events import Event
from fedmesh.simulation.laboratory.sweep.cells import Cell
from fedmesh.simulation.laboratory.sweep.outcome import Outcome

__all__ = ["CellEnded", "CellFailed", "CellFinished", "CellRound", "CellStarted", "SweepStarted"]


@dataclass(frozen=True, slots=True)
class SweepStarted(Event):
    """A sweep begins, or goes on: of all `cells` there are `kept`, which were finished before."""

    cells: tuple[Cell, ...]
    kept: tuple[Cell, ...]
    jobs: int


@dataclass(frozen=True, slots=True)
class CellStarted(Event):
    """A run of a cell begins, or goes on."""

    cell: Cell


@dataclass(frozen=True, slots=True)
class CellRound(Event):
    """A run has come to the end of a round (0: of its preparation)."""

    cell: Cell
    round: int


@dataclass(frozen=True, slots=True)
class CellEnded(Event):
    """A run is over and has left its result."""

    cell: Cell


@dataclass(frozen=True, slots=True)
class CellFinished(Event):
    """A cell has its figures."""

    cell: Cell
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CellFailed(Event):
    """A run came to no result. `kind` is the error's class, empty if the process ended without a word."""

    cell: Cell
    reason: str
    kind: str = ""
