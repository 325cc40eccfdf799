"""Rounds of a small federation under secure aggregation, and the same ones in the clear."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from flower_apps import LAYOUT, delta_app
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from secure_federation import Federation, fedavg, training_app

from fedmesh.coordinator import Coordinator, Journal, RunResult
from fedmesh.flower import FleetGrid, InlineFleet, partition_of
from fedmesh.flower.arrays import vector_record

WEIGHTS = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
THREE = ["train", "sign", "unmask"]
"""The steps of a round whose keys were exchanged during the one before."""


def run(federation: Federation, rounds: int = 1, **options: Any) -> RunResult:
    """A run; `options` are the coordinator's (journal, events), the strategy's (fraction) or the settings'."""
    coordinator = {k: options.pop(k) for k in ("events", "control") if k in options}
    journal = options.pop("journal", None) or Journal()
    strategy = options.pop("strategy", None) or fedavg(fraction=options.pop("fraction", 1.0))
    options = {"rounds": options.pop("known", rounds), **options}
    secure = federation.secured(strategy, attempts_of=journal.next_attempt, **options)
    fleet = InlineFleet(federation.app(), federation.devices)
    grid = FleetGrid(fleet, device_of=partition_of, events=coordinator.get("events", lambda event: None))
    return Coordinator(
        strategy,
        grid,
        journal,
        device_of=partition_of,
        script=lambda number, arrays: secure.script(number, arrays, grid),
        **coordinator,
    ).run(WEIGHTS, rounds)


def plain(devices: int, rounds: int = 1, *, without: Iterable[int] = (), **options: Any) -> ArrayRecord:
    """The arrays of the same run in the clear, in which some devices fail."""
    inner, app = training_app(delta_app()), ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] in without:
            raise ConnectionError("lost")
        return inner(message, context)

    return Coordinator(fedavg(**options), FleetGrid(InlineFleet(app, devices)), Journal()).run(WEIGHTS, rounds).arrays


def stages(result: RunResult, number: int) -> list[str]:
    return [stage.name for stage in result.records[number].stages]
