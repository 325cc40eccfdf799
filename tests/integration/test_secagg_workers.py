"""Devices under secure aggregation in worker processes, one at a time and as cohorts: the same sums as without it."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import training
from secure_flower import SecureServer

from fedmesh.client.home import SimulatedHomes
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer
from fedmesh.flower.secure import STEPS
from fedmesh.quantization.codec import DeltaCodec
from fedmesh.secagg import SumResult
from fedmesh.simulation.engine import ClientSpec, WorkerFleet
from fedmesh.simulation.shared import SharedExamples
from fedmesh_clients import vision
from fedmesh_clients.secure import terms_of

SIZES = (11, 3, 8, 30, 4, 1, 7)
RANGES = [0.5] * 6


def shared() -> SharedExamples:
    return SharedExamples.pack([training.examples(device, size) for device, size in enumerate(SIZES)])


def plain_codes(task: Task, workers: int, ledgers: Path) -> dict[int, np.ndarray]:
    """Device -> what it sends in round 1 without secure aggregation, int64 [P]."""
    layout = Trainer.of(task).layout
    codec = DeltaCodec(layout, 8, np.asarray(RANGES, np.float32))
    app = vision.build(task, shared().source(), homes=SimulatedHomes(ledgers))
    found = {}
    with WorkerFleet(app, len(SIZES), workers=workers) as fleet:
        for node_id in fleet.node_ids:
            fleet.submit(training.train_message(node_id, training.start()))
        while replies := fleet.collect(60.0):
            for reply in replies:
                packet = training.packet_of(reply)
                found[reply.metadata.src_node_id - 2] = codec.codes(packet, max_bytes=len(packet)).astype(np.int64)
    return found


def secure_round(task: Task, workers: int, folder: Path, lose: dict[str, list[int]]) -> SumResult:
    terms = terms_of(task, Trainer.of(task).layout)
    app = vision.build(task, shared().source(), homes=SimulatedHomes(folder, folder / "identities"))
    with WorkerFleet(app, len(SIZES), workers=workers) as fleet:
        server = SecureServer(fleet, folder / "identities", terms, RANGES, lose=lose)
        result = server.round(1, training.start())
        assert not any(server.refusals.values()), server.refusals
        assert set(fleet.states()) <= {2 + device for lost in lose.values() for device in lost}
    return result


@pytest.mark.parametrize("batching", ["never", "always"])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_sum_is_that_of_the_packets_without_it(tmp_path: Path, batching: str, workers: int) -> None:
    task = training.int8_task(batching=batching, weighting="examples", weight_cap=10, secure_aggregation=True)
    plain = training.int8_task(batching=batching, weighting="examples", weight_cap=10)
    codes = plain_codes(plain, 2, tmp_path)
    result = secure_round(task, workers, tmp_path, {})
    weights = [min(size, 10) for size in SIZES]
    assert result.weight == sum(weights)
    expected = np.sum([w * codes[d] for d, w in enumerate(weights)], axis=0)
    assert result.total[: len(expected)].tolist() == expected.tolist()


@pytest.mark.parametrize("step", STEPS)
def test_the_sum_over_those_that_are_left_is_right(tmp_path: Path, step: str) -> None:
    task = training.int8_task(batching="never", secure_aggregation=True)
    codes = plain_codes(training.int8_task(batching="never"), 2, tmp_path)
    result = secure_round(task, 2, tmp_path, {step: [2, 6]})
    left = [0, 1, 3, 4, 5] if step in {"advertise", "share", "train"} else range(7)
    expected = np.sum([codes[d] for d in left], axis=0)
    assert result.total[: len(expected)].tolist() == expected.tolist()


def test_fresh_workers_build_the_app_from_the_folder_of_identities(tmp_path: Path) -> None:
    task = training.int8_task(dp=training.DP, secure_aggregation=True)
    spec = ClientSpec("vision", task, shared(), ledgers=tmp_path, identities=tmp_path / "identities")
    with WorkerFleet(spec, len(SIZES), workers=2) as fleet:
        terms = terms_of(task, Trainer.of(task).layout)
        result = SecureServer(fleet, tmp_path / "identities", terms, RANGES).round(1, training.start())
        assert result.weight == len(SIZES)
        assert len(result.total) == terms.layout.size
        assert not fleet.states()


def test_a_killed_worker_costs_its_devices_the_session_at_most(tmp_path: Path) -> None:
    """The message is run again on another worker; what had been remembered of it already is refused then."""
    task = training.int8_task(batching="never", secure_aggregation=True)
    app = vision.build(task, shared().source(), homes=SimulatedHomes(identities=tmp_path))
    codes = plain_codes(training.int8_task(batching="never"), 1, tmp_path)
    with WorkerFleet(app, len(SIZES), workers=3) as fleet:
        server = SecureServer(fleet, tmp_path, terms_of(task, Trainer.of(task).layout), RANGES)

        def kill_soon(step: str, device: int, content: object) -> None:
            if (step, device) == ("train", 6):
                killers.append(threading.Timer(0.01, os.kill, (fleet.pids[0], signal.SIGKILL)))
                killers[-1].start()

        killers, server.tamper = list[threading.Timer](), kill_soon
        result = server.round(1, training.start())  # a worker holds two messages at most, and two may be lost
        killers[0].join()
    assert all("SecAggError" in text for text in server.refusals["train"].values())
    expected = np.sum([codes[int(name[7:])] for name in result.survivors], axis=0)
    assert result.total[: len(expected)].tolist() == expected.tolist()
