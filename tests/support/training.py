"""Tasks, devices and messages of the product's client apps, small enough for tests."""

import dataclasses
from functools import cache

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer, build_model
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.flower.identity import SERVER_NODE_ID, adopt
from fedmesh.flower.records import new_message_id
from fedmesh.privacy.settings import DpSettings
from fedmesh.quantization import calibrate, fake_quantization
from fedmesh.types import Examples, Float32

SHAPE = (1, 8, 8)
DP = DpSettings(epsilon=8.0, delta=1e-5, clip=1.0, noise_multiplier=2.0, sample_rate=0.2, steps=2, expected_batch=4.0)


def task(**changes: object) -> Task:
    """A float federation of a small CNN over 8x8 images, uncompressed and repeatable."""
    base = Task(
        name="test",
        model="digits_cnn",
        input_shape=SHAPE,
        classes=10,
        model_options={"width": 3},
        training="float",
        codec="float32",
        batch_size=4,
        learning_rate=0.05,
        momentum=0.5,
        keyed_noise_seed=7,
    )
    return dataclasses.replace(base, **changes)


@cache
def ranges() -> dict[str, tuple[float, int]]:
    """Activation ranges of the task's model, calibrated on noise."""
    model = build_model(task())
    fake_quantization(model, enabled=True)
    return calibrate(model, [torch.from_numpy(examples(99, 64).x)])


def int8_task(**changes: object) -> Task:
    """The same with quantization-aware training and int8 deltas."""
    return task(training="qat", ranges=ranges(), codec="integer", **changes)


def examples(device: int, count: int = 11) -> Examples:
    """The examples of a device: noise, but its own."""
    rng = np.random.default_rng([1, device])
    return Examples(rng.standard_normal((count, *SHAPE), dtype=np.float32), rng.integers(0, 10, count))


@cache
def start() -> Float32:
    """Weights to start from, float32 [P]."""
    size = Trainer.of(task()).layout.size
    return (np.random.default_rng(5).standard_normal(size) * 0.2).astype(np.float32)


def train_message(node_id: int, weights: Float32, *, number: int = 1, tensors: int = 6) -> Message:
    """The instruction to train in round `number`, as a grid would send it."""
    adopt(1)
    config = ConfigRecord({"server-round": number, "delta-ranges": [0.5] * tensors})
    content = RecordDict({"arrays": vector_record("model", weights), "config": config})
    message = Message(content, dst_node_id=node_id, message_type="train")
    stamp = {"_message_id": new_message_id(), "_run_id": 1, "_src_node_id": SERVER_NODE_ID}
    message.metadata.__dict__.update(stamp)
    return message


def packet_of(reply: Message) -> bytes:
    """The packet in a reply. Fails on an error reply."""
    assert not reply.has_error(), reply.error.reason
    return vector(reply.content["update"], "delta", dtype="uint8", max_bytes=1 << 20).tobytes()


__all__ = ["DP", "SHAPE", "examples", "int8_task", "packet_of", "ranges", "start", "task", "train_message"]
