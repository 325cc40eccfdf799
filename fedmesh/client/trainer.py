"""What a device does in a round: pay, train, quantize. Only that leaves, and nothing else depends on the data.

The trainer holds the model and is used for round after round and, in a simulation, for device after device.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from fedmesh.client.assignment import Assignment, Fitted, Trained, check_examples, check_promises
from fedmesh.client.parameters import FlatParameters
from fedmesh.client.randomness import batch_order
from fedmesh.client.release import codec_of, encode, pay, train_for_sum
from fedmesh.client.sgd import LocalSgd
from fedmesh.client.task import Task
from fedmesh.plugins import MODELS, load
from fedmesh.types import Examples, Float32, Layout, Ledger

if TYPE_CHECKING:
    from fedmesh.privacy.dpsgd import DpSgd
    from fedmesh.privacy.example_sum import ExampleGradients

__all__ = ["Trainer", "build_model"]


class Trainer:
    """Trains a resident model: plain SGD, DP-SGD with noise of its own, or one clipped gradient for a private sum.

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
        self._gradients = _example_gradients(model) if task.summed and task.summed.level == "example" else None

    @classmethod
    def of(cls, task: Task) -> "Trainer":
        """The trainer of a task, with a model of its own."""
        return cls(task, build_model(task))

    @property
    def layout(self) -> Layout:
        """Names and shapes of the model's arrays."""
        return self.parameters.layout

    def train(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Trained:
        """Trains and encodes; see `TaskTrainer.train`.

        Args:
            assignment: round, device and weights.
            examples: the device's training examples.
            ledger: pays for the round of a private task, durably, before the first step.
        """
        check_examples(self.task, examples)
        if self.task.summed is not None:
            return train_for_sum(
                self.task,
                self.layout,
                assignment,
                ledger,
                update=lambda: self._plain(assignment, examples).delta,
                gradients=lambda: self.rows(assignment, examples),
            )
        codec = codec_of(self.task, self.layout, assignment)
        return encode(self.task, codec, assignment, self.fit(assignment, examples, ledger=ledger))

    def change(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Float32:
        """The trained weights minus the assignment's, float32 [P], before quantization; raises as `train`."""
        return self.fit(assignment, examples, ledger=ledger).delta

    def fit(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Fitted:
        """Pays and trains, without encoding, a task without noise in the sum; raises as `train`."""
        if self._dp is None:
            return self._plain(assignment, examples)
        self.parameters.load(assignment.weights)
        noise = pay(self.task, assignment, ledger)
        self._dp.fit(torch.from_numpy(examples.x), torch.from_numpy(examples.y), noise)
        return Fitted(self.parameters.delta(assignment.weights))

    def _plain(self, assignment: Assignment, examples: Examples) -> Fitted:
        order = batch_order(self.task, assignment.round, assignment.device)
        return self._sgd.fit(assignment.weights, examples, order)

    def rows(self, assignment: Assignment, examples: Examples) -> Iterator[Float32]:
        """The gradient of each example at the assignment's weights, rows [b, P] at a time; nothing is paid.

        Of a task with noise in the sum for its examples, and no other.
        """
        assert self._gradients is not None
        self.parameters.load(assignment.weights)
        for rows in self._gradients.rows(torch.from_numpy(examples.x), torch.from_numpy(examples.y)):
            yield rows.numpy()


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


def _dp_sgd(task: Task, model: nn.Module) -> "DpSgd":
    from fedmesh.privacy.dpsgd import DpSgd  # Opacus takes two seconds to import

    assert task.dp is not None
    return DpSgd(model, task.dp, learning_rate=task.learning_rate, momentum=task.momentum)


def _example_gradients(model: nn.Module) -> "ExampleGradients":
    from fedmesh.privacy.example_sum import ExampleGradients  # likewise

    return ExampleGradients(model)
