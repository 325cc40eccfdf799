"""``fedmesh peer run``: a member of a mesh, with no broker and no coordinator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmesh.cli.log_options import LogFormat, LogLevel, start_logging
from fedmesh.cli.observing import watch_node

if TYPE_CHECKING:
    from fedmesh.events import Event
    from fedmesh.peer.node import Node

__all__ = ["peer"]

peer = typer.Typer(no_args_is_help=True, help="This device in a mesh.")


@peer.callback()
def _group() -> None:
    """Keeps `run` a command of its own, though it is the only one."""


@peer.command("run")
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The member's TOML file.", show_default=False)],
    json_events: Annotated[
        Path | None,
        typer.Option("--json-events", metavar="FILE", help="Append every event to FILE, a JSON object each."),
    ] = None,
    log_format: LogFormat = "text",
    log_level: LogLevel = "info",
) -> None:
    """Be a member of a mesh, until Ctrl-C or SIGTERM.

    Finds the other members, says who is here (fedmesh mesh status), and passes on the newest signed lists.
    With a registry it installs the models that are published in the mesh, and gives them to its neighbours.
    With metrics.listen it serves /metrics, /healthz and /readyz; under systemd it tells that it is ready and alive.
    """
    import asyncio

    from fedmesh.cli.event_file import event_file
    from fedmesh.observability import Observer
    from fedmesh.peer.running import load
    from fedmesh.peer.running import run as run_node

    start_logging(log_format, log_level)
    found = load(config)
    with event_file(json_events) as record, Observer(found.config.metrics.listen) as observer:

        def tell(event: "Event") -> None:
            record(event)
            observer.events(event)

        async def shown(node: "Node") -> None:
            watch_node(observer, node)
            observer.ready(f"a member of {found.membership.name.mesh}")
            await observer.tend()

        asyncio.run(run_node(found, beside=shown, events=tell))
