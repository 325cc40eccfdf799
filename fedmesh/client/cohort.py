"""Several devices of one small model trained at once: one batched operation where there would be many.

The weights of K devices are the rows of one matrix, and every layer works on K blocks of examples, each with its own
weights (`fedmesh.quantization.stacked`): torch.func.functional_call puts them in. vmap(grad) takes 1.2 to 1.7 times
as long, since a convolution with K weights is a grouped one then. Devices hold different numbers of examples:
batches are padded with examples of weight zero, and a device that is done is no longer computed on. Each follows the
same steps as under `LocalSgd`, up to float32 rounding (gradients are summed in another order).

It pays where a step is mostly the cost of launching operations: see `cohort_size` for the rule and its measurements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmesh.client.assignment import Fitted
from fedmesh.client.parameters import FlatParameters
from fedmesh.client.task import Task
from fedmesh.types import Examples, Float32

__all__ = ["Cohort", "Member", "cohort_size"]

Turn = tuple[Examples, NDArray[np.int64]]
"""A device's examples, and which of them are in its next batch."""

LARGEST_MODEL = 20_000
"""Parameters. Measured on one core (benchmarks/cohort.py), cohorts of 32 against one after another, float / int8:
digits_cnn 1.4k 3.2x / 4.1x, digits_cnn 6.6k 2.0x / 2.4x, har_cnn 9k 3.3x / 3.8x, but lenet 62k 0.9x / 1.1x."""
SIZE = 32
"""Of the speed of 64 at once, 32 have nine tenths or, where memory is the limit, more; 16 have 1.9x / 2.3x of 6.6k."""
_KEPT = 31 << 20
"""Bytes; glibc takes no block for a hint from 32 MiB up."""


@dataclass(frozen=True, slots=True)
class Member:
    """One device of a cohort: its start weights, float32 [P], its examples, and the generator that shuffles them."""

    weights: Float32
    examples: Examples
    order: np.random.Generator


def cohort_size(task: Task, model: nn.Module) -> int:
    """How many devices to train at once; 1 where that is not faster. A fixed rule: the choice changes the last bits."""
    if task.budget is not None or task.batching == "never":
        return 1
    if task.batching == "always":
        return SIZE
    return SIZE if sum(parameter.numel() for parameter in model.parameters()) <= LARGEST_MODEL else 1


