"""Example-level DP-SGD (Abadi et al. 2016), by ghost clipping or by Opacus's per-example gradients.

Guarantees: an example enters a step by a Poisson coin from the `NoiseSource` and by nothing else; its gradient over all
parameters is clipped to one L2 norm; Gaussian noise from the same source is added to the sum, also when no example was
drawn; sampling rate, clip and denominator are public constants. Models that mix examples or remember them in buffers
are refused. Does not guarantee: that the step's duration hides the number of examples drawn, nor that a custom layer
treats examples one by one, which only its author can know. Charging a ledger is the caller's business, and comes first.

Linear layers and convolutions are clipped by the factors of their gradients (`fedmesh.privacy.ghost`). For all others
Opacus computes the gradients: its hooks, its samplers, and those that a layer brings as a method `per_sample_gradients`
of the same signature. Sampling, clipping and noise are ours: Opacus's sampler and noise draw from torch's generators,
its data loader costs more than a step of a small model, and its clipping turns one gradient that is not finite into a
sum that is not finite.
"""

import numpy as np
import torch
from torch import Tensor, nn

from fedmesh.errors import ConfigError
from fedmesh.privacy.example_model import ExampleModel, Loss, check_labels, summed_cross_entropy
from fedmesh.privacy.noise import NoiseSource
from fedmesh.privacy.settings import DpSettings

__all__ = ["DpSgd"]

_NOISE_BLOCK = 1 << 18
"""Of the noise drawn at a time; even blocks of `KeyedNoise` are what it draws at once."""


class DpSgd:
    """DP-SGD on one resident model, reused for round after round and device after device.

    `fit` changes the model's parameters in place; load a device's start into them before. Between calls the model is an
    ordinary model: the hooks are off, nothing is remembered.

    Args:
        model: float32, on the CPU; its trainable parameters are the ones trained, in ``model.parameters()`` order.
        settings: the public parameters.
        learning_rate: step size on the noisy mean gradient.
        momentum: of torch.optim.SGD; starts from zero in every `fit`.
        loss: sums over the examples of a batch; a mean would divide by the batch drawn, which is data.
        gradient_bytes: about what the examples taken at a time may need for gradients and activations; a larger
            Poisson batch is taken in parts, to the same sum.

    Raises:
        ConfigError: the model mixes examples (batch norm), has buffers, draws dropout masks or has nothing to train.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: DpSettings,
        *,
        learning_rate: float,
        momentum: float = 0.0,
        loss: Loss = summed_cross_entropy,
        gradient_bytes: int = 1 << 27,
    ) -> None:
        if not (learning_rate > 0 and 0 <= momentum < 1):
            raise ConfigError(f"learning_rate {learning_rate} must be above 0 and momentum {momentum} in [0, 1)")
        self._examples = ExampleModel(model, loss, gradient_bytes)
        self._settings = settings
        self._learning_rate = learning_rate
        self._momentum = momentum

    def fit(self, x: Tensor, y: Tensor, noise: NoiseSource) -> None:
        """Takes `settings.steps` steps in place; charge the ledger before calling.

        Args:
            x: all of the device's training examples, float32 [N, ...]; N may be 0.
            y: their labels, int64 [N].
            noise: draws the examples and the noise.

        Raises:
            ConfigError: there is not one label for each example.
            TrustError: the model kept something of the data outside of its parameters.
        """
        check_labels(x, y)
        velocity = torch.zeros(self._examples.size) if self._momentum else None
        with self._examples.resident():
            for _ in range(self._settings.steps):
                self._step(x, y, noise, velocity)

    def close(self) -> None:
        """Takes Opacus's hooks and attributes off the model."""
        self._examples.close()

    def _step(self, x: Tensor, y: Tensor, noise: NoiseSource, velocity: Tensor | None) -> None:
        drawn = torch.from_numpy(np.flatnonzero(noise.uniform(len(x)) < self._settings.sample_rate))
        total = torch.zeros(self._examples.size)
        if len(drawn):
            for part in torch.split(drawn, self._examples.part(x)):
                self._examples.add_clipped(total, x[part], y[part], self._settings.clip)
        gradient = self._noisy_mean(total, noise)
        if velocity is not None:
            gradient = velocity.mul_(self._momentum).add_(gradient)
        with torch.no_grad():
            pieces = torch.split(gradient, self._examples.sizes)
            for parameter, piece in zip(self._examples.parameters, pieces, strict=True):
                parameter.sub_(piece.view_as(parameter), alpha=self._learning_rate)

    def _noisy_mean(self, total: Tensor, noise: NoiseSource) -> Tensor:
        """(total + noise) / expected batch, in the place of `total`.

        Added in float64 and rounded once (see `fedmesh.privacy.noise`), a block at a time: a large model's noise in
        float64 would be the largest thing in memory.
        """
        for block in torch.split(total, _NOISE_BLOCK):  # views
            noisy = torch.from_numpy(noise.normal(len(block)))
            noisy *= self._settings.noise_multiplier * self._settings.clip
            noisy += block
            block.copy_(noisy)
        return total.div_(self._settings.expected_batch)
