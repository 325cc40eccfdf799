"""A drop-in for ``flwr.simulation.run_simulation``, over our in-memory grid: no Ray, no polling, no telemetry."""

import logging
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, ignore
from fedmesh.flower.fleet import Fleet, InlineFleet
from fedmesh.flower.grid import FleetGrid
from fedmesh.flower.identity import partition_of
from fedmesh.flower.logs import flower_log_level

__all__ = ["run_simulation"]


def run_simulation(  # noqa: PLR0917 - Flower's signature
    server_app: ServerApp,
    client_app: ClientApp,
    num_supernodes: int,
    backend_name: str | None = None,
    backend_config: Mapping[str, Any] | None = None,
    enable_tf_gpu_growth: bool = False,
    verbose_logging: bool = False,
    *,
    fleet: Fleet | None = None,
    run_config: Mapping[str, bool | float | int | str] | None = None,
    events: EventSink = ignore,
) -> None:
    """Runs a Flower app to its end, with Flower's own signature.

    Args:
        server_app: called once, with a `FleetGrid`.
        client_app: runs on every node; a node's Context says ``partition-id`` and ``num-partitions``.
        num_supernodes: number of nodes.
        backend_name: accepted from scripts written for Flower's backends; has no effect, which a warning says.
        backend_config: likewise.
        enable_tf_gpu_growth: likewise.
        verbose_logging: show Flower's debug messages.
        fleet: where the nodes run; in this process, one after another, if None. A given fleet has its own client app
            and is left open.
        run_config: the ServerApp's ``context.run_config``.
        events: gets what devices reply.

    Raises:
        ConfigError: no nodes, or a fleet of another size. What the ServerApp raises is raised as it is.
    """
    if backend_name not in {None, "inline"} or backend_config or enable_tf_gpu_growth:
        warnings.warn(
            "fedmesh.flower.run_simulation has no Ray backend: backend_name, backend_config and enable_tf_gpu_growth "
            "have no effect; pass fleet= to say where nodes run",
            stacklevel=2,
        )
    if fleet is not None and len(fleet.node_ids) != num_supernodes:
        raise ConfigError(f"num_supernodes is {num_supernodes}, but the fleet has {len(fleet.node_ids)} nodes")
    nodes = InlineFleet(client_app, num_supernodes) if fleet is None else fleet
    grid = FleetGrid(nodes, events=events, device_of=partition_of)
    context = Context(grid.run.run_id, 0, {}, RecordDict(), dict(run_config or {}))
    with flower_log_level(logging.DEBUG) if verbose_logging else nullcontext():
        try:
            server_app(grid=grid, context=context)
        finally:
            if fleet is None:
                nodes.close()
