"""``fedmesh run start``: a run of a scenario among the members of a mesh, by the member that runs on this machine."""

import secrets
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmesh.cli.simulate import DATA_HELP, check_data_folder, refuse_without
from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from fedmesh.fleet.mesh_start import Begun

__all__ = ["run"]

run = typer.Typer(no_args_is_help=True, help="Start a run in a mesh.")

DEFAULT = Path("peer.toml")


@run.callback()
def _group() -> None:
    """Keeps `start` a command of its own, though it is the only one."""


@run.command("start")
def start(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO|FILE", help="A scenario's name, or a TOML file.")],
    *,
    in_mesh: Annotated[bool, typer.Option("--mesh", help="Among the members of the mesh.")] = False,
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The TOML file of the member that runs here.")
    ] = DEFAULT,
    members: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Who takes part, 4 to 128; by default all that are here.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, metavar="N", help="Rounds, over the scenario's.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Any key over the scenario's; can be repeated."),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", envvar="FEDMESH_DATA", help=DATA_HELP)] = None,
    train_s: Annotated[float, typer.Option(min=1.0, help="Longest wait for the training of a round.")] = 300.0,
    step_s: Annotated[float, typer.Option(min=0.1, help="Longest wait in each other step of a sum.")] = 20.0,
    vote_s: Annotated[float, typer.Option(min=0.1, help="Longest wait in each step of a vote.")] = 10.0,
    attempts: Annotated[
        int, typer.Option(min=1, max=64, help="So often a round is tried; each is charged to who trains in it.")
    ] = 8,
    again: Annotated[
        bool, typer.Option("--again", help="Also when a run of this task is under way: another, beside it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Start a run of SCENARIO, with no coordinator: the member that runs here signs its charter and tells all others.

    The authority gives the right to: fedmesh ca grant NAME --runs.
    """
    from fedmesh.cli.overrides import parse
    from fedmesh.cli.printing import print_json
    from fedmesh.configuration import PeerConfig
    from fedmesh.mesh.rounds import Schedule
    from fedmesh.peer import starting
    from fedmesh.peer.learning import Prepared

    if not in_mesh:
        raise ConfigError(
            "say where: fedmesh run start SCENARIO --mesh is among the members of a mesh; fedmesh simulate SCENARIO is "
            "on this machine alone, and fedmesh coordinator run FILE with devices and a broker"
        )
    if not config.is_file():
        raise ConfigError(f"there is no file {config}: name the member's file with --config FILE")
    check_data_folder(data)
    refuse_without("torch")
    folder = PeerConfig.load(config.absolute()).mesh.folder
    named = None if members is None else [name for name in (each.strip() for each in members.split(",")) if name]
    chosen = starting.check_start(folder, named)["members"]  # before what takes its time
    over = parse(assignments or []) | ({} if rounds is None else {"rounds": rounds})
    made, schedule = _begun(scenario, over, len(chosen), data), Schedule(train_s, step_s, vote_s)
    tries = attempts if made.kind == "rounds" else 1  # a step of gossip is begun once
    prepared = Prepared(
        made.task, made.kit, made.model, made.state, made.rounds, made.fewest, tries, schedule, made.kind
    )
    begun = starting.start(folder, prepared, members=chosen, again=again)
    if as_json:
        print_json(begun)
        return
    for line in _lines(begun, config):
        typer.echo(line)


def _begun(scenario: str, over: dict[str, Any], members: int, data: Path | None) -> "Begun":
    """What round 1 begins with: the public start is trained here."""
    from fedmesh.federation import scenarios
    from fedmesh.fleet.kit import Kit
    from fedmesh.fleet.mesh_start import begin
    from fedmesh.peer.sizes import check_averaged, check_blobs, check_input

    found = scenarios.load(scenario, over)
    with TemporaryDirectory() as folder:
        made = begin(found, run=secrets.randbits(61), members=members, folder=Path(folder), datasets_folder=data)
    check = check_averaged if made.kind == "gossip" else check_input
    check(Kit.from_bytes(made.kit), members)
    check_blobs(model=len(made.model), state=len(made.state))
    return made


def _lines(begun: dict[str, Any], config: Path) -> list[str]:
    members, is_gossip = begun["members"], begun.get("kind") == "gossip"
    how = f"{begun['quorum']} of {len(members)} have to agree on each result"
    if is_gossip:
        how = f"they average in groups of {begun['group']} or more, dealt anew in each step, with no aggregator"
    return [
        f"run {begun['run']} of {begun['task']}, {begun['rounds']} {'steps' if is_gossip else 'rounds'}",
        f"members: {', '.join(members)}; {how}",
        f"watch it with fedmesh mesh status {config}",
    ]
