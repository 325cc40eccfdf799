"""``fedmesh client``: a device's agent, and what it stands at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fedmesh.cli.log_options import LogFormat, LogLevel, start_logging
from fedmesh.cli.observing import watch_party

if TYPE_CHECKING:
    from fedmesh.fleet.agent import Agent
    from fedmesh.transport.mqtt import MqttTransport

__all__ = ["client"]

client = typer.Typer(no_args_is_help=True, help="This device in a fleet.")

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="The device's TOML file.", show_default=False)]


@client.command("run")
def run(
    config: ConfigArgument,
    once: Annotated[
        bool, typer.Option("--once", help="End when the first run that this device takes part in is over.")
    ] = False,
    log_format: LogFormat = "text",
    log_level: LogLevel = "info",
) -> None:
    """Take part in federations, until Ctrl-C or SIGTERM.

    May be killed at any time: the next start goes on, with nothing charged twice and no reply lost.
    With a registry it installs the models that its coordinator announces; with inference.listen they answer there.
    With metrics.listen it serves /metrics, /healthz and /readyz; under systemd it tells that it is ready and alive.
    """
    import asyncio

    from fedmesh.fleet.device import load
    from fedmesh.fleet.device import run as run_device
    from fedmesh.observability import Observer

    start_logging(log_format, log_level)
    device = load(config)
    with Observer(device.config.metrics.listen) as observer:

        async def shown(agent: "Agent") -> None:
            watch_party(observer, device.membership, cast("MqttTransport", agent.carrier))
            observer.ready(f"tier {device.config.tier}")
            await observer.tend()

        asyncio.run(run_device(device, once=once, beside=(shown,), events=observer.events, observer=observer))


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
