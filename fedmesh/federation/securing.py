"""Secure aggregation of a simulated federation: its identities and rounds, and what a finished run says about it.

The protocol, its refusals and what a device forgets are those of a deployment. What is particular to a simulation is
that one folder holds everybody's keys.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedmesh.client.identities import AGGREGATOR, create_identities, device_name, open_identity
from fedmesh.client.task import Task
from fedmesh.coordinator import RoundRecord, ScriptFactory
from fedmesh.coordinator.secure import SecureAggregation, SecureSettings
from fedmesh.federation.rounds import describe_sessions
from fedmesh.federation.scenario import Scenario
from fedmesh.flower.identity import partition_of

__all__ = ["describe_secure_aggregation", "secure_script"]

_KEYS = "all in the run directory: for simulation only, they protect nobody"


def secure_script(
    scenario: Scenario,
    task: Task,
    strategy: Any,
    grid: Grid,
    *,
    identities: Path,
    devices: int,
    attempts: Callable[[int], int],
) -> ScriptFactory | None:
    """The logic of every round under secure aggregation; None where the scenario has it off.

    Args:
        scenario, task, strategy, grid: of the run.
        identities: folder of the keys; those of `devices` devices and of the aggregator are made if they are not there.
        devices: of the federation.
        attempts: round -> number of its next attempt, durable.

    Raises:
        ConfigError: the folder is damaged or cannot be written, or the strategy needs more than a sum.
    """
    section = scenario.secure_aggregation
    if not section.enabled:
        return None
    roster = create_identities(identities, devices)
    settings = SecureSettings(
        task_name=task.name,
        bits=task.bits,
        weight_cap=task.weight_cap,
        group_size=section.group_size,
        attempts=section.attempts,
        overlap=section.overlap,
        reported=task.reported,
        privacy=task.privacy,
        summed=task.summed,
        rounds=scenario.rounds,
        seed=scenario.seed,
    )
    secure = SecureAggregation(
        strategy,
        identity=open_identity(identities, AGGREGATOR),
        roster=roster,
        settings=settings,
        names=_names,
        attempts=attempts,
    )
    return lambda number, arrays: secure.script(number, arrays, grid)


def _names(nodes: Sequence[int]) -> Mapping[int, str]:
    return {node: device_name(partition_of(node)) for node in nodes}


def describe_secure_aggregation(scenario: Scenario, task: Task, records: Sequence[RoundRecord]) -> dict[str, Any]:
    """The table ``secure_aggregation`` of a result."""
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
        "keys": _KEYS,
    }
