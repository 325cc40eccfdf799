"""What every trainer does around its training: pay before it, and turn what came of it into what is sent."""

import numpy as np

from fedmesh.client.assignment import Assignment, Fitted, Trained
from fedmesh.client.randomness import noise_of, release_of, rounding
from fedmesh.client.task import Task
from fedmesh.errors import LedgerError
from fedmesh.privacy.ledger import release_id
from fedmesh.privacy.noise import NoiseSource
from fedmesh.quantization.codec import DeltaCodec, ErrorFeedback, FloatCodec
from fedmesh.types import Layout, Ledger, PrivacyEvent

__all__ = ["encode", "pay"]


def pay(task: Task, assignment: Assignment, ledger: Ledger | None) -> NoiseSource:
    """Charges the round, durably; returns the noise that it was paid for.

    Raises:
        BudgetError: the ledger does not cover the round: nothing may be trained.
        LedgerError: there is no ledger.
    """
    if ledger is None:
        raise LedgerError(f"task {task.name} trains under a privacy budget: give the device a ledger to charge")
    release = release_of(task, assignment)
    for number, event in enumerate(_events(task, f"{task.name}/round-{assignment.round}")):
        # A crash in between charges a part of a round that was not trained.
        ledger.charge(event, release_id=release_id(release, number) if release and number else release)
    return noise_of(task, release)


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


def _events(task: Task, label: str) -> tuple[PrivacyEvent, ...]:
    if task.summed is not None:
        return task.summed.events(label)
    return () if task.dp is None else (task.dp.event(label),)
