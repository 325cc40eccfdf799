"""Secure aggregation of a simulated federation: its identities and rounds, and what a finished run says about it.

The protocol, its refusals and what a device forgets are those of a deployment. What is particular to a simulation is
that one folder holds everybody's keys.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedmesh.client.identities import AGGREGATOR, create_identities, device_name, open_identity
from fedmesh.client.task import Task
from fedmesh.coordinator import RoundRecord, ScriptFactory
from fedmesh.coordinator.records import StageRecord
from fedmesh.coordinator.secure import SecureAggregation, SecureSettings
from fedmesh.federation.scenario import Scenario
from fedmesh.flower.identity import partition_of
from fedmesh.flower.secure import STEPS
from fedmesh.secagg import SessionHeader

__all__ = ["describe_secure_aggregation", "describe_steps", "secure_script"]

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
    sessions = [(record.round, session) for record in records for session in record.sessions]
    devices = max((session.devices for _, session in sessions), default=0)
    sums = [session.survivors for _, session in sessions if session.survivors]
    return {
        "enabled": True,
        "group_size": section.group_size,
        "weight_cap": task.weight_cap,
        "attempts": section.attempts,
        "overlap": section.overlap,
        "grouped": any(session.group for _, session in sessions),
        "largest_session": devices,
        "threshold": SessionHeader.threshold_for(devices),
        "colluders": SessionHeader.colluders_for(devices),
        "smallest_sum": min(sums, default=None),
        "sessions": len(sessions),
        "sums": len(sums),
        "aborts": [
            {
                "round": number,
                "group": session.group,
                "attempt": session.attempt,
                "devices": session.devices,
                "reason": session.aborted,
            }
            for number, session in sessions
            if session.aborted is not None
        ],
        "steps": describe_steps(stage for record in records for stage in record.stages),
        "keys": _KEYS,
    }


def describe_steps(stages: Iterable[StageRecord]) -> list[dict[str, Any]]:
    """Totals over a run by name of the step, those of the protocol first and in its order."""
    totals: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for stage in stages:
        of_step = totals[stage.name]
        for key, value in asdict(stage).items():
            if key != "name":
                of_step[key] = of_step.get(key, 0) + value
        of_step["times"] = of_step.get("times", 0) + 1
    order = sorted(totals, key=lambda name: (STEPS.index(name) if name in STEPS else len(STEPS), name))
    return [{"step": name, **totals[name]} for name in order]
