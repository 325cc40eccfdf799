# ruff: noqa: ARG002 - the arguments of a strategy are Flower's
"""A coordinator whose rounds do nothing, as a process of its own, which says what each round took and what it holds.

Everything below the strategy is what `fedmesh coordinator run` has: signed packets, the roll, Flower's messages, stages
and the journal; there is no model and no judge.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from benchmarks.fleet_site import memory_mb, processor_s
from benchmarks.fleet_swarm import TASK, layout
from fedmesh.client.task import Task
from fedmesh.coordinator import Coordinator, Journal, ScriptFactory, SecureAggregation, SecureSettings
from fedmesh.fleet.protocol import Offer
from fedmesh.fleet.roll import Roll
from fedmesh.fleet.switchboard import Switchboard
from fedmesh.fleet.transport_fleet import TransportFleet
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.grid import FleetGrid
from fedmesh.identity import Membership
from fedmesh.identity.packets import Gate, Signet
from fedmesh.quantization.codec import relative_ranges
from fedmesh.secagg import Identity, Roster
from fedmesh.transport.mqtt import MqttTransport, options_from
from fedmesh.wire import dumps
from fedmesh_strategies.fedavg import FedAvg

__all__ = ["Told"]

_TICK_S, _PATIENCE_S, _DEADLINE_S = 0.5, 300.0, 600.0


@dataclass(frozen=True, slots=True)
class Told:
    """What the process is told, as JSON."""

    identity: str
    port: int
    folder: str
    devices: int
    rounds: int
    parameters: int = 0
    """Of the model; 0: there is none, and rounds are empty."""
    secure: bool = False

    def argument(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


class Nothing(Strategy):
    """Asks everybody for nothing."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """An empty message to every node."""
        content = RecordDict({"config": ConfigRecord({"server-round": server_round})})
        return [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Nothing comes of it."""
        return ArrayRecord([np.zeros(1, np.float32)]), MetricRecord()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nobody evaluates."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nor is there anything to average."""
        return None

    def summary(self) -> None:
        """Nothing to say."""


def held(told: Told, switchboard: Switchboard) -> dict[str, Any]:
    """Offers the run and holds its rounds, on the calling thread."""
    with Journal(Path(told.folder) / "journal.sqlite3") as journal:
        task = dumps(Task("empty", "none", (4,), 2, codec="float32").to_plain())
        offer = Offer(journal.run_id, "empty", "00" * 32, told.rounds, TASK if told.parameters else "noop")
        fleet = TransportFleet(
            journal.run_id,
            switchboard,
            lambda _name, _here: (offer, (task, b"")),
            deadline_s=_DEADLINE_S,
            max_reply_bytes=(1 << 20) + 16 * told.parameters,
        )
        try:
            return rounds(told, fleet, journal, switchboard)
        finally:
            fleet.close()


def rounds(told: Told, fleet: TransportFleet, journal: Journal, switchboard: Switchboard) -> dict[str, Any]:
    """Once all devices have accepted: what they took."""
    until = time.monotonic() + _PATIENCE_S
    while len(fleet.node_ids) < told.devices:
        if time.monotonic() > until:
            raise SystemExit(f"only {len(fleet.node_ids)} of {told.devices} devices came")
        time.sleep(0.02)
    grid = FleetGrid(fleet, run_id=journal.run_id)
    strategy: Any = Nothing()
    if told.parameters:
        strategy = FedAvg(layout=layout(told.parameters), ranges=relative_ranges(0.5))
    coordinator = Coordinator(
        strategy,
        grid,
        journal,
        deadline_s=_DEADLINE_S,
        quorum=told.devices,
        script=_script(told, strategy, grid, journal, switchboard) if told.secure else None,
    )
    initial = vector_record("model", np.zeros(max(1, told.parameters), np.float32))
    before, began = processor_s([os.getpid()]), time.perf_counter()
    records = coordinator.run(initial, told.rounds).records[1:]
    wall_s = time.perf_counter() - began
    if any(record.failed is not None or record.survivors != told.devices for record in records):
        raise SystemExit(f"a round failed: {records}")
    return {
        "round_s": [round(record.seconds, 4) for record in records],
        "wall_s_per_round": round(wall_s / told.rounds, 4),
        "processor_s_per_round": round((processor_s([os.getpid()]) - before) / told.rounds, 4),
        "memory_mb": memory_mb(os.getpid()),
    }


def _script(told: Told, strategy: Any, grid: FleetGrid, journal: Journal, switchboard: Switchboard) -> ScriptFactory:
    """Rounds of secure aggregation, as a task of the coordinator has them."""
    membership = Membership(Path(told.identity))

    def names(nodes: Iterable[int]) -> dict[int, str]:
        with switchboard.roll() as roll:
            return {node: name for node in nodes if (name := roll.name_of(node)) is not None}

    secure = SecureAggregation(
        strategy,
        identity=Identity(membership.signing_key()),
        roster=Roster(membership.roster.keys),
        settings=SecureSettings(TASK, 8, rounds=told.rounds, quorum=told.devices),
        names=names,
        attempts=journal.next_attempt,
    )
    return lambda number, arrays: secure.script(number, arrays, grid)


async def serve(told: Told) -> dict[str, Any]:
    """Connects, offers the run, and has its rounds held in a thread."""
    membership = Membership(Path(told.identity))
    keys = membership.roster.keys
    options = options_from(membership, "localhost", told.port, coordinator=True)
    async with await MqttTransport.open(options, wait_s=_PATIENCE_S) as transport:
        roll = Roll(membership.name.mesh)
        roll.admit(name for name in keys if name.startswith("device-"))
        gate = Gate(membership.name, keys.get)
        switchboard = Switchboard(transport, Signet(membership.name, membership.signing_key()), gate, roll)
        transport.on_presence = switchboard.noticed

        async def tick() -> None:
            while True:
                switchboard.tick()
                await asyncio.sleep(_TICK_S)

        helpers = [asyncio.ensure_future(work) for work in (switchboard.serve(), tick())]
        try:
            return await asyncio.to_thread(held, told, switchboard)
        finally:
            for helper in helpers:
                helper.cancel()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(serve(Told(**json.loads(sys.argv[1]))))))
