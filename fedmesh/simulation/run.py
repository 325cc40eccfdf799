"""A whole federation on one machine: public start, rounds, checked models, figures. `resume` goes on where one stopped.

The rounds are the coordinator's, the devices are client apps in worker processes, the network is a Flower Grid: what is
particular to a simulation is only that one process holds everybody's data.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from fedmesh.client.identities import AGGREGATOR, create_identities, device_name, open_identity
from fedmesh.client.task import Task
from fedmesh.coordinator import Coordinator, Journal, RoundRecord, ScriptFactory
from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, ModelChecked, RunFinished, RunStarted, StepDone, ignore
from fedmesh.federation import datasets, outcome
from fedmesh.federation.averaging import is_averaging
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.directory import PublicStart, RunDirectory, data_digest
from fedmesh.federation.featuring import featured
from fedmesh.federation.judge import Judge
from fedmesh.federation.plan import make_strategy, make_task
from fedmesh.federation.preflight import check_fit, check_plugins
from fedmesh.federation.rounds import describe_failures, describe_round
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.securing import describe_secure_aggregation, secure_script
from fedmesh.federation.start import make_start, one_thread, restore
from fedmesh.federation.tiers import Backbones, lite_devices, tiered
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.flower.fleet import Fleet
from fedmesh.flower.grid import FleetGrid
from fedmesh.flower.identity import partition_of
from fedmesh.flower.logs import quiet_flower
from fedmesh.quantization import arrays_of, head_of
from fedmesh.simulation.averaging import Averagers, check_simulated
from fedmesh.simulation.engine import ClientSpec, WorkerFleet
from fedmesh.simulation.faults import FaultyFleet
from fedmesh.simulation.shared import SharedExamples
from fedmesh.simulation.spending import check_spent, spent_by_device
from fedmesh.simulation.tiers import LITE
from fedmesh.simulation.zygote import Borrowed, Launcher, Zygote, preload_of
from fedmesh.types import Float32, Layout

__all__ = ["resume", "simulate"]

Trained = tuple[tuple[RoundRecord, ...], Float32]
"""Every round's record, and the last weights."""

_FAILED, _FAILED_ON_PURPOSE = 3, 20
"""Failed rounds in a row that end a run. Where devices fail on purpose, rounds are meant to be lost now and then."""


def simulate(
    scenario: Scenario,
    out: Path,
    *,
    data_dir: Path | None = None,
    workers: int | None = None,
    events: EventSink = ignore,
    zygote: Zygote | None = None,
) -> dict[str, Any]:
    """Runs `scenario` from its start to its end.

    Args:
        scenario: what to run.
        out: the run directory; missing or empty.
        data_dir: where data sets lie that do not come with a package.
        workers: number of worker processes; by default one for each core. The figures do not depend on it.
        events: gets the facts of the run.
        zygote: what workers are forked from, for one run after the other without the imports of each; stays open. By
            default the run starts one of its own.

    Returns:
        The content of result.json.

    Raises:
        ConfigError: the scenario, the data or the directory do not allow it.
        TrustError: a promise would be broken: the run has stopped.
        RoundError: too many rounds failed one after another.
    """
    return _run(
        scenario, lambda digest: RunDirectory.create(out, scenario, digest), data_dir, events, _Workers(workers, zygote)
    )


def resume(
    out: Path,
    *,
    data_dir: Path | None = None,
    workers: int | None = None,
    events: EventSink = ignore,
    zygote: Zygote | None = None,
) -> dict[str, Any]:
    """Goes on with the run in `out` behind its last committed round; returns and raises as `simulate`."""
    directory = RunDirectory.open(out)
    if is_averaging(directory.scenario):
        raise ConfigError(
            "a simulation of gossip averaging is not gone on with: what each of its members had is not kept. Start it "
            "anew, in another directory"
        )

    def found(digest: str) -> RunDirectory:
        directory.check_data(digest)
        return directory

    return _run(directory.scenario, found, data_dir, events, _Workers(workers, zygote))


@dataclass(frozen=True, slots=True)
class _Workers:
    """How many worker processes a run has, and what they are forked from; None: see `simulate`."""

    count: int | None
    zygote: Zygote | None


@dataclass(frozen=True, slots=True)
class _Federation:
    """Everything that a run is about."""

    scenario: Scenario
    directory: RunDirectory
    data: FederatedData
    start: PublicStart
    task: Task
    layout: Layout
    judge: Judge
    backbones: Backbones
    lite: frozenset[int]


