"""Small federations for the laboratory's tests: seconds become tenths of a second."""

from typing import Any

import numpy as np
import torch
from training import SHAPE, examples, int8_task, task

from fedmesh.client.task import Task
from fedmesh.client.trainer import build_model
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.scenario import Scenario
from fedmesh.privacy import DpSettings
from fedmesh.privacy.skellam import dimension, granularity
from fedmesh.privacy.summed import SumSettings
from fedmesh.quantization import arrays_of
from fedmesh.simulation.laboratory.subject import Subject
from fedmesh.types import Examples, Layout

DEVICES = 4


def dp(**changes: Any) -> DpSettings:
    """Example level with noise on the device, every example in every step."""
    settings = {
        "epsilon": 8.0,
        "delta": 1e-5,
        "clip": 0.5,
        "noise_multiplier": 2.0,
        "sample_rate": 1.0,
        "steps": 2,
        "expected_batch": 4.0,
    }
    return DpSettings(**{**settings, **changes})


def summed(size: int, **changes: Any) -> SumSettings:
    """Noise in a sum of four devices, none of which may be missing."""
    on_examples = changes.get("level", "example") == "example"
    multiplier = changes.pop("noise_multiplier", 1.5)
    gamma = granularity(clip=32.0, members=DEVICES, dimension=dimension(size), sigma_local=multiplier / 2, bits=20)
    settings = {
        "level": "example",
        "epsilon": 8.0,
        "delta": 1e-5,
        "clip": 0.5,
        "noise_multiplier": multiplier,
        "honest": DEVICES,
        "colluders": 0,
        "members": DEVICES,
        "size": size,
        "bits": 20,
        "gamma": gamma,
        "expected_batch": 32.0 if on_examples else 1.0,
        "step": 0.1 if on_examples else 1.0,
    }
    return SumSettings(**{**settings, **changes})


def private_task(mode: str, **changes: Any) -> Task:
    """A private task in one of the modes, over a small CNN in float32."""
    if mode == "local":
        return task(dp=dp(**changes), momentum=0.0)
    size = Layout.of(arrays_of(build_model(task()))).size
    levels = {"shared": "example", "client": "client", "central": "client"}
    extra = {"trusted_server": True} if mode == "central" else {}
    return int8_task(summed=summed(size, level=levels[mode], **extra, **changes), momentum=0.0, secure_aggregation=True)


def subject(private: Task, *, devices: int = DEVICES, each: int = 6) -> Subject:
    """A federation of devices that hold noise."""
    held = tuple(examples(device, each) for device in range(devices))
    none = Examples(np.zeros((0, *SHAPE), np.float32), np.zeros(0, np.int64))
    data = FederatedData(examples(50, 20), held, (none,) * devices, examples(60, 20), tuple("0123456789"), (0, 1, 2, 3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # `build_model` forks in turn, and so starts from here
        arrays = arrays_of(build_model(private))
    scenario = Scenario(name="small", rounds=2)
    return Subject(scenario, private, Layout.of(arrays).flatten(arrays), data)
