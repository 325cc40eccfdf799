"""Secure aggregation of a federation: its rounds, and what a finished run says about it.

The same in a simulation and over a fleet: whose keys they are, and where they lie, is for who calls.
"""

from collections.abc import Callable, Sequence
from typing import Any

from flwr.serverapp import Grid

from fedmesh.client.task import Task
from fedmesh.coordinator import RoundRecord, RoundSettings, ScriptFactory
from fedmesh.coordinator.registry import Names
from fedmesh.coordinator.secure import SecureAggregation
from fedmesh.federation.rounds import describe_sessions
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.sums import sums_of
from fedmesh.secagg import Identity, Roster

__all__ = ["SIMULATED_KEYS", "describe_secure_aggregation", "secure_script"]

SIMULATED_KEYS = "all in the run directory: for simulation only, they protect nobody"


def secure_script(
    scenario: Scenario,
    task: Task,
    strategy: Any,
    grid: Grid,
    *,
    identity: Identity,
    roster: Roster,
    names: Names,
    attempts: Callable[[int], int],
    seed: int | None = None,
    rounds: RoundSettings | None = None,
) -> ScriptFactory:
    """The logic of every round under secure aggregation.

    Args:
        scenario, task, strategy, grid: of the run.
        identity: the aggregator's. roster: the devices' and its own.
        names: node ids -> names on the roster.
        attempts: round -> number of its next attempt, durable.
        seed: makes the dealing of groups a function of the round; None: by the operating system's randomness.
        rounds: over-selection, the deadline of the training, and quorum; None: all that the strategy draws.

    Raises:
        ConfigError: the strategy needs more than a sum, or the aggregator is not on the roster.
    """
    section = scenario.secure_aggregation
    settings = sums_of(
        task,
        group_size=section.group_size,
        attempts=section.attempts,
        overlap=section.overlap,
        rounds=scenario.rounds,
        seed=seed,
    )
    secure = SecureAggregation(
        strategy,
        identity=identity,
        roster=roster,
        settings=settings,
        names=names,
        attempts=attempts,
        rounds=rounds,
    )
    return lambda number, arrays: secure.script(number, arrays, grid)


def describe_secure_aggregation(
    scenario: Scenario, task: Task, records: Sequence[RoundRecord], *, keys: str = SIMULATED_KEYS
) -> dict[str, Any]:
    """The table ``secure_aggregation`` of a result; `keys` says where the keys are."""
    section = scenario.secure_aggregation
    if not section.enabled:
        return {"enabled": False}
    return {
        "enabled": True,
        "group_size": section.group_size,
        "weight_cap": task.weight_cap,
        "attempts": section.attempts,
        "overlap": section.overlap,
        **describe_sessions(records),
        "keys": keys,
    }
