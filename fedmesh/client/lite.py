"""What the smallest devices do in a round: the head of a model on fixed features, trained with numpy alone.

The same promises, draws and packets as `fedmesh.client.trainer.Trainer` for the model ``linear_head``, without torch,
Opacus or Flower: the start of a process and its memory are what a small device is short of, not the arithmetic.
Evaluates nothing, and under differential privacy reports nothing.
"""

from collections.abc import Iterator

import numpy as np

from fedmesh.client.assignment import (
    Assignment,
    Fitted,
    Trained,
    check_examples,
    check_promises,
    check_weights,
)
from fedmesh.client.linear_head import LinearHead
from fedmesh.client.lite_sgd import fit, fit_private, gradient_rows
from fedmesh.client.randomness import batch_order
from fedmesh.client.release import codec_of, encode, pay, train_for_sum
from fedmesh.client.task import Task
from fedmesh.types import Examples, Float32, Layout, Ledger

__all__ = ["LiteTrainer"]


class LiteTrainer:
    """Trains a `LinearHead`: plain SGD, DP-SGD with noise of its own, or one clipped gradient for a private sum.

    It holds no state between rounds.

    Args:
        task: the public task, of the model ``linear_head``.

    Raises:
        ConfigError: the task is of another model, or asks for a combination that would break a promise.
    """

    def __init__(self, task: Task) -> None:
        check_promises(task)
        self.task = task
        self.head = LinearHead.of(task)

    @property
    def layout(self) -> Layout:
        """Names and shapes of the model's arrays: those of the torch model."""
        return self.head.layout

    def train(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Trained:
        """Pays, trains and encodes; see `TaskTrainer.train`."""
        check_examples(self.task, examples)
        if self.task.summed is not None:
            with _quiet():
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

    def fit(self, assignment: Assignment, examples: Examples, *, ledger: Ledger | None = None) -> Fitted:
        """Pays and trains, without encoding, a task without noise in the sum; raises as `train`."""
        check_weights(assignment.weights, self.layout.size)
        with _quiet():
            if self.task.dp is None:
                return self._plain(assignment, examples)
            noise = pay(self.task, assignment, ledger)
            return fit_private(self.task, self.head, assignment.weights, examples, noise)

    def rows(self, assignment: Assignment, examples: Examples) -> Iterator[Float32]:
        """The gradient of each example at the assignment's weights, rows [b, P] at a time; nothing is paid."""
        yield from gradient_rows(self.head, assignment.weights, examples)

    def _plain(self, assignment: Assignment, examples: Examples) -> Fitted:
        order = batch_order(self.task, assignment.round, assignment.device)
        return fit(self.task, self.head, assignment.weights, examples, order)


def _quiet() -> np.errstate:
    """A diverging model overflows; what comes of it is refused, or counts as zero, and numpy need not warn."""
    return np.errstate(over="ignore", invalid="ignore")
