"""A run of real devices in the shape of result.json; what the server of a fleet cannot know is null.

Devices report nothing in the clear: there are no figures of single devices. What the coordinator knows beyond its
rounds (the public start, the last model, what privacy was promised) it adds as `RunInfo.facts`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedmesh.coordinator.records import RoundRecord
from fedmesh.coordinator.runstore import RunInfo
from fedmesh.federation.rounds import describe_failures, describe_round, describe_sessions

__all__ = ["describe_run", "describe_state"]

_FIGURES = ("accuracy_int8", "loss", "agreement", "max_abs_logit_difference", "epsilon")
_UNKNOWN = ("devices", "classes", "held_out", "latency_ms", "versions")
_FINAL = ("accuracy_float", "model", "sha256", "bytes_int8", "bytes_float", "delta")


def describe_run(info: RunInfo, records: Sequence[RoundRecord]) -> dict[str, Any]:
    """Every key of docs/result.md, and ``run``: what is particular to a deployment.

    Args:
        info: of the run.
        records: its rounds, from 0; none before its start.
    """
    last = records[-1].evaluation if records else {}
    start = records[0].evaluation if records else {}
    described = {
        "scenario": info.name,
        "seed": info.scenario.get("seed"),
        "clients": max((record.clients for record in records), default=None),
        "rounds": [dict.fromkeys(_FIGURES) | describe_round(record) for record in records[1:]],
        "start": {"accuracy_int8": start.get("accuracy_int8"), "accuracy_float": None, "loss": start.get("loss")},
        "final": dict.fromkeys(_FINAL) | {name: last.get(name) for name in _FIGURES},
        "privacy": _privacy(info.scenario),
        "secure_aggregation": _secure_aggregation(info.scenario, records),
        "failures": describe_failures(records),
        "config": dict(info.scenario),
        "seconds": sum(record.seconds for record in records),
        **dict.fromkeys(_UNKNOWN),
        "run": describe_state(info),
    }
    for key, value in info.facts.items():
        known = described.get(key)
        described[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, Mapping) else value
    return {key: _finite(value) for key, value in described.items()}


def describe_state(info: RunInfo) -> dict[str, Any]:
    """A line of ``fedmesh runs list --json``."""
    return {
        "id": info.key,
        "name": info.name,
        "state": info.condition,
        "reason": info.reason or None,
        "wish": info.wish.value,
        "round": max(info.committed, 0),
        "rounds": info.rounds,
        "created": info.created,
        "updated": info.updated,
        "host": info.host or None,
    }


def _privacy(scenario: Mapping[str, Any]) -> dict[str, Any]:
    section = scenario.get("privacy", {})
    if not section.get("enabled"):
        return {"enabled": False}
    kept = ["enabled", "mode", "epsilon", "delta", "clip", "expected_batch"]
    unknown = ["noise_multiplier", "noise"]
    if section.get("mode") == "local":
        kept += ["sample_rate", "steps"]
    else:
        kept += ["ring_bits"]
        unknown += ["honest", "colluders", "smallest_sum", "ring_elements", "gamma", "epsilon_released"]
    described = {key: section.get(key) for key in kept} | dict.fromkeys(unknown)
    return {**described, "level": "example" if section.get("mode") in {"local", "shared"} else "client"}


def _secure_aggregation(scenario: Mapping[str, Any], records: Sequence[RoundRecord]) -> dict[str, Any]:
    section = scenario.get("secure_aggregation", {})
    if not section.get("enabled"):
        return {"enabled": False}
    described = {key: section.get(key) for key in ("enabled", "group_size", "weight_cap", "attempts", "overlap")}
    return {**described, **describe_sessions(records), "keys": "each device's on the device"}


def _finite(value: Any) -> Any:
    """`value` with null for every number that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
