"""``fedmesh run start``: a run of a scenario among the members of a mesh, by the member that runs on this machine."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from fedmesh.peer.learning import Prepared

__all__ = ["run"]

run = typer.Typer(no_args_is_help=True, help="Start a run in a mesh.")

DEFAULT = Path("peer.toml")


@run.callback()
def _group() -> None:
    """Keeps `start` a command of its own, though it is the only one."""


@run.command("start")
def start(  # noqa: PLR0917 - options
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO|FILE", help="A scenario's name, or a TOML file.")],
    in_mesh: Annotated[bool, typer.Option("--mesh", help="Among the members of the mesh.")] = False,
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The TOML file of the member that runs here.")
    ] = DEFAULT,
    members: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Who takes part, 4 to 128; by default all that are here.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also when a run of this task is under way: another, beside it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Start a run of SCENARIO, with no coordinator: the member that runs here signs its charter and tells all others.

    The authority gives the right to: fedmesh ca grant NAME --runs.
    """
    from fedmesh.cli.printing import print_json
    from fedmesh.configuration import PeerConfig
    from fedmesh.peer import starting

    if not in_mesh:
        raise ConfigError(
            "say where: fedmesh run start SCENARIO --mesh is among the members of a mesh; fedmesh simulate SCENARIO is "
            "on this machine alone, and fedmesh coordinator run FILE with devices and a broker"
        )
    if not config.is_file():
        raise ConfigError(f"there is no file {config}: name the member's file with --config FILE")
    folder = PeerConfig.load(config.absolute()).mesh.folder
    named = None if members is None else [name for name in (each.strip() for each in members.split(",")) if name]
    starting.check_start(folder, named)  # before what takes its time
    begun = starting.start(folder, _prepared(scenario), members=named, again=again)
    if as_json:
        print_json(begun)
        return
    for line in _lines(begun, config):
        typer.echo(line)


def _prepared(scenario: str) -> "Prepared":
    """What the run begins with; by name, as it is heavy, and not in every installation."""
    try:
        made: Prepared = import_module("fedmesh.peer.preparing").prepare(scenario)
    except ModuleNotFoundError as error:
        raise ConfigError(f"a run is prepared with {error.name}, which is missing here") from error
    return made


def _lines(begun: dict[str, Any], config: Path) -> list[str]:
    members = begun["members"]
    return [
        f"run {begun['run']} of {begun['task']}, {begun['rounds']} rounds",
        f"members: {', '.join(members)}; {begun['quorum']} of {len(members)} have to agree on each result",
        f"watch it with fedmesh mesh status {config}",
    ]
