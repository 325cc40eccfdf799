"""Devices without torch, a private sum under secure aggregation, and FedSGD over it: whole rounds in one process."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import heads
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message

from fedmesh.client.assignment import Assignment
from fedmesh.client.home import SimulatedHomes
from fedmesh.client.identities import AGGREGATOR, create_identities, device_name, open_identity
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.task import Task
from fedmesh.coordinator import Coordinator, Journal, SecureAggregation, SecureSettings
from fedmesh.flower import FleetGrid, InlineFleet, partition_of
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.quantization.codec import constant_ranges
from fedmesh.types import Float32
from fedmesh_clients import lite
from fedmesh_strategies.fedsgd import FedSgd

DEVICES, ROUNDS = 5, 4
START = vector_record("model", heads.start())


def strategy_of(task: Task) -> FedSgd:
    ranges = constant_ranges(np.float32([heads.DP.clip]))
    return FedSgd(layout=LiteTrainer(task).layout, ranges=ranges, average_from=3, summed=task.summed)


def names_of(nodes: Iterable[int]) -> dict[int, str]:
    return {node: device_name(partition_of(node)) for node in nodes}


def weights(arrays: ArrayRecord) -> Float32:
    found: Float32 = vector(arrays, "model", dtype="float32", max_bytes=4 * heads.SIZE)
    return found


def secure_run(task: Task, folder: Path) -> Float32:
    (folder / "ledgers").mkdir(parents=True)
    roster = create_identities(folder / "identities", DEVICES)
    app = lite.build(task, heads.examples, homes=SimulatedHomes(folder / "ledgers", folder / "identities"))
    grid, strategy = FleetGrid(InlineFleet(app, DEVICES)), strategy_of(task)
    secure = SecureAggregation(
        strategy,
        identity=open_identity(folder / "identities", AGGREGATOR),
        roster=roster,
        settings=SecureSettings(task.name, task.bits, privacy=task.privacy, summed=task.summed, rounds=ROUNDS, seed=1),
        names=names_of,
    )
    run = Coordinator(strategy, grid, Journal(), script=lambda number, arrays: secure.script(number, arrays, grid))
    return weights(run.run(START, ROUNDS).arrays)


def open_run(task: Task) -> Float32:
    """The same without any of the machinery: the sum of what the trainers give."""
    strategy, trainer, arrays = strategy_of(task), LiteTrainer(task), START
    grid = FleetGrid(InlineFleet(lambda message, context: message, 1))
    for number in range(1, ROUNDS + 1):
        (message,) = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        arrays = strategy.apply_sum(sum(values(trainer, message, device) for device in range(DEVICES)), DEVICES)
    return weights(arrays)


def values(trainer: LiteTrainer, message: Message, device: int) -> np.ndarray:
    config = message.content["config"]
    asked = Assignment(config["server-round"], device, weights(message.content["arrays"]), config["delta-ranges"])
    found = trainer.train(asked, heads.examples(device), ledger=heads.Recorder()).values
    assert found is not None
    return found


@pytest.mark.parametrize("level", ["example", "client"])
def test_a_private_sum_under_secure_aggregation_is_the_plain_sum(level: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(heads.summed(level), members=DEVICES)
    task = dataclasses.replace(heads.summed_task(level), summed=settings)
    secure = secure_run(task, tmp_path)
    assert secure.tobytes() == open_run(task).tobytes()
    moved = np.linalg.norm(secure - heads.start())
    assert 0.01 < moved < 3
    ledgers = sorted(path.name for path in (tmp_path / "ledgers").iterdir())
    ending = ".ledger" if level == "example" else ".client.ledger"
    assert ledgers == sorted(f"device-{device}{ending}" for device in range(DEVICES))
