"""A linear layer in numpy: logits = W x + b over vectors, fake-quantized as the torch layer is.

It is the model ``linear_head``, or the last layer of another model behind its frozen backbone. Under power-of-two
scales every sum of a layer of up to 518 inputs is exact in float32, so the logits are torch's (and the exported int8
model's) to the last bit; in float, and under free scales, up to the order of additions.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedmesh.client.task import Task
from fedmesh.errors import ConfigError
from fedmesh.quantization.grids import ActivationGrid
from fedmesh.quantization.head import Head
from fedmesh.quantization.rounding_numpy import quantize_activation, quantize_weights
from fedmesh.types import Float32, Layout

__all__ = ["LinearHead", "softmax_errors"]

_MODEL = "linear_head"
_WEIGHT, _INPUT = "0.weight", "input"
"""How `fedmesh.quantization.prepare` names the weights of a bare layer, and its input's grid."""


@dataclass(frozen=True, slots=True)
class LinearHead:
    """One linear layer; its flat vector is the weight, row by row, and then the bias.

    Attributes:
        classes, width: of the weight, float32 [classes, width].
        grid: where the input is rounded to; None: the plain float32 function, `training` ``float``.
        bias: whether there is one, float32 [classes].
    """

    classes: int
    width: int
    grid: ActivationGrid | None
    bias: bool = False

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

    @classmethod
    def behind(cls, head: Head, task: Task) -> Self:
        """The last layer of the task's model.

        Raises:
            ConfigError: the task has no range for the layer's input, or one that is none.
        """
        if head.grid not in task.ranges:
            raise ConfigError(
                f"the ranges of task {task.name} are those of another model: {sorted(task.ranges)}, without "
                f"{head.grid!r}, which its last layer reads"
            )
        grid = ActivationGrid(head.grid, task.scales, signed=head.signed)
        grid.set(*task.ranges[head.grid])
        return cls(head.classes, head.width, grid, head.bias is not None)

    @property
    def size(self) -> int:
        """Elements of the flat vector."""
        return self.classes * (self.width + self.bias)

    @property
    def layout(self) -> Layout:
        """Of the arrays of the torch model ``linear_head``."""
        return Layout((_WEIGHT,), ((self.classes, self.width),))

    def inputs(self, x: Float32) -> Float32:
        """What the layer sees of `x`, [N, width]: on the grid, or `x` itself."""
        return x if self.grid is None else quantize_activation(x, self.grid)

    def logits(self, inputs: Float32, master: Float32) -> Float32:
        """Logits [N, classes] of `inputs`, which are on the grid already, see `inputs`.

        Args:
            inputs: [N, width]. master: the master weights, float32 [size].
        """
        weight, bias = self._split(master)
        if self.grid is not None:
            weight, bias = quantize_weights(weight, self.grid.scales, bias, input_scale=self.grid.step)
        logits: Float32 = inputs @ weight.T
        if bias is not None:
            logits += bias
        return logits

    def gradient(self, errors: Float32, inputs: Float32) -> Float32:
        """The sum of the examples' gradients, float32 [size], of their `errors` [N, classes] by their logits."""
        weight = (errors.T @ inputs).ravel()
        return np.concatenate([weight, errors.sum(axis=0)]) if self.bias else weight

    def gradients(self, errors: Float32, inputs: Float32) -> Float32:
        """The gradient of each example, float32 [N, size]."""
        weight = (errors[:, :, np.newaxis] * inputs[:, np.newaxis, :]).reshape(len(inputs), self.classes * self.width)
        return np.concatenate([weight, errors], axis=1) if self.bias else weight

    def norms(self, inputs: Float32) -> NDArray[np.float64]:
        """What the norm of an example's error has to be multiplied with to be that of its gradient, float64 [N].

        The gradient is the outer product of the error with the input, and with the constant 1 that a bias multiplies.
        """
        norms: NDArray[np.float64] = np.linalg.norm(inputs.astype(np.float64), axis=1)
        return np.hypot(norms, 1.0) if self.bias else norms

    def _split(self, vector: Float32) -> tuple[Float32, Float32 | None]:
        weight = vector[: self.classes * self.width].reshape(self.classes, self.width)
        return weight, vector[weight.size :] if self.bias else None


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
