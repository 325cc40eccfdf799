"""One task of a coordinator, from its public start to its result, in a thread of its own.

The rounds are the coordinator's, the devices are those of a `TransportFleet`, the journal a run in the store of runs. A
round is committed or has not happened, whatever ends the process; the next one goes on behind the last committed
round, under the same run id. Models are handed over behind the commit; one whose hand-over was cut off, or failed, is
handed over when the run goes on.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord

from fedmesh.coordinator import (
    Coordinator,
    LocalControl,
    RoundRecord,
    RunInfo,
    RunResult,
    RunState,
    RunStore,
    StoredControl,
    Wish,
)
from fedmesh.errors import FedMeshError, StoppedError
from fedmesh.events import (
    Event,
    EventSink,
    ModelChecked,
    Notice,
    RoundFinished,
    RunFinished,
    RunStarted,
    StepDone,
)
from fedmesh.federation.plan import make_strategy
from fedmesh.files import read_bounded, write_atomically
from fedmesh.fleet.chosen_run import chosen_run, own_folder
from fedmesh.fleet.numbering import Numbering
from fedmesh.fleet.offering import Offers
from fedmesh.fleet.plan import Plan
from fedmesh.fleet.result import describe, epsilon_after
from fedmesh.fleet.round_scripts import RoundScripts
from fedmesh.fleet.switchboard import Switchboard
from fedmesh.fleet.task_control import TaskControl
from fedmesh.fleet.transport_fleet import TransportFleet
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.flower.grid import FleetGrid
from fedmesh.identity import Membership
from fedmesh.types import Float32

if TYPE_CHECKING:
    from fedmesh.coordinator.storedjournal import StoredJournal
    from fedmesh.fleet.prepared import Prepared

__all__ = ["GOLDEN_EXAMPLES", "Handover", "Publish", "TaskRun"]

_POLL_S = 0.25
_IN_ROUNDS = {"scenario", "config", "rounds", "failures"}
"""Keys of result.json that the store of runs makes of what was committed."""
_REPLY_ROOM = 1 << 20
GOLDEN_EXAMPLES = 16
"""Public inputs that are probed with before a model runs."""


@dataclass(frozen=True, slots=True)
class Handover:
    """A model to be delivered, and where it comes from.

    Attributes:
        task: name; run: id; round: whose model it is; survivors: devices in its sum.
        model: the int8 file; it is overwritten by the next round's.
        epsilon: spent by a device that was in every round so far; None without DP.
        scenario: SHA-256 of the resolved scenario, 32 bytes.
        examples: public inputs of the model, float32 [N, ...], for its golden set.
        last: whether no later model of the run follows.
    """

    task: str
    run: int
    round: int
    survivors: int
    model: Path
    epsilon: float | None
    scenario: bytes
    examples: Float32
    last: bool


Publish = Callable[[Handover], None]
"""Delivers a model. Raises: FedMeshError: it could not be."""


class TaskRun:
    """A task.

    Args:
        plan: what it is. folder: its run directory.
        store: of runs; it outlives the task.
        switchboard: of the coordinator. membership: the coordinator's.
        datasets: where public data sets lie.
        events: gets the facts of the run, on its thread.
        publish: delivers models; None: nobody does.
        again: begin a new run, whatever was there.
        once: end when an operator stops the run, instead of waiting until it is to go on.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        store: RunStore,
        switchboard: Switchboard,
        membership: Membership,
        datasets: Path | None,
        events: EventSink,
        publish: Publish | None = None,
        again: bool = False,
        once: bool = False,
    ) -> None:
        self.plan = plan
        self.run_id = 0
        self._folder, self._store, self._switchboard, self._membership = folder, store, switchboard, membership
        self._datasets, self._events, self._publish = datasets, events, publish
        self._again, self._once = again, once
        self._local = LocalControl()

    def stop(self) -> None:
        """Ends the run as soon as possible, from any thread: the round under way is abandoned and has not happened."""
        self._local.ask(Wish.STOP_NOW)

    def run(self) -> Mapping[str, Any]:
        """Until the run is over: the content of result.json.

        Raises:
            StoppedError: `stop` was called, or an operator stopped the run; what was committed is kept.
            FedMeshError: the run cannot begin or go on; what was committed is kept.
        """
        begun = time.monotonic()
        run = chosen_run(self._store, self.plan, self._folder, again=self._again)
        self.run_id = run.id
        if (found := self._finished(run)) is not None:
            self._events(Notice(f"it is finished: {self._folder / 'result.json'} has its figures"))
            return found
        own_folder(self._folder, run)
        with self._store.journal(run.id) as journal:
            control = TaskControl(StoredControl(self._store, journal), self._local)
            try:
                result = self._run(journal, control)
            except StoppedError:
                raise
            except FedMeshError as error:
                _fail(control, error)
                raise
            control.finished()
        self._events(RunFinished(time.monotonic() - begun))
        return result

    def _run(self, journal: "StoredJournal", control: TaskControl) -> Mapping[str, Any]:
        begun = time.monotonic()
        from fedmesh.fleet.prepared import prepare  # torch takes seconds: the connection is made meanwhile

        prepared = prepare(self.plan, self._folder, datasets_folder=self._datasets)
        prepared = replace(prepared, task=prepared.task.of_run(self.run_id))
        self._events(StepDone("public start", time.monotonic() - begun))
        journal.tell({"classes": list(prepared.data.classes), "held_out": len(prepared.data.held_out)})
        numbering = Numbering(prepared.directory.path / "devices.json")
        while True:
            self._check()
            fleet = self._open_fleet(prepared)
            try:
                run = self._rounds(prepared, journal, control, fleet, numbering)
                if not run.stopped:
                    return self._ended(prepared, journal, run, numbering)
            finally:
                fleet.close()
            self._await_resume(control)

    def _ended(
        self, prepared: "Prepared", journal: "StoredJournal", run: RunResult, numbering: Numbering
    ) -> Mapping[str, Any]:
        with prepared.alone():
            weights = _weights(prepared, run.arrays)
            result = describe(prepared, run.records, weights, numbering.names, self._tier)
        journal.tell({key: value for key, value in result.items() if key not in _IN_ROUNDS})
        prepared.directory.save_result(result)
        self._switchboard.detach(self.run_id, over=True)
        return result

    def _await_resume(self, control: TaskControl) -> None:
        """Returns when an operator lets the run go on that was stopped. Raises: StoppedError."""
        self._check()
        how = f"fedmesh runs resume {self.plan.name} lets it go on"
        if self._once:
            raise StoppedError(f"the task {self.plan.name!r} was stopped by an operator: {how}")
        self._events(Notice(f"it was stopped by an operator: {how}"))
        while control.state().stops:
            self._check()
            time.sleep(_POLL_S)

    def _finished(self, run: RunInfo) -> Mapping[str, Any] | None:
        path = self._folder / "result.json"
        if run.state is not RunState.FINISHED or not path.exists():
            return None
        found: Mapping[str, Any] = json.loads(read_bounded(path, 1 << 28))
        return found

    def _open_fleet(self, prepared: "Prepared") -> TransportFleet:
        section = self.plan.round
        return TransportFleet(
            self.run_id,
            self._switchboard,
            Offers(self.run_id, self.plan, prepared.task, prepared.directory.path),
            deadline_s=max(section.deadline_s, section.train_deadline_s or 0.0),
            max_reply_bytes=16 * prepared.layout.size + _REPLY_ROOM,
            events=self._events,
        )

    def _rounds(
        self,
        prepared: "Prepared",
        journal: "StoredJournal",
        control: TaskControl,
        fleet: TransportFleet,
        numbering: Numbering,
    ) -> RunResult:
        scenario = self.plan.scenario

        def device_of(node: int) -> int:
            with self._switchboard.roll() as roll:
                name = roll.name_of(node)
            return numbering.of(name or f"node-{node}")

        def tell(event: Event) -> None:
            self._events(event)
            if isinstance(event, RoundFinished) and event.failed is None:
                self._hand_over(prepared, event.round, event.survivors, event.epsilon)

        strategy = prepared.tiered(make_strategy(scenario, prepared.layout, prepared.task), self._is_lite)
        grid = FleetGrid(fleet, events=self._events, run_id=self.run_id, device_of=device_of)
        coordinator = Coordinator(
            strategy,
            grid,
            journal,
            evaluate=lambda number, arrays: self._evaluate(prepared, journal, number, arrays),
            events=tell,
            settings=self.plan.settings,
            control=control,
            script=RoundScripts(
                prepared,
                strategy,
                grid,
                membership=self._membership,
                names=self._names,
                numbering=numbering,
                attempts=journal.next_attempt,
            ),
            device_of=device_of,
        )
        last = journal.last()
        first = 1 if last is None else last.record.round + 1
        self._events(RunStarted(scenario.name, scenario.rounds, first, scenario.partition.clients))
        if last is not None:
            self._catch_up(prepared, journal.records(), _weights(prepared, last.arrays))
        run = coordinator.run(vector_record("model", prepared.start.weights), scenario.rounds)
        if not run.stopped:
            self._catch_up(prepared, journal.records(), _weights(prepared, run.arrays), over=True)
        return run

    def _is_lite(self, node: int) -> bool:
        with self._switchboard.roll() as roll:
            name = roll.name_of(node)
        return name is not None and self._tier(name) == "lite"

    def _tier(self, name: str) -> str | None:
        """What the device said of itself last; None: it was not heard of since this process began."""
        with self._switchboard.roll() as roll:
            here = roll.last(name)
        return None if here is None else here.tier

    def _names(self, nodes: Sequence[int]) -> Mapping[int, str]:
        with self._switchboard.roll() as roll:
            found = {node: roll.name_of(node) for node in nodes}
        return {node: name for node, name in found.items() if name is not None}

    def _evaluate(
        self, prepared: "Prepared", journal: "StoredJournal", number: int, arrays: ArrayRecord
    ) -> Mapping[str, float | None]:
        """The figures of a round on public examples, from its int8 model."""
        with prepared.alone():
            verdict = prepared.judge.int8(_weights(prepared, arrays))
        self._events(ModelChecked(number, verdict.agreement, verdict.max_abs_logit_difference))
        rounds = sum(record.failed is None for record in journal.records()[1:]) + (number > 0)
        return {**verdict.as_metrics(), "epsilon": epsilon_after(prepared.task, rounds)}

    def _catch_up(
        self, prepared: "Prepared", records: Sequence[RoundRecord], weights: Float32, *, over: bool = False
    ) -> None:
        """Hands the last model over, if that was cut off, or the run is over with rounds that failed behind it."""
        good = [record for record in records[1:] if record.failed is None]
        if self._publish is None or not good:
            return
        trailing = over and good[-1].round < self.plan.scenario.rounds
        if trailing or good[-1].round > self._handed_over(prepared):
            with prepared.alone():
                prepared.judge.int8(weights)  # the file may be of a round that was not committed
            epsilon = good[-1].evaluation.get("epsilon")
            self._hand_over(prepared, good[-1].round, good[-1].survivors, epsilon, last=over)

    def _hand_over(
        self, prepared: "Prepared", number: int, survivors: int, epsilon: float | None, *, last: bool = False
    ) -> None:
        if self._publish is None:
            return
        digest = bytes.fromhex(self.plan.digest)
        handover = Handover(
            self.plan.name,
            self.run_id,
            number,
            survivors,
            prepared.directory.int8_model,
            epsilon,
            digest,
            prepared.data.public.x[:GOLDEN_EXAMPLES],
            last=last or number >= self.plan.scenario.rounds,
        )
        try:
            self._publish(handover)
        except FedMeshError as error:
            self._events(Notice(f"the model of round {number} was not delivered: {error}"))
        else:
            write_atomically(_handed_file(prepared), json.dumps({"round": number}).encode())

    @staticmethod
    def _handed_over(prepared: "Prepared") -> int:
        path = _handed_file(prepared)
        return int(json.loads(read_bounded(path, 1024))["round"]) if path.exists() else 0

    def _check(self) -> None:
        if self._local.state().stops:
            raise StoppedError(
                f"the task {self.plan.name!r} was stopped; it goes on when the coordinator is started again"
            )


def _fail(control: TaskControl, error: FedMeshError) -> None:
    try:
        control.report(RunState.FAILED, str(error))
    except FedMeshError as other:
        error.add_note(f"This could not be written down: {other}")


def _handed_file(prepared: "Prepared") -> Path:
    return prepared.directory.path / "handed-over.json"


def _weights(prepared: "Prepared", arrays: ArrayRecord) -> Float32:
    weights: Float32 = vector(arrays, "model", dtype="float32", max_bytes=4 * prepared.layout.size)
    return weights
