"""Tasks and devices of a linear head on fixed features, small enough for tests."""

import dataclasses

import numpy as np

from fedmesh.client.task import Task
from fedmesh.privacy.settings import DpSettings
from fedmesh.privacy.summed import SumSettings
from fedmesh.types import Examples, Float32, PrivacyEvent

WIDTH, CLASSES = 21, 4
SIZE = WIDTH * CLASSES
DP = DpSettings(epsilon=8.0, delta=1e-5, clip=0.3, noise_multiplier=1.5, sample_rate=1.0, steps=1, expected_batch=9.0)
SAMPLED = dataclasses.replace(DP, sample_rate=0.4, steps=4)


def task(**changes: object) -> Task:
    """A quantization-aware federation of a head, repeatable; its packets are exact."""
    base = Task(
        name="head",
        model="linear_head",
        input_shape=(WIDTH,),
        classes=CLASSES,
        ranges={"input": (2.0**-7, 128)},
        codec="float32",
        batch_size=4,
        local_epochs=2,
        learning_rate=0.5,
        momentum=0.5,
        keyed_noise_seed=7,
    )
    return dataclasses.replace(base, **changes)


def summed(level: str) -> SumSettings:
    """A private sum of three devices."""
    return SumSettings(
        level=level,  # type: ignore[arg-type]
        epsilon=100.0,
        delta=1e-5,
        clip=0.3,
        noise_multiplier=1.0,
        honest=3,
        colluders=0,
        members=3,
        size=SIZE,
        bits=20,
        gamma=1e-3,
        expected_batch=9.0 if level == "example" else 1.0,
        step=0.5 if level == "example" else 1.0,
    )


def summed_task(level: str, **changes: object) -> Task:
    """The same in a private sum."""
    return task(codec="integer", secure_aggregation=True, summed=summed(level), **changes)


def examples(device: int, count: int = 11) -> Examples:
    """The examples of a device: vectors of unit norm and a constant; some are beyond the grid."""
    rng = np.random.default_rng([2, device])
    x = rng.standard_normal((count, WIDTH)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x *= np.float32(2)
    x[:, -1] = 0.3
    return Examples(x, rng.integers(0, CLASSES, count))


def start(seed: int = 5) -> Float32:
    """Weights to start from, float32 [P]."""
    return (np.random.default_rng(seed).standard_normal(SIZE) * 0.5).astype(np.float32)


class Recorder:
    """A ledger that remembers, and may refuse."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.charged: list[tuple[PrivacyEvent, str | None]] = []

    def charge(self, event: PrivacyEvent, *, release_id: str | None = None) -> None:
        if self.error:
            raise self.error
        self.charged.append((event, release_id))

    def epsilon(self, delta: float) -> float:
        return 0.0
