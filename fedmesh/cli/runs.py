"""``fedmesh runs``: what the coordinators of a journal do, and asking them to pause, go on or stop."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh.cli.printing import print_json
from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from fedmesh.coordinator.control import Wish
    from fedmesh.coordinator.runstore import RunInfo, RunStore

__all__ = ["runs"]

runs = typer.Typer(no_args_is_help=True, help="Runs of a coordinator: list them, show one, pause, resume or stop it.")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Its name, or the beginning of its id.")]
JournalOption = Annotated[
    str | None,
    typer.Option(
        "--journal",
        metavar="URL",
        envvar="FEDMESH_JOURNAL",
        help="Where runs are kept: sqlite:///FILE or postgresql://USER@HOST/DATABASE. "
        "Default: sqlite:///fedmesh-runs.sqlite3.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A coordinator's TOML file: where its runs are."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@runs.command("list")
def list_(journal: JournalOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all runs, the newest first."""
    with _store(journal, config) as store:
        found = store.runs()
    if as_json:
        from fedmesh.federation.deployed import describe_state

        print_json([describe_state(info) for info in found])
    else:
        from fedmesh.cli.runs_view import print_list

        print_list(found, time.time())


@runs.command("show")
def show(
    run: RunArgument, journal: JournalOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Show one run: its rounds, who was in them, accuracy, epsilon, failures. --json: in the shape of result.json."""
    with _store(journal, config) as store:
        info = store.find(run)
        records = store.records(info.id)
    from fedmesh.federation.deployed import describe_run

    described = describe_run(info, records)
    if as_json:
        print_json(described)
    else:
        from fedmesh.cli.runs_view import print_one

        print_one(info, described, time.time())


@runs.command("stop")
def stop(
    run: RunArgument,
    now: Annotated[
        bool, typer.Option("--now", help="Give up the round under way. What devices spent on it stays spent.")
    ] = False,
    journal: JournalOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a run behind the round under way. It does not begin again by itself, only by resume."""
    from fedmesh.coordinator.control import Wish

    _ask(run, Wish.STOP_NOW if now else Wish.STOP, journal, config, as_json=as_json)


@runs.command("pause")
def pause(
    run: RunArgument, journal: JournalOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Let the round under way end, and begin no other until resume or stop."""
    from fedmesh.coordinator.control import Wish

    _ask(run, Wish.PAUSE, journal, config, as_json=as_json)


@runs.command("resume")
def resume(
    run: RunArgument, journal: JournalOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Go on after a pause or a stop."""
    from fedmesh.coordinator.control import Wish

    _ask(run, Wish.RUN, journal, config, as_json=as_json)


def _store(journal: str | None, config: Path | None) -> "RunStore":
    """The journal that the options name."""
    if config is not None and journal is not None:
        raise ConfigError("--journal and --config both say where the runs are: give one of them")
    try:
        from fedmesh.coordinator.runstore import RunStore
        from fedmesh.coordinator.runurl import journal_url
    except ModuleNotFoundError as error:
        raise ConfigError(f"runs are kept by {error.name}, which is missing: pip install 'fedmesh[fleet]'") from error
    return RunStore(journal_url(_url_in(config) if config is not None else journal), create=False, patience_s=0.0)


def _url_in(config: Path) -> str:
    """Where the coordinator of this file keeps its runs."""
    from fedmesh.configuration import CoordinatorConfig

    return CoordinatorConfig.load(config).journal_url


def _ask(run: str, wish: "Wish", journal: str | None, config: Path | None, *, as_json: bool) -> None:
    with _store(journal, config) as store:
        info = store.find(run)
        _check(info, wish)
        store.ask(info.id, wish)
        info = store.info(info.id)
    if as_json:
        from fedmesh.federation.deployed import describe_state

        print_json(describe_state(info))
    else:
        typer.echo(_answer(info, wish))


def _check(info: "RunInfo", wish: "Wish") -> None:
    """Raises: ConfigError: the wish has nothing to act on."""
    from fedmesh.coordinator.control import RunState

    if info.state is RunState.FINISHED:
        raise ConfigError(f"{_named(info)} has finished: there is nothing to {wish.value.partition('-')[0]}")
    if info.state is RunState.STOPPED and wish.value == "pause":
        raise ConfigError(f"{_named(info)} is stopped: there is nothing to pause; fedmesh runs resume lets it go on")


def _answer(info: "RunInfo", wish: "Wish") -> str:
    waits = "" if info.held else " No coordinator runs it now: it counts as soon as one does."
    said = {
        "run": "goes on",
        "pause": "pauses behind the round under way",
        "stop": "ends behind the round under way",
        "stop-now": "ends now, without the round under way",
    }
    return f"{_named(info)} {said[wish.value]}.{waits}"


def _named(info: Any) -> str:
    return f"{info.name} ({info.key[:8]})"
