"""The model ``linear_head`` in numpy: logits = W x over vectors, fake-quantized as the torch model of that name is.

Under power-of-two scales every sum of a head of up to 518 inputs is exact in float32, so the logits are torch's (and
the exported int8 model's) to the last bit; in float, and under free scales, up to the order of additions.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedmesh.client.task import Task
from fedmesh.errors import ConfigError
from fedmesh.quantization.grids import ActivationGrid
from fedmesh.quantization.rounding_numpy import quantize_activation, quantize_weights
from fedmesh.types import Float32, Layout

__all__ = ["LinearHead", "softmax_errors"]

_MODEL = "linear_head"
_WEIGHT, _INPUT = "0.weight", "input"
"""How `fedmesh.quantization.prepare` names the weights of a bare layer, and its input's grid."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """One linear layer without bias.

    Attributes:
        classes, width: of the weights, float32 [classes, width].
        grid: where the input is rounded to; None: the plain float32 function, `training` ``float``.
    """

    classes: int
    width: int
    grid: ActivationGrid | None

    @classmethod
    def of(cls, task: Task) -> Self:
        """The task's model.

        Raises:
            ConfigError: it is another model, or the task's range is not one of it.
        """
        if task.model != _MODEL or task.model_options:
            options = f" with options {sorted(task.model_options)}" if task.model_options else ""
            raise ConfigError(
                f"the lite trainer knows the model {_MODEL!r} without options; task {task.name} has "
                f"{task.model!r}{options}: choose another client, or that model on fixed features"
            )
        if len(task.input_shape) != 1:
            raise ConfigError(
                f"the lite trainer takes vectors, examples of shape [width], not {list(task.input_shape)}: give the "
                "task features, or choose another client"
            )
        return cls(task.classes, task.input_shape[0], None if task.training == "float" else _grid(task))

    @property
    def layout(self) -> Layout:
        """Of the torch model's arrays."""
        return Layout((_WEIGHT,), ((self.classes, self.width),))

    def inputs(self, x: Float32) -> Float32:
        """What the layer sees of `x`, [N, width]: on the grid, or `x` itself."""
        return x if self.grid is None else quantize_activation(x, self.grid)

    def weights(self, master: Float32) -> Float32:
        """What the layer multiplies with where the master weights are `master`, [classes, width]."""
        return master if self.grid is None else quantize_weights(master, self.grid.scales)

    def logits(self, inputs: Float32, master: Float32) -> Float32:
        """Logits [N, classes] of `inputs`, which are on the grid already, see `inputs`."""
        return inputs @ self.weights(master).T


def softmax_errors(logits: Float32, labels: NDArray[np.int64]) -> tuple[Float32, Float32]:
    """The gradient of each example's cross-entropy by its logits, and that cross-entropy, in nats.

    Args:
        logits: [B, classes]. labels: [B], below `classes`.

    Returns:
        softmax minus one-hot, float32 [B, classes], and float32 [B].
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    chosen = shifted[rows, labels]
    errors = np.exp(shifted)
    total = errors.sum(axis=1, keepdims=True)
    errors /= total
    errors[rows, labels] -= np.float32(1)
    return errors, np.log(total[:, 0]) - chosen


def _grid(task: Task) -> ActivationGrid:
    if set(task.ranges) != {_INPUT}:
        raise ConfigError(f"the ranges are those of another model: {sorted(task.ranges)}, wanted {_INPUT!r} alone")
    grid = ActivationGrid(_INPUT, task.scales, signed=True)
    grid.set(*task.ranges[_INPUT])
    return grid
