"""What a scenario and a public start come to: the task that devices get, and the strategy that asks them."""

from collections.abc import Callable
from typing import Any

from fedmesh.client.task import Task
from fedmesh.plugins import STRATEGIES, load
from fedmesh.privacy.settings import DpSettings
from fedmesh.quantization.codec import dp_ranges, public_ranges
from fedmesh.simulation.directory import PublicStart
from fedmesh.simulation.scenario import PrivacySection, Scenario
from fedmesh.types import Arrays, Float32, Layout

__all__ = ["make_strategy", "make_task"]


def make_task(scenario: Scenario, start: PublicStart, input_shape: tuple[int, ...], classes: int) -> Task:
    """The task of every device: public, and the same for all."""
    client, delta, quantization = scenario.client, scenario.delta, scenario.quantization
    return Task(
        name=scenario.name,
        model=scenario.model.name,
        model_options=scenario.model.options,
        input_shape=input_shape,
        classes=classes,
        ranges=start.ranges if quantization.training == "qat" else {},
        training=quantization.training,
        scales=quantization.scales,
        codec=delta.codec,
        bits=delta.bits,
        error_feedback=delta.error_feedback,
        weighting=scenario.strategy.weighting,
        local_epochs=client.local_epochs,
        batch_size=client.batch_size,
        learning_rate=client.learning_rate,
        momentum=client.momentum,
        batching=client.batching,
        dp=_dp_settings(scenario.privacy, scenario.rounds),
        keyed_noise_seed=scenario.seed,
    )


def make_strategy(scenario: Scenario, layout: Layout, task: Task) -> Any:
    """The scenario's strategy, built by its entry point."""
    section = scenario.strategy
    return load(STRATEGIES, section.name)(
        layout=layout,
        codec=scenario.delta.codec,
        bits=scenario.delta.bits,
        ranges=_delta_ranges(task, layout, scenario.delta.range_fraction),
        fraction=section.fraction,
        quorum=section.quorum,
        weighting=section.weighting,
        seed=scenario.seed,
        **section.options,
    )


def _delta_ranges(task: Task, layout: Layout, fraction: float) -> Callable[[Arrays], Float32]:
    """Global weights -> largest change of each tensor that a packet can carry, from public state alone."""
    if task.dp is None:
        return lambda weights: public_ranges(weights, fraction)
    fixed = dp_ranges(
        layout,
        learning_rate=task.learning_rate / (1 - task.momentum),
        clip=task.dp.clip,
        noise_multiplier=task.dp.noise_multiplier,
        expected_batch=task.dp.expected_batch,
        steps=task.dp.steps,
    )
    return lambda weights: fixed  # noqa: ARG005 - one signature for both policies


def _dp_settings(privacy: PrivacySection, rounds: int) -> DpSettings | None:
    """The noise that spends the whole budget on the last step of the last round, and not before."""
    if not privacy.enabled:
        return None
    from fedmesh.privacy import noise_multiplier

    steps = privacy.steps * rounds
    return DpSettings(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip=privacy.clip,
        noise_multiplier=noise_multiplier(privacy.epsilon, privacy.delta, privacy.sample_rate, steps),
        sample_rate=privacy.sample_rate,
        steps=privacy.steps,
        expected_batch=privacy.expected_batch,
    )
