"""Training a `LinearHead`: the steps of `LocalSgd` and of `fedmesh.privacy.DpSgd` with the same draws, without torch.

The gradient of one example is an outer product, (softmax - one-hot) h^T, whose norm is the product of the two norms (a
bias makes h longer, by a 1): clipping needs no gradient per example in memory, and a clipped sum is one matrix product.
As in DP-SGD, an example whose gradient is not finite counts as zero, and what an example adds depends on it alone.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedmesh.client.assignment import Fitted
from fedmesh.client.linear_head import LinearHead, softmax_errors
from fedmesh.client.task import Task
from fedmesh.privacy.noise import NoiseSource
from fedmesh.types import Examples, Float32

__all__ = ["fit", "fit_private", "gradient_rows"]

_SAFE = 1 - 2.0**-20
"""As in `fedmesh.privacy.clipping`, which needs torch: float32 rounds the clipped gradient up by less than the rest."""


def fit(task: Task, head: LinearHead, start: Float32, examples: Examples, order: np.random.Generator) -> Fitted:
    """What comes of `local_epochs` over `examples`, as by `LocalSgd.fit`.

    Args:
        task: says epochs, batch size, learning rate and momentum.
        head: the model.
        start: the head's weights to start from, float32 [size].
        examples: of the device. One without does not move.
        order: shuffles.
    """
    descent = _Descent(task, start)
    inputs, count, loss = head.inputs(examples.x), len(examples), 0.0
    for _ in range(task.local_epochs if count else 0):
        shuffled, total = order.permutation(count), 0.0
        for first in range(0, count, task.batch_size):
            batch = shuffled[first : first + task.batch_size]
            x = inputs[batch]
            errors, losses = softmax_errors(head.logits(x, descent.weights), examples.y[batch])
            errors /= np.float32(len(batch))
            total += float(losses.sum())
            descent.step(head.gradient(errors, x))
        loss = total / count
    return Fitted(descent.weights - start, {"examples": count, "loss": loss})


def fit_private(task: Task, head: LinearHead, start: Float32, examples: Examples, noise: NoiseSource) -> Fitted:
    """What comes of a round of DP-SGD, as by `DpSgd.fit`; charge the ledger before calling.

    Args:
        task: says learning rate and momentum, and in its DP settings all else.
        head, start, examples: as for `fit`.
        noise: draws the examples and the noise.
    """
    settings = task.dp
    assert settings is not None
    descent = _Descent(task, start)
    inputs, norms = _finite(head, head.inputs(examples.x))
    for _ in range(settings.steps):
        drawn = np.flatnonzero(noise.uniform(len(examples)) < settings.sample_rate)
        x = inputs[drawn]
        errors, _ = softmax_errors(head.logits(x, descent.weights), examples.y[drawn])
        noisy = noise.normal(head.size)
        noisy *= settings.noise_multiplier * settings.clip
        noisy += head.gradient(_clipped(errors, norms[drawn], settings.clip), x)  # in float64, rounded once
        gradient = noisy.astype(np.float32)
        gradient /= np.float32(settings.expected_batch)
        descent.step(gradient)
    return Fitted(descent.weights - start)


def gradient_rows(
    head: LinearHead, weights: Float32, examples: Examples, *, chunk_bytes: int = 1 << 25
) -> Iterator[Float32]:
    """The gradient of each example at `weights`, float32 [size], as chunks of rows [b, size]; not clipped.

    In the chunks of `fedmesh.privacy.example_sum.ExampleGradients`, so that the same draws round them.
    """
    inputs = head.inputs(examples.x)
    rows = max(1, chunk_bytes // (4 * weights.size))
    for first in range(0, len(examples), rows):
        x = inputs[first : first + rows]
        errors, _ = softmax_errors(head.logits(x, weights), examples.y[first : first + rows])
        yield head.gradients(errors, x)


class _Descent:
    """SGD with momentum as in torch.optim.SGD, from rest."""

    def __init__(self, task: Task, start: Float32) -> None:
        self.weights = start.copy()
        self._velocity = np.zeros_like(self.weights)
        self._momentum = np.float32(task.momentum)
        self._learning_rate = np.float32(task.learning_rate)

    def step(self, gradient: Float32) -> None:
        """Moves the weights by `gradient`, float32 [size]."""
        if self._momentum:
            self._velocity *= self._momentum
            self._velocity += gradient
            gradient = self._velocity
        self.weights -= self._learning_rate * gradient


def _finite(head: LinearHead, inputs: Float32) -> tuple[Float32, NDArray[np.float64]]:
    """The inputs, rows that are not finite as zeros, and `LinearHead.norms`, float64 [N]; infinite for such rows."""
    norms = head.norms(inputs)
    sound = np.isfinite(norms)
    if sound.all():
        return inputs, norms
    return np.where(sound[:, np.newaxis], inputs, np.float32(0)), np.where(sound, norms, np.inf)


def _clipped(errors: Float32, norms: NDArray[np.float64], clip: float) -> Float32:
    """Each example's error, [B, classes], scaled down until its gradient's norm is at most `clip`; zero if unsound."""
    lengths = np.linalg.norm(errors.astype(np.float64), axis=1) * norms
    sound = np.isfinite(lengths)
    factors = np.minimum(1.0, _SAFE * clip / (lengths + 1e-6))
    scaled = errors * factors[:, np.newaxis].astype(np.float32)
    return scaled if sound.all() else np.where(sound[:, np.newaxis], scaled, np.float32(0))
