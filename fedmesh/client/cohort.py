"""Several devices of one small model trained at once, by torch.func: one batched operation where there would be many.

The weights of K devices are the rows of one matrix; ``vmap(grad(loss))`` gives the K gradients. Devices hold different
numbers of examples: batches are padded with examples of weight zero, and a device that is done no longer moves. Each
device follows the same steps as under `LocalSgd`, up to float32 rounding (sums are taken in another order).

It pays where a step is mostly the cost of launching operations: see `cohort_size` for the rule and its measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmesh.client.parameters import FlatParameters
from fedmesh.client.task import Task
from fedmesh.types import Examples, Float32

__all__ = ["Cohort", "Member", "cohort_size"]

LARGEST_MODEL = 20_000
"""Parameters. Measured on one core (benchmarks/cohort.py), cohorts of 16 against one after another, float / int8:
digits_cnn 1.4k 2.1x / 2.5x, digits_cnn 6.6k 1.3x / 1.65x, har_cnn 9k 2.0x / 2.8x, but lenet 62k 0.6x / 0.7x."""
SIZE = 16
"""Of the gain of 64 at once, 16 reach nine tenths, and leave something for the other cores."""


@dataclass(frozen=True, slots=True)
class Member:
    """One device of a cohort: its start weights, float32 [P], its examples, and the generator that shuffles them."""

    weights: Float32
    examples: Examples
    order: np.random.Generator


def cohort_size(task: Task, model: nn.Module) -> int:
    """How many devices to train at once; 1 where that is not faster. A fixed rule: the choice changes the last bits."""
    if task.dp is not None or task.batching == "never":
        return 1
    if task.batching == "always":
        return SIZE
    return SIZE if sum(parameter.numel() for parameter in model.parameters()) <= LARGEST_MODEL else 1


class Cohort:
    """Trains groups of devices on one resident model, whose own parameters are left alone.

    Args:
        task: says epochs, batch size, learning rate and momentum.
        model: its forward maps [B, *input_shape] to logits [B, classes].
        parameters: the model's.
    """

    def __init__(self, task: Task, model: nn.Module, parameters: FlatParameters) -> None:
        self._task = task
        self._model = model
        self._parameters = parameters
        self._gradient = torch.func.vmap(torch.func.grad(self._loss))

    def fit(self, members: Sequence[Member]) -> list[Float32]:
        """The change of each member's weights, float32 [P], in order; each as by `LocalSgd.fit`.

        Raises:
            DecodeError: the weights of some member are not this model's.
        """
        for member in members:
            self._parameters.check(member.weights)
        start = torch.from_numpy(np.stack([member.weights for member in members]))
        weights, velocity = start.clone(), torch.zeros_like(start)
        schedule = [_schedule(self._task, member) for member in members]
        for step in range(max(len(batches) for batches in schedule)):
            x, y, share = self._batch(members, schedule, step)
            gradient = self._gradient(weights, x, y, share)
            if self._task.momentum:
                gradient = velocity.mul_(self._task.momentum).add_(gradient)
            active = (share.amax(1, keepdim=True) > 0).float()  # velocity must not carry a device on that is done
            weights.addcmul_(gradient, active, value=-self._task.learning_rate)
        return list((weights - start).numpy())

    def _loss(self, weights: Tensor, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        logits = torch.func.functional_call(self._model, self._parameters.split(weights), (x,))
        return F.cross_entropy(logits, y, reduction="none") @ share

    def _batch(
        self, members: Sequence[Member], schedule: Sequence[Sequence[NDArray[np.int64]]], step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of one step: x [K, B, ...], y [K, B], and the share of each example in its device's mean loss [K, B]."""
        size = self._task.batch_size
        x = np.zeros((len(members), size, *self._task.input_shape), np.float32)
        y = np.zeros((len(members), size), np.int64)
        share = np.zeros((len(members), size), np.float32)
        for row, (member, batches) in enumerate(zip(members, schedule, strict=True)):
            if step < len(batches):
                chosen = batches[step]
                x[row, : len(chosen)] = member.examples.x[chosen]
                y[row, : len(chosen)] = member.examples.y[chosen]
                share[row, : len(chosen)] = 1 / len(chosen)
        return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(share)


def _schedule(task: Task, member: Member) -> list[NDArray[np.int64]]:
    """Indices of each batch: the order in which `LocalSgd` would take them."""
    count = len(member.examples)
    if not count:
        return []
    epochs = [member.order.permutation(count) for _ in range(task.local_epochs)]
    cuts = list(range(task.batch_size, count, task.batch_size))
    return [batch for epoch in epochs for batch in np.split(epoch, cuts)]
