"""result.json of a run over a fleet: the shape of a simulation's, with null for what only a device knows."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedmesh.client.release import events_of
from fedmesh.client.task import Task
from fedmesh.coordinator import RoundRecord
from fedmesh.federation import outcome
from fedmesh.federation.rounds import describe_failures, describe_round
from fedmesh.federation.securing import describe_secure_aggregation
from fedmesh.types import Float32

if TYPE_CHECKING:
    from fedmesh.fleet.prepared import Prepared

__all__ = ["describe", "epsilon_after"]

_KEYS = "each with its own device; public ones pinned by the mesh's signed roster"


def epsilon_after(task: Task, rounds: int) -> float | None:
    """What a device has spent that took part in `rounds` rounds, in each once; None: the task is not private.

    A round that was begun again after its devices had trained costs more: a device's ledger knows.
    """
    if task.budget is None:
        return None
    from fedmesh.privacy import spent

    return spent([event for _ in range(rounds) for event in events_of(task, "")], task.budget.delta)


def describe(
    prepared: "Prepared",
    records: Sequence[RoundRecord],
    weights: Float32,
    names: Sequence[str],
    tier: Callable[[str], str | None],
) -> dict[str, Any]:
    """The content of result.json; `names` are the devices', by their numbers, `tier` what they last said they are."""
    scenario, task, data = prepared.plan.scenario, prepared.task, prepared.data
    judge, directory = prepared.judge, prepared.directory
    start_float = judge.float32(prepared.start.weights).accuracy  # its file is overwritten by the next line's
    verdict, float32 = judge.int8(weights, final=True), judge.float32(weights)
    good = sum(record.failed is None for record in records[1:])
    begun: Mapping[str, float | None] = records[0].evaluation
    found = {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "clients": len(names),
        "rounds": [describe_round(record) for record in records[1:]],
        "start": {
            "accuracy_int8": begun["accuracy_int8"],
            "accuracy_float": start_float,
            "loss": begun["loss"],
        },
        "final": outcome.describe_final(directory, verdict, float32, epsilon_after(task, good), task),
        "devices": [_device(number, name, tier(name)) for number, name in enumerate(names)],
        "classes": list(data.classes),
        "held_out": len(data.held_out),
        "privacy": outcome.describe_privacy(task, records),
        "secure_aggregation": describe_secure_aggregation(scenario, task, records, keys=_KEYS),
        "latency_ms": outcome.measure_latency(directory, data),
        "failures": describe_failures(records),
        "config": scenario.model_dump(mode="json"),
        "versions": outcome.describe_versions(),
        "seconds": sum(record.seconds for record in records),
    }
    plain: dict[str, Any] = outcome.without_nan(found)
    return plain


def _device(number: int, name: str, tier: str | None) -> dict[str, Any]:
    unknown = dict.fromkeys(("examples", "labels", "accuracy_int8", "epsilon"))
    return {"device": number, "id": name, "tier": tier, **unknown}
