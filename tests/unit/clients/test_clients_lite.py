"""The client of devices without torch: what the torch client would send, from a process that never imports it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import heads
import lite_models
import numpy as np
import pytest
import training
from flwr.app import Message

from fedmesh import plugins
from fedmesh.client.assignment import Assignment
from fedmesh.client.backbone import MAX_BACKBONE_BYTES
from fedmesh.client.head_trainer import HeadTrainer
from fedmesh.client.home import SimulatedHomes
from fedmesh.client.lite import LiteTrainer
from fedmesh.errors import ConfigError
from fedmesh.flower import InlineFleet
from fedmesh.flower.backbone import DIGEST, attach_backbone
from fedmesh.flower.identity import node_id_of
from fedmesh.simulation.zygote import PRELOADED, preload_of
from fedmesh_clients import lite
from fedmesh_clients.training import TrainingApp

HEAVY = ("torch", "opacus", "onnx", "onnxruntime", "sklearn", "scipy", "dp_accounting")


def packets(app: TrainingApp, devices: int = 3) -> list[bytes]:
    fleet = InlineFleet(app, devices)
    for node_id in fleet.node_ids:
        fleet.submit(training.train_message(node_id, heads.start(), tensors=1))
    replies = sorted((fleet.collect(None)[0] for _ in range(devices)), key=lambda reply: reply.metadata.src_node_id)
    return [training.packet_of(reply) for reply in replies]


def test_it_is_found_by_its_entry_point() -> None:
    assert plugins.load(plugins.CLIENTS, "lite") is lite.build


@pytest.mark.parametrize("changes", [{}, {"codec": "integer"}, {"dp": heads.DP}], ids=["float32", "int8", "private"])
def test_devices_send_what_their_trainer_makes(tmp_path: Path, changes: dict[str, object]) -> None:
    task = heads.task(**changes)
    app = lite.build(task, heads.examples, homes=SimulatedHomes(tmp_path))
    assert app.cohort_size == 1
    sent = packets(app)
    trainer = LiteTrainer(task)
    for device, packet in enumerate(sent):
        asked = Assignment(1, device, heads.start(), [0.5])
        assert packet == trainer.train(asked, heads.examples(device), ledger=heads.Recorder()).packet
    assert len(set(sent)) == 3
    assert (tmp_path / "device-2.ledger").exists() == (task.dp is not None)


def test_the_torch_client_sends_the_same_up_to_rounding() -> None:
    task = heads.task(momentum=0.0)
    mine, want = (
        packets(lite.build(task, heads.examples, homes=SimulatedHomes())),
        packets(TrainingApp(task, heads.examples, homes=SimulatedHomes())),
    )
    for pair in zip(mine, want, strict=True):
        np.testing.assert_allclose(*(np.frombuffer(packet[32:], np.float32) for packet in pair), atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "lenet"}, "knows the model 'linear_head'"),
        ({"input_shape": (1, 8, 8)}, "takes vectors"),
        ({"dp": heads.DP}, "ledgers"),
        ({"secure_aggregation": True, "codec": "integer"}, "identities"),
        ({"model": "lenet", "head": lite_models.cut().task.head}, "those of another model"),
    ],
)
def test_what_it_cannot_serve_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        lite.build(heads.task(**changes), heads.examples, homes=SimulatedHomes())


def behind_a_backbone(weights: np.ndarray, data: bytes | None, digest: bytes) -> Message:
    message = training.train_message(node_id_of(0), weights)
    message.content["config"][DIGEST] = digest
    if data is not None:
        attach_backbone(message.content, data)
    return message


def answer(app: TrainingApp, message: Message) -> Message:
    fleet = InlineFleet(app, 1)
    fleet.submit(message)
    return fleet.collect(None)[0]


@pytest.mark.parametrize("private", [False, True])
def test_of_any_other_model_it_trains_the_last_layer(tmp_path: Path, private: bool) -> None:
    made = lite_models.cut()
    task = made.with_task(dp=heads.DP if private else None)
    app = lite.build(task, lite_models.examples, homes=SimulatedHomes(tmp_path))
    digest = hashlib.sha256(made.backbone).digest()
    sent = training.packet_of(answer(app, behind_a_backbone(made.weights, made.backbone, digest)))
    asked = Assignment(1, 0, made.weights, [0.5] * 6, backbone=made.backbone)
    assert sent == HeadTrainer(task).train(asked, lite_models.examples(0), ledger=heads.Recorder()).packet
    assert (tmp_path / "device-0.ledger").exists() == private


@pytest.mark.parametrize(
    ("data", "digest", "said"),
    [
        (None, b"", "without a backbone"),
        (b"x", bytes(32), "another SHA-256"),
        (bytes(MAX_BACKBONE_BYTES + 2000), bytes(32), "at most 16777216 bytes"),
    ],
)
def test_a_backbone_that_is_missing_or_is_not_the_rounds_is_refused_unpaid(
    tmp_path: Path, data: bytes | None, digest: bytes, said: str
) -> None:
    made = lite_models.cut()
    app = lite.build(made.with_task(dp=heads.DP), lite_models.examples, homes=SimulatedHomes(tmp_path))
    reply = answer(app, behind_a_backbone(made.weights, data, digest))
    assert said in reply.error.reason
    ledger = tmp_path / "device-0.ledger"
    assert not ledger.exists() or b"round-1" not in ledger.read_bytes()


def test_a_device_that_trains_everything_takes_no_backbone() -> None:
    made = lite_models.cut()
    digest = hashlib.sha256(made.backbone).digest()
    app = TrainingApp(made.task, lite_models.examples, homes=SimulatedHomes())
    assert "is no lite device" in answer(app, behind_a_backbone(made.weights, made.backbone, digest)).error.reason
    assert not answer(app, behind_a_backbone(made.weights, None, digest)).has_error()


@pytest.mark.parametrize("changes", ["", "dp=heads.DP"], ids=["plain", "private"])
def test_its_process_imports_no_torch(tmp_path: Path, changes: str) -> None:
    program = f"""
import importlib, sys
for name in {(*PRELOADED, *preload_of("lite", private=False))!r}:
    importlib.import_module(name)
from pathlib import Path
import heads
from fedmesh.client.home import SimulatedHomes
from flwr.app import ConfigRecord, Context, Message, RecordDict
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.identity import adopt
from fedmesh_clients.lite import build
adopt(1)
app = build(heads.task({changes}), heads.examples, homes=SimulatedHomes(Path({str(tmp_path)!r})))
config = ConfigRecord({{"server-round": 1, "delta-ranges": [0.5]}})
content = RecordDict({{"arrays": vector_record("model", heads.start()), "config": config}})
node = {{"partition-id": 0, "num-partitions": 1}}
reply = app(Message(content, {node_id_of(0)}, "train"), Context(1, {node_id_of(0)}, node, RecordDict(), {{}}))
print(sorted(reply.content), [name for name in {HEAVY} if name in sys.modules])
"""
    environment = {"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert done.stdout.splitlines()[-1] == "['update'] []"