def _run(
    scenario: Scenario,
    directory_for: Callable[[str], RunDirectory],
    data_dir: Path | None,
    events: EventSink,
    workers: _Workers,
) -> dict[str, Any]:
    begun = time.monotonic()
    check_plugins(scenario)
    with ExitStack() as stack:
        launcher = stack.enter_context(_launcher(scenario, workers.zygote))  # imports torch while the data is read
        stack.enter_context(one_thread())
        stack.enter_context(quiet_flower())
        with _timed(f"data: {scenario.data.name}", events):
            data = _load(scenario, data_dir)
            in_groups = is_averaging(scenario)
            if in_groups:
                check_simulated(scenario, len(data.devices))
            check_fit(
                scenario, data, in_groups=in_groups
            )  # before the run directory: a scenario that cannot run leaves none to resume
            directory = directory_for(data_digest(data))
            data = featured(data, scenario, directory.path)
        with _timed("public start", events):
            federation = _prepare(scenario, directory, data)
        if in_groups:
            trained, more = _average(federation, events)
            return _finished(federation, trained, begun, events, more)
        journal = stack.enter_context(Journal(directory.journal))
        fleet = WorkerFleet(
            _client(federation),
            len(data.devices),
            workers=workers.count,
            launcher=launcher,
        )
        stack.callback(fleet.close)
        trained = _train(federation, FaultyFleet(fleet, scenario.failures, scenario.seed), journal, events)
    return _finished(federation, trained, begun, events, {})


