"""What a server gets to see of one device's round, under each defence: the attacks start from here."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.client.assignment import Assignment
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer
from fedmesh.privacy import skellam
from fedmesh.privacy.noise import KeyedNoise
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summed import SumSettings
from fedmesh.privacy.summing import mean_of, server_noise
from fedmesh.quantization.codec import DeltaCodec, public_ranges
from fedmesh.simulation.laboratory.broken import silent
from fedmesh.types import Examples, Float32, PrivacyEvent

__all__ = ["Observer", "Uncharged", "undefended"]

_OTHERS = 1_000_000
"""Number of the first of the other devices; trials are numbered from 0."""


def undefended(task: Task, *, local_epochs: int, batch_size: int) -> Task:
    """The task without privacy and without secure aggregation: its updates are seen one by one."""
    return replace(
        task, dp=None, summed=None, secure_aggregation=False, weighting="uniform", weight_cap=1,
        error_feedback=False, momentum=0.0, local_epochs=local_epochs, batch_size=batch_size,
    )  # fmt: skip


class Uncharged:
    """A ledger that pays for everything: nothing here is anybody's."""

    def charge(self, event: PrivacyEvent, *, release_id: str | None = None) -> None:
        """See `fedmesh.types.Ledger`."""

    def epsilon(self, delta: float) -> float:  # noqa: ARG002 - the seam's argument
        """See `fedmesh.types.Ledger`."""
        return 0.0


class Observer:
    """Shows what a server sees of one device in the first round.

    Args:
        task: what the device carries out.
        weights: the public start, float32 [P].
        range_fraction: of the scenario's ``[delta]``.
        others: the other devices of a secure sum; none: the update is seen by itself.
    """

    def __init__(self, task: Task, weights: Float32, *, range_fraction: float, others: Sequence[Examples] = ()) -> None:
        self._task = task
        self._weights = weights
        self._trainer = Trainer.of(task)
        layout = self._trainer.layout
        self._ranges = public_ranges(layout.unflatten(weights), range_fraction)
        self._codec = DeltaCodec(layout, task.bits, self._ranges)
        self._members = len(others) + 1
        self._others = self._sum_of(others)

    def update(self, examples: Examples, number: int) -> Float32:
        """The change of the weights, float32 [P], that follows from what is seen.

        Args:
            examples: the device's.
            number: of the trial; fresh noise and batches for each.
        """
        if self._task.summed is not None:
            return self._decoded(self._task.summed, examples, number)
        own = self._alone(self._trainer, number, examples)
        return own if self._members == 1 else ((self._others + own) / self._members).astype(np.float32)

    def _sum_of(self, others: Sequence[Examples]) -> NDArray[Any]:
        """What the other devices add, without noise."""
        if not others:
            return np.zeros(1, np.int64)
        summed = self._task.summed
        trainer = Trainer.of(self._task if summed is None else replace(self._task, summed=silent(summed)))
        inputs = [self._alone(trainer, _OTHERS + index, one) for index, one in enumerate(others)]
        total: NDArray[Any] = np.sum(inputs, axis=0)
        return total

    def _alone(self, trainer: Trainer, device: int, examples: Examples) -> NDArray[Any]:
        summed = trainer.task.summed
        ranges = self._ranges.tolist() if summed is None else [summed.clip]
        assignment = Assignment(1, device, self._weights, ranges)
        task = trainer.task
        if task.dp is not None or (summed is None and task.codec == "float32"):  # noise is coarser than a packet's grid
            return trainer.change(assignment, examples, ledger=Uncharged())
        trained = trainer.train(assignment, examples, ledger=Uncharged())
        if summed is not None:
            assert trained.values is not None
            return trained.values
        assert trained.packet is not None
        return self._codec.decode_vector(trained.packet, max_bytes=self._codec.packet_bytes)

    def _decoded(self, settings: SumSettings, examples: Examples, number: int) -> Float32:
        """The sum with the noise of `honest` devices, one of which is this one."""
        noise = KeyedNoise(self._task.keyed_noise_seed or 0, "attack", number)
        total = self._alone(self._trainer, number, examples) + self._others
        share = (settings.sigma_local / settings.gamma) ** 2
        for _ in range(settings.honest - 1):
            total[: settings.dimension] += skellam.noise(settings.dimension, variance=share, rng=noise)
        seed = rotation_seed(1, self._weights)
        step = mean_of(settings, total, self._members, clip=settings.clip, seed=seed)
        if settings.trusted_server:
            added = server_noise(settings, self._members, clip=settings.clip, noise=noise)
            step = (step + added).astype(np.float32)
        return step
