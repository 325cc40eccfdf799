"""``fedmesh mesh status``: who is here, by the member that runs on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["mesh"]

mesh = typer.Typer(no_args_is_help=True, help="Look at a mesh from one of its members.")

DEFAULT = Path("peer.toml")


@mesh.callback()
def _group() -> None:
    """Keeps `status` a command of its own, though it is the only one."""


@mesh.command("status")
def status(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The TOML file of the member that runs.")] = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the members as the one that runs here sees them: who they are, how, and which model they have."""
    from fedmesh.cli.printing import print_json
    from fedmesh.configuration import PeerConfig
    from fedmesh.errors import ConfigError
    from fedmesh.peer.status import ask

    if not config.is_file():
        raise ConfigError(f"there is no file {config}: name the member's file, as in fedmesh mesh status CONFIG")
    found = ask(PeerConfig.load(config.absolute()).mesh.folder)
    if as_json:
        print_json(found)
        return
    for line in _lines(found):
        typer.echo(line)


def _lines(found: dict[str, Any]) -> list[str]:
    members = found["members"]
    width = max(len(one["name"]) for one in members)
    here = sum(one["state"] in {"alive", "suspect"} for one in members)
    lines = [f"{found['self']}: {here} of {len(members)} members are here, {len(found['links'])} of them linked"]
    for one in members:
        marks = [f"model {one['model']}"] if one["model"] else []
        marks += ["this one"] if one["name"] == found["self"] else []
        via = found["relayed"].get(one["name"])
        marks += [f"linked through {via}" if via else "linked"] if one["name"] in found["links"] else []
        lines.append(f"{one['name']:{width}}  {one['state']:7}  {one['incarnation']:>6}  {', '.join(marks)}".rstrip())
    if found["round"] is None:
        lines.append("no round is under way")
    return [*lines, *map(_line_of, found["runs"])]


def _line_of(run: dict[str, Any]) -> str:
    """A run, in a line."""
    if run.get("kind") == "gossip":
        return _averaging_line(run)
    void = f", {run['void']} of them void" if run["void"] else ""
    results = f"{run['results']} of {run['rounds']} rounds are over{void}"
    said = {
        "running": f"round {run['round']}, attempt {run['attempt']}, aggregator {run['aggregator']}; {results}",
        "over": results,
        "elsewhere": "this member is not in it",
        "forked": "broken: two results of one round are signed, see the events",
        "stopped": "this member cannot take part, see the events",
    }
    return f"run {run['run'][:8]} of {run['task']}: {said.get(run['state'], run['state'])}"


def _averaging_line(run: dict[str, Any]) -> str:
    """One of gossip averaging."""
    results = f"{run['results']} averages in {run['rounds']} steps"
    said = {
        "waiting": "what it begins with is on its way",
        "running": f"step {run['round']} of {run['rounds']}, {run['here']} members train; {results} so far",
        "over": results,
        "elsewhere": "this member is not in it",
        "stopped": "this member cannot take part, see the events",
    }
    return f"run {run['run'][:8]} of {run['task']}, gossip averaging: {said.get(run['state'], run['state'])}"
