"""What a device does in a round: pay, train, quantize. Only the packet leaves, and nothing else depends on the data.

The trainer holds the model and is used for round after round and, in a simulation, for device after device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from fedmesh.client.parameters import FlatParameters
from fedmesh.client.randomness import batch_order, noise_of, release_of, rounding
from fedmesh.client.sgd import Fitted, LocalSgd
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, LedgerError
from fedmesh.plugins import MODELS, load
from fedmesh.privacy.settings import DpSettings
from fedmesh.quantization.codec import DeltaCodec, ErrorFeedback, FloatCodec
from fedmesh.types import Examples, Float32, Layout, Ledger

if TYPE_CHECKING:
    from fedmesh.privacy.dpsgd import DpSgd

__all__ = ["Assignment", "Trained", "Trainer", "build_model", "check_examples", "encode"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One device's part of one round.

    Attributes:
        round, device: non-negative.
        weights: the global model, float32 [P].
        ranges: largest representable change of each tensor, from public state; not used by the float32 codec.
        residual: what error feedback carries over, float32 [P] or None.
    """

    round: int
    device: int
    weights: Float32
    ranges: Sequence[float] = ()
    residual: Float32 | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """What comes of an assignment: the packet that is sent, and the residual that stays on the device.

    `metrics` (`Fitted.metrics`; empty under DP) leave the device inside a secure sum, or not at all.
    """

    packet: bytes
    residual: Float32 | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Trainer:
    """Trains a resident model by plain SGD or, where the task has DP settings, by DP-SGD.

    Args:
        task: the public task.
        model: of the task, on the CPU, float32; `build_model` makes it.

    Raises:
        ConfigError: the task asks for a combination that would break a promise.
    """

    def __init__(self, task: Task, model: nn.Module) -> None:
        check_promises(task)
        self.task = task
        self.model = model
        self.parameters = FlatParameters(model)
        self._sgd = LocalSgd(task, model, self.parameters)
        self._dp = _dp_sgd(task, model) if task.dp else None

    @classmethod
    def of(cls, task: Task) -> "Trainer":
        """The trainer of a task, with a model of its own."""
        return cls(task, build_model(task))

    @property
    def layout(self) -> Layout:
        """Names and shapes of the model's arrays."""
        return self.parameters.layout

    def train(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Trained:
        """Trains and encodes.

        Args:
            assignment: round, device and weights.
            examples: the device's training examples.
            ledger: pays for the round under DP, durably, before the first step.

        Raises:
            BudgetError: the ledger does not cover the round; nothing was trained.
            LedgerError: the task is private and there is no ledger.
            DecodeError: the weights or ranges do not fit the model.
            RoundError: training diverged; nothing is sent.
        """
        check_examples(self.task, examples)
        return encode(self.task, self.layout, assignment, self.fit(assignment, examples, ledger=ledger))

    def change(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Float32:
        """The trained weights minus the assignment's, float32 [P], before quantization; raises as `train`."""
        return self.fit(assignment, examples, ledger=ledger).delta

    def fit(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Fitted:
        """Pays and trains, without encoding; raises as `train`."""
        task, number, device = self.task, assignment.round, assignment.device
        if self._dp is None:
            return self._sgd.fit(assignment.weights, examples, batch_order(task, number, device))
        self.parameters.load(assignment.weights)
        release = release_of(task, number, device, assignment.weights)
        if ledger is None:
            raise LedgerError(f"task {task.name} trains under a privacy budget: give the device a ledger to charge")
        ledger.charge(_settings(task).event(f"{task.name}/round-{number}"), release_id=release)
        self._dp.fit(torch.from_numpy(examples.x), torch.from_numpy(examples.y), noise_of(task, release))
        return Fitted(self.parameters.delta(assignment.weights))


def build_model(task: Task) -> nn.Module:
    """The task's model as devices train it: prepared for quantization, its activation ranges frozen.

    The weights are arbitrary until an assignment's are loaded.

    Raises:
        ConfigError: the model is unknown, does not fit the input shape, or the ranges do not fit the model.
    """
    with torch.random.fork_rng(devices=[]):  # initial weights are overwritten: leave the caller's generator alone
        model = load(MODELS, task.model)(task.input_shape, task.classes, **task.model_options)
    from fedmesh.quantization import fake_quantization, load_ranges, prepare

    prepared = prepare(model.eval(), torch.zeros(1, *task.input_shape), scales=task.scales)
    if task.training == "float":
        fake_quantization(prepared, enabled=False)
    else:
        load_ranges(prepared, task.ranges)
    return prepared


def encode(task: Task, layout: Layout, assignment: Assignment, fitted: Fitted) -> Trained:
    """The packet of the fitted change in the task's codec."""
    rng, delta, metrics = rounding(task, assignment.round, assignment.device), fitted.delta, fitted.metrics
    if task.codec == "float32":
        return Trained(FloatCodec(layout).encode_vector(delta, rng), metrics=metrics)
    codec = DeltaCodec(layout, task.bits, np.asarray(assignment.ranges, dtype=np.float32))
    if not task.error_feedback:
        return Trained(codec.encode_vector(delta, rng), metrics=metrics)
    feedback = ErrorFeedback(assignment.residual)
    return Trained(feedback.encode_vector(codec, delta, rng), feedback.residual, metrics)


def check_promises(task: Task) -> None:
    """Raises: ConfigError: the task would let something of the data past DP, or cannot do what it says."""
    if task.dp is not None and task.error_feedback:
        raise ConfigError("error feedback carries what one round clipped past the DP clip: turn one of them off")
    if task.dp is not None and task.weighting == "examples":
        raise ConfigError("weighting by examples reveals the example count, which DP does not cover: use 'uniform'")
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


def check_examples(task: Task, examples: Examples) -> None:
    """Raises: ConfigError: the device's examples are not of the task's shape and types."""
    x, y = examples.x, examples.y
    if x.shape[1:] != task.input_shape or x.dtype != np.float32 or y.shape != x.shape[:1] or y.dtype != np.int64:
        raise ConfigError(
            f"the device holds x {x.dtype}{list(x.shape)} and y {y.dtype}{list(y.shape)}; task {task.name} wants x "
            f"float32[N, {', '.join(map(str, task.input_shape))}] and y int64[N]"
        )


def _settings(task: Task) -> DpSettings:
    if task.dp is None:
        raise ConfigError(f"task {task.name} has no DP settings: it costs no privacy and needs no event")
    return task.dp


def _dp_sgd(task: Task, model: nn.Module) -> "DpSgd":
    from fedmesh.privacy.dpsgd import DpSgd  # Opacus takes two seconds to import

    return DpSgd(model, _settings(task), learning_rate=task.learning_rate, momentum=task.momentum)
