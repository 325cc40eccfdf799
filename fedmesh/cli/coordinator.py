"""``fedmesh coordinator run``: the server's side of a fleet of real devices."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmesh.errors import ConfigError

if TYPE_CHECKING:
    from fedmesh.configuration import CoordinatorConfig
    from fedmesh.events import Event, EventSink
    from fedmesh.fleet.plan import Plan

__all__ = ["coordinator"]

coordinator = typer.Typer(no_args_is_help=True, help="Coordinate a fleet of devices.")


@coordinator.callback()
def _group() -> None:
    """Keeps `run` a command of its own, though it is the only one."""


@coordinator.command()
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The coordinator's TOML file.")],
    *,
    json_events: Annotated[
        Path | None,
        typer.Option("--json-events", metavar="FILE", help="Append every event to FILE, a JSON object each."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when all tasks have ended, instead of staying for devices.")
    ] = False,
) -> None:
    """Run the tasks of CONFIG with the devices that are enrolled, side by side.

    Ctrl-C or SIGTERM ends it in good order; started again, each task goes on behind its last committed round.
    """
    from fedmesh.cli import catalog
    from fedmesh.cli.event_file import event_file
    from fedmesh.cli.fleet_progress import fleet_progress
    from fedmesh.configuration import CoordinatorConfig
    from fedmesh.fleet.plan import Plan

    read = CoordinatorConfig.load(config)
    plans = [Plan.of(section, catalog.load(section.scenario)) for section in read.task]
    with event_file(json_events) as record, fleet_progress() as show:

        def tell(event: "Event") -> None:
            record(event)
            show(event)

        try:
            asyncio.run(_serve(read, plans, tell, once=once))
        except ImportError as error:
            if (error.name or "").partition(".")[0] == "fedmesh":
                raise
            raise ConfigError(
                f"a coordinator needs {error.name}, which is not installed: pip install 'fedmesh[train]'"
            ) from error


async def _serve(config: "CoordinatorConfig", plans: "list[Plan]", events: "EventSink", *, once: bool) -> None:
    """Serves until it is over, or a signal ends it in good order."""
    from fedmesh.fleet.service import CoordinatorService

    service = CoordinatorService(config, plans, events=events, once=once)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.stop)
    try:
        await service.serve()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
