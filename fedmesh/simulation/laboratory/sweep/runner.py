"""A sweep: cells that are not finished are run, those that are finished are read. Whatever stops it, it goes on."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedmesh.errors import ConfigError, DataError
from fedmesh.events import EventSink, ignore
from fedmesh.simulation.laboratory.sweep.cells import Cell
from fedmesh.simulation.laboratory.sweep.crew import Crew, Job
from fedmesh.simulation.laboratory.sweep.facts import CellEnded, CellFailed, CellFinished, SweepStarted
from fedmesh.simulation.laboratory.sweep.folder import SweepFolder
from fedmesh.simulation.laboratory.sweep.means import Point, points_of
from fedmesh.simulation.laboratory.sweep.outcome import Outcome, read_outcome

__all__ = ["Sweep", "run_sweep"]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep has come to.

    Attributes:
        outcomes: of the finished cells, in the order of the plan.
        points: means over seeds.
        failures: cells without a result, and why.
    """

    outcomes: tuple[Outcome, ...]
    points: tuple[Point, ...]
    failures: tuple[tuple[Cell, str], ...]


def run_sweep(cells: Sequence[Cell], path: Path, crew: Crew, *, jobs: int = 1, events: EventSink = ignore) -> Sweep:
    """Has `crew` run what is not finished of `cells` in the folder `path`.

    Args:
        cells: the plan; no two of a name.
        path: the sweep's folder; cells of it that are not in the plan stay as they are.
        crew: does the runs.
        jobs: how many at a time; told to the listeners only.
        events: gets the facts of the sweep.

    Raises:
        ConfigError: `path` holds runs of another scenario, or cannot be written.
        DataError: the data set is missing or broken, for all cells alike.
    """
    outcomes: dict[Cell, Outcome] = {}
    failures: dict[Cell, str] = {}

    def read(cell: Cell) -> None:
        try:
            outcomes[cell] = read_outcome(cell, folder.run(cell))
        except ConfigError as error:
            fail(CellFailed(cell, str(error), "ConfigError"))
        else:
            events(CellFinished(cell, outcomes[cell]))

    def fail(fact: CellFailed) -> None:
        failures[fact.cell] = fact.reason
        events(fact)

    with SweepFolder.opened(path) as folder:
        standing = folder.standing(cells)
        kept = tuple(cell for cell in cells if standing[cell] == "finished")
        events(SweepStarted(tuple(cells), kept, jobs))
        for cell in kept:
            read(cell)
        todo = [
            Job(cell, folder.run(cell), resume=standing[cell] == "begun")
            for cell in cells
            if standing[cell] != "finished"
        ]
        with closing(crew.work(todo)) as facts:
            for fact in facts:
                match fact:
                    case CellEnded():
                        read(fact.cell)
                    case CellFailed():
                        if fact.kind == DataError.__name__ and len(outcomes) == len(kept):
                            raise DataError(fact.reason)  # before any run came through: no other will
                        fail(fact)
                    case _:
                        events(fact)
    _check_same_data(outcomes)
    done = tuple(outcomes[cell] for cell in cells if cell in outcomes)
    return Sweep(done, points_of(done), tuple((cell, failures[cell]) for cell in cells if cell in failures))


def _check_same_data(outcomes: dict[Cell, Outcome]) -> None:
    """Runs whose scenarios cut the same data must have had the same data, however much time lay between them."""
    seen: dict[str, tuple[Cell, str]] = {}
    for cell, outcome in outcomes.items():
        kept = cell.scenario.model_dump_json(include={"seed", "data", "partition", "features"})
        other, digest = seen.setdefault(kept, (cell, outcome.data))
        if digest != outcome.data:
            raise ConfigError(
                f"the data set {cell.scenario.data.name!r} has changed during the sweep: {other.name} and {cell.name} "
                "had different data. Delete the folders of the runs on the old data, and they are run anew"
            )
