"""What every trainer does around its training: pay before it, and turn what came of it into what is sent."""

from collections.abc import Callable, Iterable

import numpy as np

from fedmesh.client.assignment import Assignment, Fitted, Trained, check_weights
from fedmesh.client.randomness import noise_of, release_of, rounding
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, LedgerError
from fedmesh.privacy.ledger import release_id
from fedmesh.privacy.noise import NoiseSource
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summing import clip_in, encode_examples, encode_update
from fedmesh.quantization.codec import DeltaCodec, ErrorFeedback, FloatCodec
from fedmesh.types import Float32, Layout, Ledger, PrivacyEvent

__all__ = ["codec_of", "encode", "events_of", "pay", "train_for_sum"]


def pay(task: Task, assignment: Assignment, ledger: Ledger | None) -> NoiseSource:
    """Charges the round, durably; returns the noise that it was paid for.

    Raises:
        BudgetError: the ledger does not cover the round: nothing may be trained.
        LedgerError: there is no ledger.
    """
    if ledger is None:
        raise LedgerError(f"task {task.name} trains under a privacy budget: give the device a ledger to charge")
    release = release_of(task, assignment)
    for number, event in enumerate(events_of(task, f"{task.name}/round-{assignment.round}")):
        # A crash in between charges a part of a round that was not trained.
        ledger.charge(event, release_id=release_id(release, number) if release and number else release)
    return noise_of(task, release)


def codec_of(task: Task, layout: Layout, assignment: Assignment) -> DeltaCodec | FloatCodec:
    """The codec of the round; ask for it before the round is paid for.

    Raises:
        ConfigError: the assignment's ranges are not one for each array of the model, or out of bounds.
    """
    if task.codec == "float32":
        return FloatCodec(layout)
    return DeltaCodec(layout, task.bits, np.asarray(assignment.ranges, dtype=np.float32))


def encode(task: Task, codec: DeltaCodec | FloatCodec, assignment: Assignment, fitted: Fitted) -> Trained:
    """The packet of the fitted change in the round's codec.

    Raises:
        RoundError: training diverged: the change is not finite.
        DecodeError: it, or the residual, is of another model.
    """
    rng, delta, metrics = rounding(task, assignment.round, assignment.device), fitted.delta, fitted.metrics
    if isinstance(codec, FloatCodec) or not task.error_feedback:
        return Trained(codec.encode_vector(delta, rng), metrics=metrics)
    feedback = ErrorFeedback(assignment.residual)
    return Trained(feedback.encode_vector(codec, delta, rng), feedback.residual, metrics)


def train_for_sum(
    task: Task,
    layout: Layout,
    assignment: Assignment,
    ledger: Ledger | None,
    *,
    update: Callable[[], Float32],
    gradients: Callable[[], Iterable[Float32]],
) -> Trained:
    """A round of a task with its noise in the sum: checks, pays, trains and makes the input of that sum.

    Args:
        task, layout: of the trainer.
        assignment: its ranges are the round's clip.
        ledger: pays.
        update: on level ``client``: trains; the change of the weights, float32 [P].
        gradients: on level ``example``: those at the assignment's weights, a row for each example, in chunks [b, P].

    Raises:
        ConfigError: the model has another size than the privacy of its sum was accounted for.
        BudgetError, LedgerError, DecodeError: as `TaskTrainer.train`.
    """
    settings = task.summed
    assert settings is not None
    if layout.size != settings.size:
        raise ConfigError(
            f"the model has {layout.size} parameters, the privacy of its sum was accounted for {settings.size}: the "
            "task and the model do not belong together"
        )
    clip = clip_in(settings, assignment.ranges)
    check_weights(assignment.weights, layout.size)
    noise = pay(task, assignment, ledger)
    seed = rotation_seed(assignment.round, assignment.weights)
    if settings.level == "client":
        return Trained(values=encode_update(settings, update(), clip=clip, seed=seed, noise=noise))
    return Trained(values=encode_examples(settings, gradients(), clip=clip, seed=seed, noise=noise))


def events_of(task: Task, label: str) -> tuple[PrivacyEvent, ...]:
    """What a round costs a device that takes part in it; nothing where the task is not private."""
    if task.summed is not None:
        return task.summed.events(label)
    return () if task.dp is None else (task.dp.event(label),)
