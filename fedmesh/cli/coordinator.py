"""``fedmesh coordinator run``: the server's side of a fleet of real devices."""

import asyncio
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmesh.cli.log_options import LogLevel, ProgressOrLogFormat, start_logging
from fedmesh.cli.observing import refusals_of, watch_party
from fedmesh.errors import ConfigError
from fedmesh.events import Notice, ignore

if TYPE_CHECKING:
    from fedmesh.configuration import CoordinatorConfig
    from fedmesh.events import Event, EventSink
    from fedmesh.fleet.delivering import Deliveries
    from fedmesh.fleet.plan import Plan
    from fedmesh.identity import Membership
    from fedmesh.observability import Observer
    from fedmesh.transport.mqtt import MqttTransport

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
    again: Annotated[
        bool, typer.Option("--again", help="Begin a new run of every task, also where one is under way or finished.")
    ] = False,
    log_format: ProgressOrLogFormat = None,
    log_level: LogLevel = "info",
) -> None:
    """Run the tasks of CONFIG with the devices that are enrolled, side by side.

    Ctrl-C or SIGTERM ends it in good order; started again, each task goes on behind its last committed round, and a
    finished one is left alone unless it has changed. fedmesh runs lists, pauses, stops and resumes them.
    With metrics.listen it serves /metrics, /healthz and /readyz; under systemd it tells that it is ready and alive.
    """
    from fedmesh.cli.event_file import event_file
    from fedmesh.cli.fleet_progress import fleet_progress
    from fedmesh.configuration import CoordinatorConfig
    from fedmesh.federation import scenarios
    from fedmesh.fleet.plan import Plan
    from fedmesh.observability import Observer

    read = CoordinatorConfig.load(config)
    plans = [Plan.of(section, scenarios.load(section.scenario)) for section in read.task]
    if log_format is not None:
        start_logging(log_format, log_level)
    with (
        event_file(json_events) as record,
        fleet_progress() if log_format is None else nullcontext(ignore) as show,
        Observer(read.metrics.listen, logged=log_format is not None) as observer,
    ):

        def tell(event: "Event") -> None:
            record(event)
            show(event)
            observer.events(event)

        try:
            asyncio.run(_serve(read, plans, tell, observer, once=once, again=again))
        except ImportError as error:
            if (error.name or "").partition(".")[0] == "fedmesh":
                raise
            raise ConfigError(
                f"a coordinator needs {error.name}, which is not installed: pip install 'fedmesh[train]'"
            ) from error


def _deliveries(config: "CoordinatorConfig", plans: "list[Plan]", events: "EventSink") -> "Deliveries | None":
    """What makes signed versions of models; None: nothing does. Raises: ConfigError: the registry cannot be used."""
    section = config.registry
    if not section.enabled:
        return None
    from fedmesh.fleet.delivering import Deliveries, open_repository

    names = [plan.name for plan in plans]
    if section.task is None and len(names) > 1:
        events(
            Notice(f"no model is delivered: name one of {', '.join(names)} as [registry] task, or set enabled = false")
        )
        return None
    task = section.task or names[0]
    if task not in names:
        raise ConfigError(f"[registry] task is {task!r}, which is none of the tasks: {', '.join(names)}")
    return Deliveries(open_repository(config.registry_folder, events=events), task, every=section.every, events=events)


async def _serve(
    config: "CoordinatorConfig",
    plans: "list[Plan]",
    events: "EventSink",
    observer: "Observer",
    *,
    once: bool,
    again: bool,
) -> None:
    """Serves until it is over, or a signal ends it in good order."""
    from fedmesh.fleet.service import CoordinatorService
    from fedmesh.identity import Membership

    async def opened(membership: "Membership") -> "MqttTransport":
        from fedmesh.transport.mqtt import MqttTransport, options_from

        options = options_from(membership, config.broker.host, config.broker.port, coordinator=True)
        transport = await MqttTransport.open(options)
        watch_party(observer, membership, transport)
        observer.ready(f"{len(plans)} tasks")
        return transport

    Membership(config.identity.folder)  # nothing is made for somebody who is not enrolled
    deliveries = _deliveries(config, plans, events)
    service = CoordinatorService(
        config,
        plans,
        events=events,
        publish=None if deliveries is None else deliveries.publish,
        files=None if deliveries is None else deliveries.files,
        beside=() if deliveries is None else (deliveries.serve,),
        once=once,
        again=again,
        opener=opened,
    )
    observer.metrics.refusals.watch("files", lambda: refusals_of(service.files))
    observer.metrics.refusals.watch("lists", lambda: refusals_of(service.lists))
    observer.metrics.refusals.watch("list_exchange", lambda: refusals_of(service.list_exchange))
    observer.metrics.refusals.watch("fleet", lambda: service.refused)
    tending = asyncio.ensure_future(observer.tend())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.stop)
    try:
        await service.serve()
    finally:
        tending.cancel()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
