"""What the laboratory's commands have in common: their options, the federation that they examine, their files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh.cli.printing import json_text
from fedmesh.cli.simulate import (
    DATA_HELP,
    check_data_folder,
    is_interrupt,
    make_writable,
    refuse_without,
    stopped_as_by_ctrl_c,
)

if TYPE_CHECKING:
    from fedmesh.events import EventSink
    from fedmesh.federation.scenario import Scenario
    from fedmesh.simulation.laboratory.subject import Subject

__all__ = ["Assignments", "Data", "Json", "Out", "Quiet", "ScenarioName", "Seed", "laboratory", "write"]

ScenarioName = Annotated[str, typer.Argument(metavar="SCENARIO|FILE", help="A scenario's name, or a TOML file.")]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed, over the scenario's.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Any key over the scenario's; can be repeated."),
]
Data = Annotated[Path | None, typer.Option(metavar="DIR", envvar="FEDMESH_DATA", help=DATA_HELP)]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for plots and a JSON file; none by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@contextmanager
def laboratory(
    scenario: str,
    seed: int | None,
    assignments: Sequence[str] | None,
    data: Path | None,
    out: Path | None,
    *,
    quiet: bool,
) -> "Iterator[tuple[Subject, EventSink]]":
    """The federation of a scenario before its first round, and progress on stderr until the context ends.

    Raises:
        ConfigError: there is no such scenario, something is not installed, or `out` cannot be written.
    """
    from fedmesh.cli.progress import progress

    check_data_folder(data)
    chosen = _chosen(scenario, seed, assignments)
    for module in ("sklearn", "matplotlib", "torch", "opacus"):
        refuse_without(module)
    if out is not None:
        make_writable(out, called="folder")
    try:
        with stopped_as_by_ctrl_c(), progress(quiet=quiet, title="Examining") as events:
            from fedmesh.federation.start import one_thread
            from fedmesh.simulation.laboratory.subject import prepare

            with one_thread():
                yield prepare(chosen, data_dir=data, events=events), events
    except ImportError as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        raise


def write(out: Path, name: str, content: Mapping[str, Any]) -> None:
    """Writes `content` as JSON to the file `name` in `out`. Raises: ConfigError: it cannot be written."""
    from fedmesh.files import write_atomically

    write_atomically(out / name, json_text(content).encode())


def _chosen(scenario: str, seed: int | None, assignments: Sequence[str] | None) -> "Scenario":
    from fedmesh.cli import overrides
    from fedmesh.federation import scenarios

    told = overrides.parse(assignments or [])
    return scenarios.load(scenario, told if seed is None else {**told, "seed": seed})
