"""Example-level DP-SGD (Abadi et al. 2016) over Opacus's per-example gradients.

Guarantees: an example enters a step by a Poisson coin from the `NoiseSource` and by nothing else; its gradient over all
parameters is clipped to one L2 norm; Gaussian noise from the same source is added to the sum, also when no example was
drawn; sampling rate, clip and denominator are public constants. Models that mix examples or remember them in buffers
are refused. Does not guarantee: that the step's duration hides the number of examples drawn, nor that a custom layer
treats examples one by one, which only its author can know. Charging a ledger is the caller's business, and comes first.

Opacus computes the gradients (its hooks, its samplers, and those that a layer brings as a method `per_sample_gradients`
of the same signature). Sampling, clipping and noise are ours: Opacus's sampler and noise draw from torch's generators,
its data loader costs more than a step of a small model, and its clipping turns one gradient that is not finite into a
sum that is not finite.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmesh.errors import ConfigError, TrustError
from fedmesh.privacy.clipping import add_clipped
from fedmesh.privacy.noise import NoiseSource
from fedmesh.privacy.per_sample import attach, check_supported
from fedmesh.privacy.settings import DpSettings

__all__ = ["DpSgd"]

Loss = Callable[[Tensor, Tensor], Tensor]


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over examples: every example's gradient is its own."""
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


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
        gradient_bytes: per-example gradients held at a time; a larger Poisson batch is taken in parts, to the same sum.

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
        check_supported(model)
        self._model = model
        self._settings = settings
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._loss = loss
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._sizes = [p.numel() for p in self._parameters]
        self._size = sum(self._sizes)
        self._part = max(1, gradient_bytes // (4 * self._size))
        self._hooks = attach(model)

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
        if len(x) != len(y):
            raise ConfigError(f"{len(x)} examples came with {len(y)} labels: there must be one label each")
        velocity = torch.zeros(self._size) if self._momentum else None
        training, state = self._model.training, _state(self._model)
        self._model.train()
        self._hooks.enable_hooks()
        try:
            for _ in range(self._settings.steps):
                self._step(x, y, noise, velocity)
        finally:
            self._hooks.disable_hooks()
            self._hooks.forget()
            self._model.train(training)
        if _state(self._model) != state:
            raise TrustError(
                "the model changed something besides its parameters while training (a buffer, an activation range): "
                "the noise does not cover it, and the delta must not be sent"
            )

    def close(self) -> None:
        """Takes Opacus's hooks and attributes off the model."""
        self._hooks.cleanup()

    def _step(self, x: Tensor, y: Tensor, noise: NoiseSource, velocity: Tensor | None) -> None:
        drawn = np.flatnonzero(noise.uniform(len(x)) < self._settings.sample_rate)
        total = torch.zeros(self._size)
        for start in range(0, len(drawn), self._part):
            part = torch.from_numpy(drawn[start : start + self._part])
            self._add(total, x[part], y[part])
        gradient = self._noisy_mean(total, noise)
        if velocity is not None:
            gradient = velocity.mul_(self._momentum).add_(gradient)
        with torch.no_grad():
            for parameter, piece in zip(self._parameters, torch.split(gradient, self._sizes), strict=True):
                parameter.sub_(piece.view_as(parameter), alpha=self._learning_rate)

    def _add(self, total: Tensor, x: Tensor, y: Tensor) -> None:
        """Adds the clipped gradients of the examples to `total`, float32 [P]."""
        self._hooks.backward(self._loss(self._model(x), y))
        totals, gradients = [], []
        for parameter, part in zip(self._parameters, torch.split(total, self._sizes), strict=True):
            rows: Any = parameter.grad_sample  # type: ignore[attr-defined]  # Opacus's attribute
            if rows is not None:  # the loss reaches it
                totals.append(part)
                gradients.append(rows.reshape(len(x), -1))
                parameter.grad_sample = None  # type: ignore[attr-defined]
        add_clipped(totals, gradients, self._settings.clip)

    def _noisy_mean(self, total: Tensor, noise: NoiseSource) -> Tensor:
        """(total + noise) / expected batch: added in float64 and rounded once (see `fedmesh.privacy.noise`)."""
        noisy = torch.from_numpy(noise.normal(self._size))
        noisy *= self._settings.noise_multiplier * self._settings.clip
        noisy += total
        return noisy.float().div_(self._settings.expected_batch)


def _state(model: nn.Module) -> list[tuple[str, str]]:
    """All that a model keeps besides parameters, to be compared: extra states, and buffers, of which there are none."""
    kept = [(name, repr(buffer)) for name, buffer in model.named_buffers()]
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            kept.append((name, repr(module.get_extra_state())))
    return kept
