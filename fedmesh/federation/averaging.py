"""Gossip averaging in a scenario: whether it is what the scenario asks for, whether that can be, and its noise.

A strategy whose `needs` is ``groups`` has no aggregator. Its settings are `strategy.options`: group, grid_bits, unit.
"""

import math
from typing import TYPE_CHECKING, Any

from fedmesh.errors import ConfigError
from fedmesh.mesh.gossip import group_sizes, shared_settings
from fedmesh.plugins import STRATEGIES, load
from fedmesh.privacy.summed import SumSettings

if TYPE_CHECKING:
    from fedmesh.federation.scenario import Scenario

__all__ = ["NEEDS", "check_averaging", "is_averaging", "summed_in_groups"]

NEEDS = "groups"
_USUAL = 6
_LEAST = 4


def is_averaging(scenario: "Scenario") -> bool:
    """Whether the scenario's strategy is gossip averaging. Raises: ConfigError: it is not installed."""
    return getattr(load(STRATEGIES, scenario.strategy.name), "needs", None) == NEEDS


def check_averaging(scenario: "Scenario", members: int) -> None:
    """Whether so many members can average as the scenario wants it.

    Raises:
        ConfigError: they are fewer than a group, groups are larger than sessions may be, there is no secure
            aggregation, or the privacy is of a kind that groups do not have.
    """
    if not scenario.secure_aggregation.enabled:
        raise ConfigError(
            "gossip averaging shows each member the sum of its group and nothing else: secure_aggregation.enabled has "
            "to be on"
        )
    if scenario.privacy.enabled and scenario.privacy.mode not in {"local", "shared"}:
        raise ConfigError(
            f"privacy.mode is {scenario.privacy.mode!r}, and gossip averaging has 'local' (all noise on the device) "
            "and 'shared' (a share of it in each group's sum): choose one of these"
        )
    if scenario.delta.error_feedback:
        raise ConfigError("gossip averaging sums whole models exactly, and carries nothing over: delta.error_feedback")
    if scenario.client.name == "lite" or scenario.client.lite_fraction:
        raise ConfigError("lite devices want a coordinator that sends them features: gossip averaging has none")
    if scenario.quantization.training != "qat":
        raise ConfigError(
            "gossip averaging exports what was trained through fake quantization: set quantization.training to 'qat'"
        )
    group = _group(scenario.strategy.options)
    if members < group:
        raise ConfigError(
            f"{members} members are fewer than a group of {group}: more members, or a smaller strategy.options.group "
            f"({_LEAST} at least)"
        )
    largest = max(group_sizes(members, group))
    if largest > scenario.secure_aggregation.group_size:
        raise ConfigError(
            f"{members} members are dealt into groups of up to {largest}, and secure_aggregation.group_size is "
            f"{scenario.secure_aggregation.group_size}: raise it, or lower strategy.options.group"
        )


def summed_in_groups(scenario: "Scenario", size: int) -> SumSettings | None:
    """The noise that the members of a group share out; None where the scenario has none in sums.

    Args:
        scenario: `partition.clients` are its members. size: weights of the model.

    Raises:
        ConfigError: as `check_averaging`; nobody honest is left in a group, or no noise fits the budget.
    """
    privacy, members = scenario.privacy, scenario.partition.clients
    check_averaging(scenario, members)
    if not privacy.enabled or privacy.mode != "shared":
        return None
    group = _group(scenario.strategy.options)
    least, most = group_sizes(members, group)
    return shared_settings(
        members=members,
        smallest=group,
        lost=min(math.floor(least * privacy.dropouts), least - _LEAST),
        colluders=math.ceil(most * privacy.colluders),
        steps=scenario.rounds,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip=privacy.clip,
        size=size,
        learning_rate=scenario.client.learning_rate,
        expected_batch=privacy.expected_batch,
        bits=privacy.ring_bits,
    )


def _group(options: dict[str, Any]) -> int:
    """The smallest group. What else is wrong with the options is for the strategy to say."""
    group = options.get("group", _USUAL)
    if type(group) is not int or group < _LEAST:
        raise ConfigError(f"strategy.options.group is {group!r}: wanted a whole number, {_LEAST} at least")
    return group
