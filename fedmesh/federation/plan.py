"""What a scenario and a public start come to: the task that devices get, and the strategy that asks them."""

import math
from typing import Any

from fedmesh.client.task import Task
from fedmesh.coordinator.groups import group_sizes, largest_group
from fedmesh.errors import ConfigError
from fedmesh.federation.averaging import NEEDS, is_averaging, summed_in_groups
from fedmesh.federation.directory import PublicStart
from fedmesh.federation.scenario import PrivacySection, Scenario
from fedmesh.plugins import STRATEGIES, load
from fedmesh.privacy.settings import DpSettings
from fedmesh.privacy.summed import QuantileSettings, SumSettings, calibrated
from fedmesh.quantization.codec import RangePolicy, constant_ranges, dp_ranges, relative_ranges
from fedmesh.quantization.head import Head
from fedmesh.secagg import SessionHeader
from fedmesh.types import Layout

__all__ = ["check_needs", "make_strategy", "make_task", "smallest_sum"]


def make_task(
    scenario: Scenario, start: PublicStart, input_shape: tuple[int, ...], classes: int, *, head: Head | None = None
) -> Task:
    """The task of every device: public, and the same for all.

    `head`: the model's last layer (`fedmesh.quantization.head_of`), where the scenario plans lite devices.
    """
    client, delta, quantization = scenario.client, scenario.delta, scenario.quantization
    size = start.weights.size
    summed = summed_in_groups(scenario, size) if is_averaging(scenario) else _sum_settings(scenario, size)
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
        summed=summed,
        keyed_noise_seed=scenario.seed,
        secure_aggregation=scenario.secure_aggregation.enabled,
        weight_cap=_weight_cap(scenario),
        group_size=scenario.secure_aggregation.group_size,
        head=head,
    )


def make_strategy(scenario: Scenario, layout: Layout, task: Task, *, in_groups: bool = False) -> Any:
    """The scenario's strategy, built by its entry point; `in_groups`: one without an aggregator is welcome.

    Raises:
        ConfigError: there is none of that name, it refuses its settings, or `check_needs` refuses it.
    """
    section = scenario.strategy
    settings: dict[str, Any] = {
        "layout": layout,
        "codec": scenario.delta.codec,
        "bits": scenario.delta.bits,
        "ranges": _delta_ranges(task, layout, scenario.delta.range_fraction),
        "fraction": section.fraction,
        "quorum": section.quorum,
        "weighting": section.weighting,
        "seed": scenario.seed,
    }
    if task.summed is not None:
        settings |= {"summed": task.summed, "noise_seed": task.keyed_noise_seed}
    if twice := sorted(settings.keys() & section.options.keys()):
        raise ConfigError(
            f"strategy.options has {', '.join(twice)}, which the scenario has a key of its own for: use that"
        )
    strategy = load(STRATEGIES, section.name)(**settings, **section.options)
    if not (in_groups and getattr(strategy, "needs", None) == NEEDS):
        check_needs(strategy, section.name, only_sums=scenario.secure_aggregation.enabled)
    return strategy


def check_needs(strategy: object, name: str, *, only_sums: bool) -> None:
    """Whether the rule can be run on what the server gets to see; asked before the first round.

    Args:
        strategy: of the entry point `name`.
        only_sums: secure aggregation is on: no update is ever seen by itself.

    Raises:
        ConfigError: the strategy does not say what it needs, or needs what there is not; or it has no aggregator.
    """
    needs = getattr(strategy, "needs", None)
    if needs == NEEDS:
        raise ConfigError(
            f"the strategy {name!r} has no aggregator, and this would be one: start it among the members of a mesh, "
            "fedmesh run start SCENARIO --mesh, or simulate it"
        )
    if needs not in ("sum", "each"):
        raise ConfigError(
            f"the strategy {name!r} says needs = {needs!r}: set it to 'sum' if the rule is content with the sum of all "
            "updates, or to 'each' if it looks at single ones"
        )
    if only_sums and needs == "each":
        raise ConfigError(
            f"the strategy {name!r} looks at each update by itself, and secure aggregation shows only their sum: "
            "choose a strategy that needs the sum, or turn secure_aggregation.enabled off"
        )


def _weight_cap(scenario: Scenario) -> int:
    """The most that a device can weigh in a secure sum."""
    weighs = scenario.secure_aggregation.enabled and scenario.strategy.weighting == "examples"
    return scenario.secure_aggregation.weight_cap if weighs else 1


def _delta_ranges(task: Task, layout: Layout, fraction: float) -> RangePolicy:
    """Largest change of each tensor that a packet can carry."""
    if task.dp is None:
        return relative_ranges(fraction)
    ranges = dp_ranges(
        layout,
        learning_rate=task.learning_rate / (1 - task.momentum),
        clip=task.dp.clip,
        noise_multiplier=task.dp.noise_multiplier,
        expected_batch=task.dp.expected_batch,
        steps=task.dp.steps,
    )
    return constant_ranges(ranges)


def _dp_settings(privacy: PrivacySection, rounds: int) -> DpSettings | None:
    """The noise that spends the whole budget on the last step of the last round, and not before."""
    if not privacy.enabled or privacy.mode != "local":
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


def smallest_sum(scenario: Scenario) -> int:
    """Inputs that the noise in a sum is sized for; 0 where there is none.

    A session never takes a sum of fewer than its threshold, so no more than a third of it has to be planned for.
    """
    privacy = scenario.privacy
    if not privacy.enabled or privacy.mode == "local":
        return 0
    sizes = group_sizes(scenario.asked_of(scenario.partition.clients), scenario.secure_aggregation.group_size)
    return max(SessionHeader.threshold_for(max(sizes)), math.ceil(min(sizes) * (1 - privacy.dropouts)))


def _sum_settings(scenario: Scenario, size: int) -> SumSettings | None:
    """The same for noise in the sum: sized for the smallest session, less the devices that it may lose or distrust.

    As many are distrusted as in the largest session that there can be: where devices are missing, fewer and larger
    groups may be dealt.
    """
    privacy, fewest = scenario.privacy, smallest_sum(scenario)
    if not fewest:
        return None
    asked, group_size = scenario.asked_of(scenario.partition.clients), scenario.secure_aggregation.group_size
    members = largest_group(asked, group_size)
    colluders = math.ceil(members * privacy.colluders)
    on_examples = privacy.mode == "shared"
    quantile = None
    if privacy.clip_quantile is not None:
        # A twentieth of the devices: the count costs next to nothing beside the update (Andrew et al. 2021, 3.1).
        quantile = QuantileSettings(
            target=privacy.clip_quantile, rate=privacy.clip_rate, noise_multiplier=max(1.0, members / 20)
        )

    def settings(noise_multiplier: float, gamma: float) -> SumSettings:
        return SumSettings(
            level="example" if on_examples else "client",
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            clip=privacy.clip,
            noise_multiplier=noise_multiplier,
            honest=fewest - colluders,
            colluders=colluders,
            members=members,
            size=size,
            bits=privacy.ring_bits,
            gamma=gamma,
            expected_batch=privacy.expected_batch if on_examples else 1.0,
            step=scenario.client.learning_rate if on_examples else 1.0,
            trusted_server=privacy.mode == "central",
            quantile=quantile,
        )

    return calibrated(settings, rounds=scenario.rounds, signal=privacy.expected_batch if on_examples else 1.0)
