"""``fedmesh simulate``: a federation on this machine, from a scenario to a model, its figures and a report."""

import datetime as dt
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh.cli.printing import print_json
from fedmesh.errors import ConfigError, FedMeshError, NothingLearnedError
from fedmesh.events import StepDone

if TYPE_CHECKING:
    from fedmesh.federation.scenario import Scenario

__all__ = [
    "DATA_HELP",
    "HELP",
    "check_data_folder",
    "command",
    "is_interrupt",
    "make_writable",
    "refuse_without",
    "stopped_as_by_ctrl_c",
]

DATA_HELP = "Folder with the data sets."
HELP = (
    "Run a federation on this machine.\n\n"
    "SCENARIO is a name that `fedmesh scenarios` lists, FILE a TOML file like them. The run directory holds "
    "result.json, model.int8.onnx, model.float.onnx and report.html in the end. An interrupted run goes on with "
    "--resume DIR."
)


def command(
    scenario: Annotated[
        str | None, typer.Argument(metavar="[SCENARIO|FILE]", help="A scenario's name, or a TOML file.")
    ] = None,
    *,
    rounds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Rounds, over the scenario's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed, over the scenario's.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Worker processes; by default one a core.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Any key over the scenario's; can be repeated."),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", envvar="FEDMESH_DATA", help=DATA_HELP)] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run directory; by default runs/SCENARIO-TIME.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with the run in DIR.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the content of result.json, and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; print the run directory only.")] = False,
) -> None:
    """Run a federation on this machine."""
    check_data_folder(data)
    if resume is not None:
        _refuse_with_resume(scenario=scenario, rounds=rounds, seed=seed, set=assignments, out=out)
        plan, folder = None, resume
        _refuse_unless_resumable(folder)
    else:
        plan = _plan(scenario, rounds, seed, assignments or [])
        folder = _run_directory(out, plan.name)
    try:
        result = _run(plan, folder, data, workers, quiet=quiet)
    finally:
        if out is None and resume is None:
            with suppress(OSError):  # a run that failed before it left anything leaves no folder; others are not empty
                folder.rmdir()
    _show(result, folder, as_json=as_json, quiet=quiet)


def _plan(scenario: str | None, rounds: int | None, seed: int | None, assignments: list[str]) -> "Scenario":
    from fedmesh.cli import overrides
    from fedmesh.federation import scenarios

    if scenario is None:
        names = ", ".join(scenarios.shipped()) or "none installed"
        raise ConfigError(f"which scenario? Give a name ({names}) or a TOML file, or --resume DIR to go on with a run")
    chosen = overrides.parse(assignments)
    chosen |= {key: value for key, value in (("rounds", rounds), ("seed", seed)) if value is not None}
    return scenarios.load(scenario, chosen)


def _refuse_with_resume(**given: object) -> None:
    for name, value in given.items():
        if value is not None and value != []:
            option = "a scenario" if name == "scenario" else f"--{name}"
            raise ConfigError(
                f"--resume goes on with the run as it was started and takes no scenario, --rounds, --seed, --set or "
                f"--out; got {option}: leave it away, or start a new run without --resume"
            )


def _refuse_unless_resumable(folder: Path) -> None:
    from fedmesh.federation.directory import RunDirectory

    RunDirectory.open(folder)  # without torch: a mistake is told at once


def check_data_folder(data: Path | None) -> None:
    """Raises: ConfigError when `data` is not a folder."""
    if data is not None and not data.is_dir():
        raise ConfigError(f"the data directory {data} is not there: correct --data or FEDMESH_DATA")


def make_writable(folder: Path, *, called: str) -> None:
    """Makes `folder` if it is missing, and tries it: what is written last should not be the first to fail.

    Raises:
        ConfigError: it cannot be made or written; `called` says what it is.
    """
    from tempfile import TemporaryFile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"the {called} {folder} cannot be written: {error.strerror or error}; choose another with --out"
        ) from error


def _run_directory(out: Path | None, name: str) -> Path:
    """An empty folder that can be written to: `out`, or a new one under runs/."""
    stamp = dt.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    folder = out or Path("runs") / f"{name}-{stamp}"
    count = 1
    while out is None and folder.exists():  # a second run in the same second
        count += 1
        folder = Path("runs") / f"{name}-{stamp}-{count}"
    make_writable(folder, called="run directory")
    if any(folder.iterdir()):
        advice = f"go on with that run by --resume {folder}" if _resumable(folder) else "empty it"
        raise ConfigError(f"{folder} is not empty: choose another --out, or {advice}")
    return folder


def _resumable(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def _run(
    plan: "Scenario | None", folder: Path, data: Path | None, workers: int | None, *, quiet: bool
) -> dict[str, Any]:
    from fedmesh.cli.progress import progress

    refuse_without("matplotlib")  # is needed last: learn it first
    try:
        # The progress is shown before torch is imported, which takes seconds.
        with stopped_as_by_ctrl_c(), progress(quiet=quiet) as events:
            from fedmesh.dashboard import write_report
            from fedmesh.simulation import run

            if plan is None:
                result = run.resume(folder, data_dir=data, workers=workers, events=events)
            else:
                result = run.simulate(plan, folder, data_dir=data, workers=workers, events=events)
            begun = time.monotonic()
            write_report(result, folder / "report.html")
            events(StepDone("report", time.monotonic() - begun))
            return result
    except ImportError as error:
        if is_interrupt(error):
            raise typer.Abort(_how_to_go_on(folder)) from error
        if not isinstance(error, ModuleNotFoundError) or (error.name or "").partition(".")[0] == "fedmesh":
            raise
        raise _missing(error.name or str(error)) from error
    except (FedMeshError, OSError) as error:
        if plan is not None and _resumable(folder) and not isinstance(error, NothingLearnedError):
            error.add_note(
                f"What was finished is kept. Once this is put right: fedmesh simulate --resume {folder}\n"
                "(a mistake in the scenario itself needs a new run)"
            )
        raise
    except KeyboardInterrupt as error:
        raise typer.Abort(_how_to_go_on(folder)) from error


def is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the bottom of it: one that falls into the import of a compiled module comes wrapped."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def stopped_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, of `kill` or a service manager, ends a run as Ctrl-C does: with the terminal as it was, and a word."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def refuse_without(module: str) -> None:
    """Raises: ConfigError when `module` is not installed."""
    if find_spec(module) is None:
        raise _missing(module)


def _missing(module: str) -> ConfigError:
    return ConfigError(f"this needs {module}, which is not installed: pip install 'fedmesh[simulation]'")


def _how_to_go_on(folder: Path) -> str:
    if _resumable(folder):
        return f"Interrupted. Every finished round is kept; go on with:\n  fedmesh simulate --resume {folder}"
    return "Interrupted before the run began: nothing was kept."


def _show(result: Mapping[str, Any], folder: Path, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(result)
    elif quiet:
        sys.stdout.write(f"{folder}\n")
    else:
        from fedmesh.cli.summary import print_summary

        print_summary(result, folder)