def _finished(
    federation: _Federation, trained: Trained, begun: float, events: EventSink, more: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures, written down; `more`: tables besides those of every result."""
    with _timed("final model and figures", events):
        found = _conclude(federation, *trained, time.monotonic() - begun)
        result: dict[str, Any] = outcome.without_nan({**found, **more})
        federation.directory.save_result(result)
    events(RunFinished(result["seconds"]))
    return result


def _average(federation: _Federation, events: EventSink) -> tuple[Trained, dict[str, Any]]:
    """All steps of gossip averaging, in this process: records and the mean of the members' models; its own tables."""
    scenario, start = federation.scenario, federation.start.weights
    strategy = make_strategy(scenario, federation.layout, federation.task, in_groups=True)
    averagers = Averagers(
        scenario,
        federation.task,
        federation.directory,
        options=strategy.options(start),
        start=start,
        devices=federation.data.devices,
    )
    trained = averagers.train(lambda number, mean: _figures(federation, number, mean, events), events)
    gossip = averagers.describe(lambda own: federation.judge.float32(own).accuracy)
    return trained, {"gossip": gossip}


def _load(scenario: Scenario, data_dir: Path | None) -> FederatedData:
    return datasets.split_as(datasets.load(scenario.data.name, data_dir), scenario)


def _prepare(scenario: Scenario, directory: RunDirectory, data: FederatedData) -> _Federation:
    """The public start, made or read, and what follows from it."""
    classes = len(data.classes)
    start = directory.load_start()
    if start is None:
        model, start = make_start(scenario, data.public, classes)
        directory.save_start(start)
    else:
        model = restore(scenario, start, data.public, classes)
    layout = Layout.of(arrays_of(model))
    lite = lite_devices(scenario, len(data.devices))
    task = make_task(scenario, start, data.public.x.shape[1:], classes, head=head_of(model) if lite else None)
    judge, backbones = Judge(model, layout, data, directory), Backbones(model, layout, data.public.x)
    return _Federation(scenario, directory, data, start, task, layout, judge, backbones, lite)


def _train(federation: _Federation, fleet: Fleet, journal: Journal, events: EventSink) -> Trained:
    """All rounds that are not in the journal yet; every round's record, and the last weights."""
    scenario = federation.scenario
    strategy = make_strategy(scenario, federation.layout, federation.task)
    if federation.lite:
        strategy = tiered(strategy, federation.backbones, lambda node_id: partition_of(node_id) in federation.lite)
    grid = FleetGrid(fleet, events=events, device_of=partition_of)
    coordinator = Coordinator(
        strategy,
        grid,
        journal,
        evaluate=lambda number, arrays: _evaluate(federation, number, arrays, events),
        events=events,
        quorum=scenario.strategy.quorum,
        max_failed_rounds=_FAILED_ON_PURPOSE if _fails_on_purpose(scenario) else _FAILED,
        script=_script(federation, strategy, grid, journal),
        device_of=partition_of,
    )
    last = journal.last()
    first = 1 if last is None else last.record.round + 1
    if last is not None and federation.task.budget is not None:
        check_spent(journal.records(), _epsilons(federation), len(federation.data.devices))
    events(RunStarted(scenario.name, scenario.rounds, first, len(federation.data.devices)))
    run = coordinator.run(vector_record("model", federation.start.weights), scenario.rounds)
    return run.records, _weights(federation, run.arrays)


def _script(federation: _Federation, strategy: Any, grid: FleetGrid, journal: Journal) -> ScriptFactory | None:
    """The logic of rounds under secure aggregation, where one folder holds everybody's keys; None where it is off."""
    if not federation.scenario.secure_aggregation.enabled:
        return None
    identities = federation.directory.identities
    roster = create_identities(identities, len(federation.data.devices))
    return secure_script(
        federation.scenario,
        federation.task,
        strategy,
        grid,
        identity=open_identity(identities, AGGREGATOR),
        roster=roster,
        names=lambda nodes: {node: device_name(partition_of(node)) for node in nodes},
        attempts=journal.next_attempt,
        seed=federation.scenario.seed,
    )


def _client(federation: _Federation) -> ClientSpec:
    scenario, directory = federation.scenario, federation.directory
    return ClientSpec(
        scenario.client.name,
        federation.task,
        SharedExamples.pack(federation.data.devices),
        directory.ledgers,
        directory.identities if scenario.secure_aggregation.enabled else None,
        federation.lite,
    )


def _fails_on_purpose(scenario: Scenario) -> bool:
    return scenario.failures.dropout > 0 or scenario.failures.straggler > 0


def _evaluate(
    federation: _Federation, number: int, arrays: ArrayRecord, events: EventSink
) -> Mapping[str, float | None]:
    """The figures of a round, from its int8 model on held-out examples and from the devices' ledgers."""
    return _figures(federation, number, _weights(federation, arrays), events)


def _figures(federation: _Federation, number: int, weights: Float32, events: EventSink) -> Mapping[str, float | None]:
    verdict = federation.judge.int8(weights)
    events(ModelChecked(number, verdict.agreement, verdict.max_abs_logit_difference))
    spent = _epsilons(federation)
    epsilon = max(spent.values(), default=0.0) if federation.task.budget else None
    return {**verdict.as_metrics(), "epsilon": epsilon}


def _weights(federation: _Federation, arrays: ArrayRecord) -> Float32:
    size = 4 * federation.layout.size
    weights: Float32 = vector(arrays, "model", dtype="float32", max_bytes=size)
    return weights


def _epsilons(federation: _Federation) -> dict[int, float]:
    """Device -> epsilon spent so far, for devices that ever trained under a budget."""
    budget = federation.task.budget
    if budget is None:
        return {}
    directory = federation.directory
    identities = directory.identities if federation.scenario.secure_aggregation.enabled else None
    return spent_by_device(directory.ledgers, len(federation.data.devices), budget, identities=identities)


def _conclude(
    federation: _Federation, records: tuple[RoundRecord, ...], weights: Float32, seconds: float
) -> dict[str, Any]:
    judge, data, scenario, task = federation.judge, federation.data, federation.scenario, federation.task
    start_float = judge.float32(federation.start.weights).accuracy  # its file is overwritten by the next line's
    verdict, float32 = judge.int8(weights, final=True), judge.float32(weights)
    epsilons = _epsilons(federation)
    epsilon = max(epsilons.values(), default=0.0) if task.budget else None
    start = records[0].evaluation
    return {
        "scenario": scenario.name,
        "seed": scenario.seed,
        "clients": len(data.devices),
        "rounds": [describe_round(record) for record in records[1:]],
        "start": {
            "accuracy_int8": start["accuracy_int8"],
            "accuracy_float": start_float,
            "loss": start["loss"],
        },
        "final": outcome.describe_final(federation.directory, verdict, float32, epsilon, task),
        "devices": outcome.describe_devices(data, judge.by_device(), epsilons, federation.lite),
        "classes": list(data.classes),
        "held_out": len(data.held_out),
        "privacy": outcome.describe_privacy(task, records),
        "secure_aggregation": describe_secure_aggregation(scenario, task, records),
        "latency_ms": outcome.measure_latency(federation.directory, data),
        "failures": describe_failures(records),
        "config": scenario.model_dump(mode="json"),
        "versions": outcome.describe_versions(),
        "seconds": seconds,
    }


@contextmanager
def _timed(what: str, events: EventSink) -> Iterator[None]:
    begun = time.monotonic()
    yield
    events(StepDone(what, time.monotonic() - begun))


@contextmanager
def _launcher(scenario: Scenario, kept: Zygote | None) -> Iterator[Launcher]:
    if kept is not None:
        yield Borrowed(kept)  # which the fleet closes, as it has launched from it
        return
    modules = preload_of(scenario.client.name, private=scenario.privacy.enabled)
    if scenario.client.lite_fraction:
        modules += preload_of(LITE, private=False)
    zygote = Zygote(modules)
    try:
        yield zygote
    finally:
        zygote.close()