class Cohort:
    """Trains groups of devices on one resident model, whose own parameters are left alone.

    Args:
        task: says epochs, batch size, learning rate and momentum.
        model: prepared for quantization (`build_model`), so that its layers take the weights of several models.
        parameters: the model's.
    """

    def __init__(self, task: Task, model: nn.Module, parameters: FlatParameters) -> None:
        self._task = task
        self._model = model
        self._parameters = parameters
        # glibc keeps freed memory for reuse up to twice the largest block that was ever freed, and gives the rest back:
        # without this block, of which no byte is ever touched, each step would fault in its memory anew (a tenth more).
        torch.empty(_KEPT, dtype=torch.uint8)

    def fit(self, members: Sequence[Member]) -> list[Fitted]:
        """What comes of each member's training, in order; each as by `LocalSgd.fit`.

        Raises:
            DecodeError: the weights of some member are not this model's.
        """
        for member in members:
            self._parameters.check(member.weights)
        schedules = [_schedule(self._task, member) for member in members]
        # Longest first: those that still train are the first rows, and those that are done are not computed on.
        ranking = sorted(range(len(members)), key=lambda index: -len(schedules[index]))
        start = torch.from_numpy(np.stack([members[index].weights for index in ranking]))
        weights, velocity = start.clone(), torch.zeros_like(start)
        losses = [np.zeros(len(schedule)) for schedule in schedules]
        for step in range(len(schedules[ranking[0]])):
            turns = [(members[i].examples, schedules[i][step]) for i in ranking if step < len(schedules[i])]
            means = self._step(weights[: len(turns)], velocity[: len(turns)], turns)
            for index, mean in zip(ranking, means, strict=False):
                losses[index][step] = mean
        changes = weights.sub_(start).numpy()
        return [
            Fitted(changes[row], _metrics(self._task, member, schedule, loss))
            for row, member, schedule, loss in zip(np.argsort(ranking), members, schedules, losses, strict=True)
        ]

    def _step(self, weights: Tensor, velocity: Tensor, turns: Sequence[Turn]) -> list[float]:
        """Moves weights [K, P] by one step, each row on its batch; each row's mean loss before that."""
        stacks, speeds = self._stacks(weights), self._stacks(velocity)
        gradients, means = self._gradients(stacks, *_batch(turns))
        for name, gradient in gradients.items():
            step = gradient
            if self._task.momentum:
                step = speeds[name].mul_(self._task.momentum).add_(gradient)
            stacks[name].sub_(step, alpha=self._task.learning_rate)
        return means

    def _gradients(
        self, stacks: Mapping[str, Tensor], x: Tensor, y: Tensor, share: Tensor
    ) -> tuple[dict[str, Tensor], list[float]]:
        """Of each row's mean loss, [K, *shape], and those losses [K].

        The rows have no weights in common, so the gradient of their losses' sum will do.
        """
        leaves = {name: stack.detach().requires_grad_() for name, stack in stacks.items()}
        logits = torch.func.functional_call(self._model, leaves, (x,))
        losses = F.cross_entropy(logits, y, reduction="none") * share.flatten()
        gradients = torch.autograd.grad(losses.sum(), list(leaves.values()))
        means: list[float] = losses.detach().view(share.shape).sum(1).tolist()
        return dict(zip(leaves, gradients, strict=True)), means

    def _stacks(self, vectors: Tensor) -> dict[str, Tensor]:
        """Views [K, *shape] into vectors [K, P], by parameter name."""
        layout = self._parameters.layout
        parts = torch.split(vectors, list(layout.sizes), dim=1)
        return {
            name: part.view(len(vectors), *shape)
            for name, part, shape in zip(layout.names, parts, layout.shapes, strict=True)
        }


def _batch(turns: Sequence[Turn]) -> tuple[Tensor, Tensor, Tensor]:
    """K batches as one: x [K * B, ...], y [K * B], and the share of each example in its device's mean loss [K, B]."""
    size = max(len(chosen) for _, chosen in turns)
    shape = turns[0][0].x.shape[1:]
    x = np.zeros((len(turns), size, *shape), np.float32)
    y = np.zeros((len(turns), size), np.int64)
    share = np.zeros((len(turns), size), np.float32)
    for row, (examples, chosen) in enumerate(turns):
        count = len(chosen)
        x[row, :count] = examples.x[chosen]
        y[row, :count] = examples.y[chosen]
        share[row, :count] = 1 / count
    return torch.from_numpy(x).flatten(0, 1), torch.from_numpy(y).flatten(), torch.from_numpy(share)


def _metrics(
    task: Task, member: Member, schedule: Sequence[NDArray[np.int64]], losses: NDArray[np.float64]
) -> dict[str, float]:
    """As `Fitted.metrics`, from each batch's mean loss."""
    count = len(member.examples)
    last = len(schedule) - len(schedule) // task.local_epochs  # the first batch of the last epoch
    total = sum(loss * len(chosen) for loss, chosen in zip(losses[last:], schedule[last:], strict=True))
    return {"examples": count, "loss": float(total) / max(1, count)}


def _schedule(task: Task, member: Member) -> list[NDArray[np.int64]]:
    """Indices of each batch: the order in which `LocalSgd` would take them."""
    count, size = len(member.examples), task.batch_size
    if not count:
        return []
    epochs = [member.order.permutation(count) for _ in range(task.local_epochs)]
    return [epoch[first : first + size] for epoch in epochs for first in range(0, count, size)]
