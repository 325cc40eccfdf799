"""What is told about rounds: by result.json of a simulation, and by `fedmesh runs show`. Loads no torch, no flwr."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from fedmesh.coordinator.records import RoundRecord, StageRecord
from fedmesh.secagg import SessionHeader

__all__ = ["describe_failures", "describe_round", "describe_sessions", "describe_steps"]

_STEPS = ("advertise", "share", "train", "sign", "unmask")


def describe_round(record: RoundRecord) -> dict[str, Any]:
    """An entry of the table ``rounds``."""
    return {
        "round": record.round,
        "clients": record.clients,
        "survivors": record.survivors,
        **record.evaluation,
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "seconds": record.seconds,
        "failed": record.failed,
        "train_loss": record.metrics.get("train.loss"),
        "train_examples": record.metrics.get("train.examples"),
        "stages": [asdict(stage) for stage in record.stages],
        "sessions": [asdict(session) for session in record.sessions],
    }


def describe_failures(records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """The table ``failures``."""
    return [
        {"round": record.round, "device": device, "reason": reason}
        for record in records
        for device, reason in record.failures
    ]


def describe_sessions(records: Sequence[RoundRecord]) -> dict[str, Any]:
    """What the sessions of secure aggregation came to: a part of the table ``secure_aggregation``."""
    sessions = [(record.round, session) for record in records for session in record.sessions]
    sums = [session.survivors for _, session in sessions if session.survivors]
    devices = max((session.devices for _, session in sessions), default=0)
    return {
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
    order = sorted(totals, key=lambda name: (_STEPS.index(name) if name in _STEPS else len(_STEPS), name))
    return [{"step": name, **totals[name]} for name in order]
