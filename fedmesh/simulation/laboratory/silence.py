"""Zero inputs through a scenario's own mechanism: what comes out is its noise, and nothing else.

The noise is that of devices (`SystemNoise`), never a seeded one; so no two checks see the same, and figures differ a
little from one to the next.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmesh.client.task import Task
from fedmesh.client.trainer import build_model
from fedmesh.privacy.dpsgd import DpSgd
from fedmesh.privacy.noise import NoiseSource, SystemNoise
from fedmesh.privacy.settings import DpSettings
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summed import SumSettings
from fedmesh.privacy.summing import encode_examples, encode_update, server_noise
from fedmesh.simulation.laboratory.broken import SOUND, Fault
from fedmesh.simulation.laboratory.noise_law import Law, LawReport, check_law, check_sums
from fedmesh.types import Float32

__all__ = ["SAMPLES", "check_noise"]

SAMPLES = 1 << 20
"""Values that are looked at: a variance 1 % off shows."""


def check_noise(task: Task, weights: Float32, *, samples: int = SAMPLES, fault: Fault = SOUND) -> tuple[LawReport, ...]:
    """The reports on the noise of a private task: on each device's releases, and where they are summed on the sums.

    Args:
        task: a private one; what it promises is the law.
        weights: the public start, float32 [P].
        samples: how many values to look at, at least.
        fault: what is wrong on purpose.
    """
    carried_out = fault.applied(task)
    if task.dp is not None:
        law = Law("gaussian", (task.dp.noise_multiplier * task.dp.clip) ** 2)
        return (check_law(_steps(carried_out, samples), law),)
    assert task.summed is not None
    assert carried_out.summed is not None
    promised, used = replace(task.summed, quantile=None), replace(carried_out.summed, quantile=None)
    if promised.trusted_server:
        count = -(-samples // promised.size)
        noise = [server_noise(used, 1, clip=used.clip, noise=SystemNoise()) for _ in range(count)]
        released = [(values / task.summed.clip).astype(np.float32) for values in noise]
        return (check_law(released, Law("gaussian", promised.noise_multiplier**2)),)
    rows = _inputs(used, weights, max(promised.honest, -(-samples // promised.dimension)))
    law = Law("skellam", (promised.sigma_local / promised.gamma) ** 2)
    survivors = sorted({1, max(1, promised.honest // 2), promised.honest})
    return check_law(rows, law), check_sums(rows, law, survivors)


def _steps(task: Task, samples: int) -> list[NDArray[np.float32]]:
    """The noise of single steps of DP-SGD on devices without examples, on the sum of gradients; rows of [P]."""
    assert task.dp is not None
    model = build_model(task)
    trainer = _Recording(model, task.dp, learning_rate=task.learning_rate, momentum=task.momentum)
    blank, none = torch.zeros(0, *task.input_shape), torch.zeros(0, dtype=torch.int64)
    size = sum(parameter.numel() for parameter in model.parameters())
    while len(trainer.released) * size < samples:
        trainer.fit(blank, none, SystemNoise())
    return trainer.released


class _Recording(DpSgd):
    """Keeps what each step releases."""

    def __init__(self, model: nn.Module, settings: DpSettings, *, learning_rate: float, momentum: float) -> None:
        super().__init__(model, settings, learning_rate=learning_rate, momentum=momentum)
        self.released: list[NDArray[np.float32]] = []

    def _noisy_mean(self, total: Tensor, noise: NoiseSource) -> Tensor:
        mean = super()._noisy_mean(total, noise)
        self.released.append(mean.numpy() * np.float32(self._settings.expected_batch))
        return mean


def _inputs(settings: SumSettings, weights: Float32, devices: int) -> NDArray[np.int64]:
    """What `devices` devices with zero updates, or without examples, put into the sum; int64 [devices, d]."""
    seed, rows = rotation_seed(1, weights), []
    for _ in range(devices):
        if settings.level == "client":
            blank = np.zeros(settings.size, np.float32)
            rows.append(encode_update(settings, blank, clip=settings.clip, seed=seed, noise=SystemNoise()))
        else:
            blank = np.zeros((1, settings.size), np.float32)
            rows.append(encode_examples(settings, [blank], clip=settings.clip, seed=seed, noise=SystemNoise()))
    return np.stack(rows)
