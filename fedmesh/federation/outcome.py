"""result.json: the figures of a finished run, as one plain dict. Its schema is in docs/result.md."""

import importlib.metadata
import math
import platform
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmesh import __version__
from fedmesh.client.task import Task
from fedmesh.coordinator import RoundRecord
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.directory import RunDirectory
from fedmesh.inference import Engine, Evaluation, Latency
from fedmesh.privacy.summed import SumSettings

if TYPE_CHECKING:  # it needs torch, and what is known without it is asked for earlier
    from fedmesh.federation.judge import Verdict

__all__ = [
    "describe_devices",
    "describe_final",
    "describe_privacy",
    "describe_versions",
    "measure_latency",
    "without_nan",
]

_LATENCY_SAMPLES = 200
_KEYED = "keyed by the seed, so that the run can be repeated: for simulation only, it protects nobody"
_PACKAGES = ("torch", "opacus", "flwr", "onnx", "onnxruntime", "numpy", "dp-accounting")


def describe_final(
    directory: RunDirectory, verdict: "Verdict", float32: Evaluation, epsilon: float | None, task: Task
) -> dict[str, Any]:
    """The table ``final``: the model that the run ends with."""
    engine = Engine(directory.int8_model)
    return {
        "accuracy_float": float32.accuracy,
        "accuracy_int8": verdict.evaluation.accuracy,
        "loss": verdict.evaluation.loss,
        "agreement": verdict.agreement,
        "max_abs_logit_difference": verdict.max_abs_logit_difference,
        "model": directory.int8_model.name,
        "sha256": engine.sha256,
        "bytes_int8": engine.size_bytes,
        "bytes_float": directory.float_model.stat().st_size,
        "epsilon": epsilon,
        "delta": task.budget.delta if task.budget else None,
    }


def describe_devices(
    data: FederatedData,
    accuracies: Sequence[float | None],
    epsilons: Mapping[int, float],
    lite: Collection[int] = (),
) -> list[dict[str, Any]]:
    """One entry a device: how much of what it holds, and how well the final model does on what it held out.

    `lite`: the devices that train the last layer only, behind a backbone.
    """
    return [
        {
            "device": device,
            "id": data.ids[device],
            "tier": "lite" if device in lite else "full",
            "examples": len(examples),
            "labels": np.bincount(examples.y, minlength=len(data.classes)).tolist(),
            "accuracy_int8": accuracies[device],
            "epsilon": epsilons.get(device),
        }
        for device, examples in enumerate(data.devices)
    ]


def describe_privacy(task: Task, records: Sequence[RoundRecord]) -> dict[str, Any]:
    """What is promised to whom, and how."""
    noise = {"noise": "operating system" if task.keyed_noise_seed is None else _KEYED}
    if task.summed is not None:
        return {**_describe_sum(task.summed, records), **noise}
    if task.dp is None:
        return {"enabled": False}
    dp = task.dp
    return {
        "enabled": True,
        "mode": "local",
        "level": "example",
        "epsilon": dp.epsilon,
        "delta": dp.delta,
        "clip": dp.clip,
        "noise_multiplier": dp.noise_multiplier,
        "sample_rate": dp.sample_rate,
        "steps": dp.steps,
        "expected_batch": dp.expected_batch,
        **noise,
    }


def _describe_sum(settings: SumSettings, records: Sequence[RoundRecord]) -> dict[str, Any]:
    return {
        "enabled": True,
        "mode": settings.mode,
        "level": settings.level,
        "epsilon": settings.epsilon,
        "delta": settings.delta,
        "clip": settings.clip,
        "noise_multiplier": settings.noise_multiplier,
        "expected_batch": settings.expected_batch,
        "honest": settings.honest,
        "colluders": settings.colluders,
        "smallest_sum": settings.smallest_sum,
        "ring_bits": settings.bits,
        "ring_elements": settings.length,
        "gamma": settings.gamma,
        "epsilon_released": _released(settings, records),
    }


def _released(settings: SumSettings, records: Sequence[RoundRecord]) -> float:
    """What the sums that were unmasked cost, each with the devices that were in it; a device is in one sum a round."""
    from fedmesh.privacy import spent

    sums = [[session.survivors for session in record.sessions if session.survivors] for record in records]
    fewest = [min(found) for found in sums if found]  # also of a round that failed in the end
    return spent([event for count in fewest for event in settings.events(survivors=count)], settings.delta)


def measure_latency(directory: RunDirectory, data: FederatedData) -> dict[str, Any]:
    """Milliseconds of one example on one thread, int8 and float32 in the same minute."""
    found = {}
    for name, path in (("int8", directory.int8_model), ("float", directory.float_model)):
        samples = Engine(path).measure(data.held_out.x, runs=_LATENCY_SAMPLES)
        percentiles = Latency.of(samples)
        found[name] = {
            "p50": percentiles.p50,
            "p95": percentiles.p95,
            "p99": percentiles.p99,
            "samples": [round(float(s), 5) for s in samples],
        }
    return found


def without_nan(value: Any) -> Any:
    """`value` with null for every number that JSON has no word for: a run that diverged still leaves its figures."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, list) else value


def describe_versions() -> dict[str, str]:
    """What it was run with."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"fedmesh": __version__, "python": platform.python_version(), **packages}
