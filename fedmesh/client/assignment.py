"""What a device is asked in a round and what it answers: plain data, and the seam between them. Needs numpy alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.types import Examples, Float32, Layout, Ledger

__all__ = ["Assignment", "Fitted", "TaskTrainer", "Trained", "check_examples", "check_promises", "check_weights"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One device's part of one round.

    Attributes:
        round, device: non-negative.
        weights: the global model, float32 [P].
        ranges: the scales of the round, from public state: the largest representable change of each tensor, or the clip
            of a private sum; not used by the float32 codec.
        residual: what error feedback carries over, float32 [P] or None.
        backbone: all of the model but its last layer as an int8 ONNX model, for a device that trains that layer alone.
    """

    round: int
    device: int
    weights: Float32
    ranges: Sequence[float] = ()
    residual: Float32 | None = None
    backbone: bytes | None = None


@dataclass(frozen=True, slots=True)
class Fitted:
    """What came of training on one device.

    Attributes:
        delta: the change of the weights, float32 [P].
        metrics: ``examples``, how many, and ``loss``, their mean cross-entropy in nats, each taken before its batch's
            step in the last epoch (0 without examples). Empty under DP, which does not cover them.
    """

    delta: Float32
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """What comes of an assignment.

    Attributes:
        packet: what is sent, or goes into the secure sum; empty where the task has its noise in the sum.
        residual: stays on the device.
        metrics: `Fitted.metrics`; they leave the device inside a secure sum, or not at all.
        values: the input of a private sum, int64 [length], noise included; it goes into that sum and nowhere else.
    """

    packet: bytes = b""
    residual: Float32 | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    values: NDArray[np.int64] | None = None


class TaskTrainer(Protocol):
    """Trains one task, for round after round and device after device."""

    task: Task

    @property
    def layout(self) -> Layout:
        """Names and shapes of the model's arrays."""
        ...

    def train(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Trained:
        """Pays, trains and encodes.

        Raises:
            BudgetError: the ledger does not cover the round; nothing was trained.
            LedgerError: the task is private and there is no ledger.
            DecodeError: the weights do not fit the model, or the clip is not one of the task.
            ConfigError: the examples are not of the task, or the delta ranges do not fit the model.
            RoundError: training diverged; nothing is sent.
        """
        ...


def check_weights(weights: NDArray[Any], size: int) -> None:
    """Raises: DecodeError: the weights are not float32 [size], or not finite: they are not this model's."""
    if weights.shape != (size,) or weights.dtype != np.float32:
        raise DecodeError(
            f"weights of shape {weights.shape} and type {weights.dtype} arrived; the model has {size} float32 "
            "parameters: the task and the server disagree about the model"
        )
    if not np.isfinite(weights).all():
        raise DecodeError("the weights that arrived hold NaN or infinity: the global model has diverged")


def check_examples(task: Task, examples: Examples) -> None:
    """Raises: ConfigError: the device's examples are not of the task's shape, types and classes."""
    x, y = examples.x, examples.y
    if x.shape[1:] != task.input_shape or x.dtype != np.float32 or y.shape != x.shape[:1] or y.dtype != np.int64:
        raise ConfigError(
            f"the device holds x {x.dtype}{list(x.shape)} and y {y.dtype}{list(y.shape)}; task {task.name} wants x "
            f"float32[N, {', '.join(map(str, task.input_shape))}] and y int64[N]"
        )
    if len(y) and not (y.min() >= 0 and y.max() < task.classes):
        raise ConfigError(
            f"the device holds labels other than 0 to {task.classes - 1}: number its classes as the task does"
        )


def check_promises(task: Task) -> None:
    """Raises: ConfigError: the task would let something of the data past DP, or cannot do what it says."""
    if "/" in task.name:  # a ledger tells the tasks of a device apart by what stands before the slash of a label
        raise ConfigError(f"the task is called {task.name!r}: a task's name has no slash")
    if task.dp is not None and task.summed is not None:
        raise ConfigError("the task has noise on the device and noise in the sum: choose one of the two")
    if task.budget is not None and task.error_feedback:
        raise ConfigError("error feedback carries what one round clipped past the DP clip: turn one of them off")
    if task.budget is not None and task.weighting == "examples":
        raise ConfigError("weighting by examples reveals the example count, which DP does not cover: use 'uniform'")
    if task.summed is not None and not task.secure_aggregation:
        raise ConfigError(
            "the noise of this task is complete in the secure sum only: by itself a device's part protects it too "
            "little. Turn secure_aggregation on, or use noise on the device"
        )
    if task.codec == "float32" and task.error_feedback:
        raise ConfigError("the float32 codec loses nothing that error feedback could carry: turn error_feedback off")
    if task.codec == "float32" and task.secure_aggregation:
        raise ConfigError("secure aggregation adds integers: use the integer codec, or turn secure_aggregation off")
    if task.weight_cap < 1 or (task.weighting == "uniform" and task.weight_cap != 1):
        raise ConfigError(
            f"weight_cap is {task.weight_cap} under {task.weighting} weighting: wanted 1 for 'uniform', where every "
            "device weighs the same, and 1 or more for 'examples'"
        )
    if task.local_epochs < 1 or task.batch_size < 1 or task.learning_rate <= 0:
        raise ConfigError(
            f"local_epochs {task.local_epochs}, batch_size {task.batch_size} and learning_rate {task.learning_rate}: "
            "all of them have to be positive"
        )
