"""Plain local training: SGD with momentum (Sutskever et al. 2013, as in torch.optim.SGD) on the cross-entropy.

The loop touches the model's parameters as one vector and takes its batches as slices of an epoch that is shuffled once:
on a 62k-parameter model a step costs what its forward and backward pass cost. The model is resident and reused.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmesh.client.assignment import Fitted
from fedmesh.client.parameters import FlatParameters
from fedmesh.client.task import Task
from fedmesh.types import Examples, Float32

__all__ = ["LocalSgd"]


class LocalSgd:
    """Trains one device after another on the same model.

    Args:
        task: says epochs, batch size, learning rate and momentum.
        model: its forward maps [B, *input_shape] to logits [B, classes].
        parameters: the model's.
    """

    def __init__(self, task: Task, model: nn.Module, parameters: FlatParameters) -> None:
        self._task = task
        self._model = model
        self._parameters = parameters
        self._velocity = torch.zeros_like(parameters.values)

    def fit(self, weights: Float32, examples: Examples, order: np.random.Generator) -> Fitted:
        """What comes of `local_epochs` over `examples`, starting from `weights`, float32 [P].

        `order` shuffles. A device without examples does not move.
        """
        self._parameters.load(weights)
        self._parameters.link_gradients()
        self._velocity.zero_()
        count, loss = len(examples), 0.0
        for _ in range(self._task.local_epochs if count else 0):
            total = sum(self._step(x, y) * len(y) for x, y in _batches(self._task, examples, order))
            loss = total / count
        return Fitted(self._parameters.delta(weights), {"examples": count, "loss": loss})

    def _step(self, x: Tensor, y: Tensor) -> float:
        """Moves the weights by one batch; its mean loss before that."""
        self._parameters.gradients.zero_()
        loss = F.cross_entropy(self._model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        step = self._parameters.gradients
        if self._task.momentum:
            step = self._velocity.mul_(self._task.momentum).add_(step)
        self._parameters.values.sub_(step, alpha=self._task.learning_rate)
        return loss.item()


def _batches(task: Task, examples: Examples, order: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch, shuffled once."""
    shuffled = torch.from_numpy(order.permutation(len(examples)))
    images, labels = _channels_last(torch.from_numpy(examples.x)[shuffled]), torch.from_numpy(examples.y)[shuffled]
    yield from zip(torch.split(images, task.batch_size), torch.split(labels, task.batch_size), strict=True)


def _channels_last(x: Tensor) -> Tensor:
    """Images [N, C, H, W] with the channels innermost in memory: a step of LeNet takes a seventh less."""
    if x.dim() != 4:
        return x
    # `contiguous` would leave images of one channel as they are, and the convolution would not notice.
    return torch.empty(x.shape, memory_format=torch.channels_last).copy_(x)
