"""``fedmesh privacy sweep``: what a scenario reaches in each privacy mode, at each budget, over some seeds."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh.cli.laboratory import Assignments, Data, ScenarioName
from fedmesh.cli.printing import print_json
from fedmesh.cli.simulate import check_data_folder, refuse_without, stopped_as_by_ctrl_c
from fedmesh.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fedmesh.federation.scenario import Scenario
    from fedmesh.simulation.laboratory.sweep.cells import Cell
    from fedmesh.simulation.laboratory.sweep.runner import Sweep

__all__ = ["HELP", "command"]

HELP = (
    "Compare privacy modes and budgets on a scenario.\n\n"
    "One simulation for each mode, budget and seed, and those without privacy (epsilon inf), in DIR/runs. DIR holds "
    "sweep.csv, sweep.json and sweep.png in the end. What is finished is kept: after an interruption the same command "
    "goes on, and with more budgets, modes or seeds it adds to what is there."
)
_EXIT_FAILED = 1


def command(
    scenario: ScenarioName,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The sweep's folder; new, or of this sweep.")],
    epsilon: Annotated[
        str, typer.Option(metavar="E,E,...", help="Budgets; inf is the same recipe without privacy.")
    ] = "1,3,8,inf",
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Seeds, from the scenario's upward.")] = 3,
    modes: Annotated[
        str, typer.Option(metavar="M,M,...", help="Of local, shared, client and central.")
    ] = "local,shared,client",
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Worker processes of each simulation.")] = 1,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Simulations at a time; by default one a core.")
    ] = None,
    assignments: Assignments = None,
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the content of sweep.json, and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; print the folder only.")] = False,
) -> None:
    """Compare privacy modes and budgets on a scenario."""
    from fedmesh.cli import overrides
    from fedmesh.federation import scenarios
    from fedmesh.federation.overrides import check_free
    from fedmesh.simulation.laboratory.sweep.cells import plan_cells

    check_data_folder(data)
    told = overrides.parse(assignments or [])
    check_free(told, told=True)
    base = scenarios.load(scenario, told)
    cells = plan_cells(base, epsilons=_budgets(epsilon), modes=_listed(modes), seeds=seeds, told=told)
    refuse_without("matplotlib")  # is needed last: learn it first
    sweep = _run(cells, out, data, workers, jobs, quiet=quiet)
    content = _write(sweep, cells, base, told, out)
    if as_json:
        print_json(content)
    elif quiet:
        sys.stdout.write(f"{out}\n")
    else:
        from fedmesh.cli.sweep_summary import print_sweep

        print_sweep(sweep, base.name, out)
    if sweep.failures:
        sys.stdout.flush()
        sys.stderr.write(_failures(sweep, len(cells)))
        raise typer.Exit(_EXIT_FAILED)


def _budgets(text: str) -> list[float]:
    """Raises: ConfigError unless `text` is numbers with commas between them."""
    try:
        return [float(part) for part in _listed(text)]
    except ValueError as error:
        raise ConfigError(f"--epsilon {text!r} is not a list of numbers: wanted one like 1,3,8,inf") from error


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _run(
    cells: "Sequence[Cell]", out: Path, data: Path | None, workers: int, jobs: int | None, *, quiet: bool
) -> "Sweep":
    from fedmesh.cli.sweep_progress import sweep_progress
    from fedmesh.machine import cores
    from fedmesh.simulation.laboratory.sweep.crew import Processes
    from fedmesh.simulation.laboratory.sweep.runner import run_sweep

    count = min(jobs or max(1, cores() // workers), len(cells))
    try:
        with stopped_as_by_ctrl_c(), sweep_progress(quiet=quiet) as events:
            crew = Processes(count, workers=workers, data_dir=data)
            return run_sweep(cells, out, crew, jobs=count, events=events)
    except KeyboardInterrupt as error:
        raise typer.Abort(
            f"Interrupted. Finished runs, and finished rounds of others, are kept in {out}; the same command goes on."
        ) from error
    except DataError as error:
        error.add_note("What was finished is kept. Once this is put right, the same command goes on.")
        raise


def _write(
    sweep: "Sweep", cells: "Sequence[Cell]", base: "Scenario", told: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Puts the three files into `out`; returns the content of sweep.json."""
    from fedmesh.files import write_atomically
    from fedmesh.simulation.laboratory.sweep import tables
    from fedmesh.simulation.laboratory.sweep.plot import draw

    content = tables.describe(sweep, cells, base, told)
    write_atomically(out / "sweep.csv", tables.as_csv(sweep.outcomes).encode())
    write_atomically(out / "sweep.json", tables.as_json(content).encode())
    if sweep.points:
        write_atomically(out / "sweep.png", draw(sweep.points, title=f"{base.name}: privacy and utility"))
    return content


def _failures(sweep: "Sweep", cells: int) -> str:
    lines = [f"{cell.name}: {reason}" for cell, reason in sweep.failures]
    return "\n".join([f"error: {len(lines)} of {cells} cells failed; the same command tries them again:", *lines, ""])
