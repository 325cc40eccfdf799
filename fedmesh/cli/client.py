"""``fedmesh client``: a device's agent, and what it stands at."""

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["client"]

client = typer.Typer(no_args_is_help=True, help="This device in a fleet.")

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The device's TOML file.", show_default=False)]


@client.command("run")
def run(
    config: ConfigArgument,
    once: Annotated[
        bool, typer.Option("--once", help="End when the first run that this device takes part in is over.")
    ] = False,
) -> None:
    """Take part in federations, until Ctrl-C or SIGTERM.

    May be killed at any time: the next start goes on, with nothing charged twice and no reply lost.
    """
    import asyncio
    import logging

    from fedmesh.fleet.device import load
    from fedmesh.fleet.device import run as run_device

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(run_device(load(config), once=once))


@client.command("status")
def status(
    config: ConfigArgument, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show who this device is, what it has spent, and what it takes part in. Disturbs no agent that runs."""
    from fedmesh.cli.printing import print_json
    from fedmesh.fleet.device import load
    from fedmesh.fleet.standing import standing

    found = standing(load(config))
    if as_json:
        print_json(found)
        return
    for line in _lines(found):
        typer.echo(line)


def _lines(found: dict[str, Any]) -> list[str]:
    identity = found["identity"]
    lines = [
        f"{identity['name']}, tier {found['tier']}, certificate until {identity['until']}"
        + (", expired" if identity["expired"] else ", due for renewal" if identity["due"] else ""),
        f"agent: {'runs' if found['running'] else 'does not run'}; listens to {', '.join(found['coordinators'])}",
    ]
    for level, account in found["privacy"].items():
        told = (
            account["error"] or f"epsilon {account['spent']:.4g} of {account['budget']:g} at delta {account['delta']:g}"
        )
        lines.append(f"privacy of {'examples' if level == 'example' else 'the whole device'}: {told}")
    lines += [
        f"run {run['run']} ({run['name']}) of {run['coordinator']}, {run['waiting']} waiting" for run in found["runs"]
    ]
    return lines if found["runs"] else [*lines, "no run is under way"]
