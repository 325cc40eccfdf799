"""DP-SGD with canaries among its examples: sampling, gradients, clipping, noise and steps are the product's own.

A canary is an example with a label below zero that says its coordinate. The model sees it as zeros; then what one layer
is told that it saw, an input and a gradient of its output, is replaced by two that make a gradient of one long
component. From there on the product treats it as any example.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmesh.errors import ConfigError
from fedmesh.privacy.dpsgd import DpSgd
from fedmesh.privacy.example_model import ExampleModel
from fedmesh.privacy.ghost import law
from fedmesh.privacy.layer_parts import Call
from fedmesh.privacy.noise import NoiseSource
from fedmesh.privacy.settings import DpSettings
from fedmesh.types import Examples

__all__ = ["PlantedDpSgd", "plantable", "planted_among"]

_LONG = 65_536.0
"""A canary's input; the gradient of its output is as much smaller, and so is what it adds to the bias."""


def planted_among(examples: Examples, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """`examples` and behind them a canary for each coordinate of `places`: x float32 [N + m, ...], y int64 [N + m]."""
    blank = torch.zeros(len(places), *examples.x.shape[1:])
    labels = torch.from_numpy(-1 - places)
    return torch.cat([torch.from_numpy(examples.x), blank]), torch.cat([torch.from_numpy(examples.y), labels])


def plantable(model: nn.Module) -> NDArray[np.int64]:
    """The coordinates that a canary can have, ascending: the weights and biases of linear layers and convolutions."""
    owners = {id(parameter) for layer in model.modules() if law(layer) for parameter in layer.parameters(recurse=False)}
    named = [np.full(p.numel(), id(p) in owners) for p in model.parameters() if p.requires_grad]
    return np.flatnonzero(np.concatenate(named))


class PlantedDpSgd(DpSgd):
    """`DpSgd` that takes canaries, and shows what each step releases to an auditor who knows all other examples.

    Attributes:
        seen: float64 [P], the sum over steps of the noisy sums of clipped gradients, less what the device's own
            examples are in it.
    """

    def __init__(
        self, model: nn.Module, settings: DpSettings, *, learning_rate: float, momentum: float, canary_norm: float
    ) -> None:
        super().__init__(model, settings, learning_rate=learning_rate, momentum=momentum)
        self._examples.close()
        self._planted = _PlantedExamples(model, canary_norm)
        self._examples = self._planted
        self.seen = np.zeros(self._examples.size)

    def _noisy_mean(self, total: Tensor, noise: NoiseSource) -> Tensor:
        released = super()._noisy_mean(total, noise)
        self.seen += self._settings.expected_batch * released.double().numpy() - self._planted.known
        self._planted.known = np.zeros(self._examples.size)
        return released


class _PlantedExamples(ExampleModel):
    """Examples some of which are canaries.

    Attributes:
        known: float64 [P], the sum of the clipped gradients of all that are none, since it was last set to zero.
    """

    def __init__(self, model: nn.Module, canary_norm: float) -> None:
        super().__init__(model, _loss_of_examples, 1 << 27)
        self._norm = canary_norm
        self._starts = dict(zip(self.parameters, np.cumsum([0, *self.sizes]).tolist(), strict=False))
        self.known = np.zeros(self.size)

    def add_clipped(self, total: Tensor, x: Tensor, y: Tensor, clip: float) -> None:
        """See `ExampleModel`."""
        super().add_clipped(total, x, y, clip)
        own = y >= 0
        if own.any():
            self.known += _clipped_sum(self.rows(x[own], y[own]), clip)

    def _calls(self, x: Tensor, y: Tensor) -> list[Call]:
        calls, canary = super()._calls(x, y), y < 0
        if not canary.any():
            return calls
        rows, places = np.flatnonzero(canary.numpy()), (-1 - y[canary]).numpy()
        planted: list[Call] = []
        layers: set[nn.Module] = set()
        for call in calls:
            first = call.module not in layers
            layers.add(call.module)
            blank = replace(
                call,
                activations=[_blanked(a, canary) for a in call.activations],
                backprops=_blanked(call.backprops, canary),
            )
            if first and law(call.module):
                self._plant(blank, rows, places)
            planted.append(blank)
        return planted

    def _plant(self, call: Call, rows: NDArray[np.intp], places: NDArray[np.int64]) -> None:
        """Writes what makes the gradients of the canaries that lie in this layer into the call."""
        layer: Any = call.module
        for name in ("weight", "bias"):
            parameter = getattr(layer, name)
            if parameter is None or parameter not in self._starts:
                continue
            offsets = places - self._starts[parameter]
            mine = (offsets >= 0) & (offsets < parameter.numel())
            index = np.unravel_index(offsets[mine], parameter.shape)
            if name == "bias":
                output = _output_index(layer, call, index[0], [np.zeros(mine.sum(), np.intp)] * 8)
                call.backprops[(rows[mine], *output)] = self._norm
            else:
                taken, given = _weight_index(layer, call, index)
                call.activations[0][(rows[mine], *taken)] = _LONG
                call.backprops[(rows[mine], *given)] = self._norm / _LONG


def _weight_index(
    layer: Any, call: Call, index: tuple[NDArray[np.intp], ...]
) -> tuple[tuple[NDArray[np.intp], ...], tuple[NDArray[np.intp], ...]]:
    """Where in one example's input and output the product is that the weights at `index` get."""
    none = [np.zeros(len(index[0]), np.intp)] * (call.backprops.dim() - 2)
    if law(layer) == "linear":
        return (*none, index[1]), (*none, index[0])
    outputs, inputs, *taps = index
    inputs = inputs + outputs // (layer.weight.shape[0] // layer.groups) * layer.weight.shape[1]
    here, there = [], []
    for axis, tap in enumerate(taps):
        at, to = _positions(layer, axis, call.activations[0].shape[2 + axis], call.backprops.shape[2 + axis])
        here.append(at[tap])
        there.append(to[tap])
    return (inputs, *here), (outputs, *there)


def _output_index(
    layer: nn.Module, call: Call, outputs: NDArray[np.intp], zeros: Sequence[NDArray[np.intp]]
) -> tuple[NDArray[np.intp], ...]:
    """Some place in one example's output that belongs to the channels `outputs`."""
    others = zeros[: call.backprops.dim() - 2]
    return (*others, outputs) if law(layer) == "linear" else (outputs, *others)


def _positions(layer: Any, axis: int, size: int, outputs: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each tap of the kernel along `axis`: a pixel that it covers, and the output at which it does."""
    pixels, places = [], []
    for tap in range(layer.weight.shape[2 + axis]):
        covered = [
            (place * layer.stride[axis] - layer.padding[axis] + tap * layer.dilation[axis], place)
            for place in range(outputs)
        ]
        inside = [pair for pair in covered if 0 <= pair[0] < size]
        if not inside:
            raise ConfigError(f"a {type(layer).__name__} has weights that no pixel reaches: it cannot hold canaries")
        pixel, place = inside[len(inside) // 2]
        pixels.append(pixel)
        places.append(place)
    return np.asarray(pixels, np.intp), np.asarray(places, np.intp)


def _blanked(values: Any, rows: Tensor) -> Any:
    """A copy with zeros in `rows`."""
    if not isinstance(values, Tensor):
        return values
    copy = values.detach().clone()
    copy[rows] = 0.0
    return copy


def _clipped_sum(gradients: Tensor, clip: float) -> NDArray[np.float64]:
    """The obvious twin of the product's clipping: float [B, P] to float64 [P]; what is not finite counts as zero."""
    norms = torch.linalg.vector_norm(gradients, dim=1)
    finite = torch.isfinite(norms)
    factors = (clip / norms[finite].clamp(min=1e-12)).clamp(max=1.0)
    total: NDArray[np.float64] = (factors @ gradients[finite]).double().numpy()
    return total


def _loss_of_examples(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over what is no canary."""
    own = labels >= 0
    return nn.functional.cross_entropy(logits[own], labels[own], reduction="sum") + 0.0 * logits.sum()
