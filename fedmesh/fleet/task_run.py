"""One task of a coordinator, from its public start to its result, in a thread of its own.

The rounds are the coordinator's, the devices are those of a `TransportFleet`. A round is committed or has not happened,
whatever ends the process; the next one goes on behind the last committed round, under the same run id. Models are
handed over behind the commit; one whose hand-over was cut off, or failed, is handed over when the run goes on.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord

from fedmesh.coordinator import Coordinator, Journal, RoundRecord, ScriptFactory, StrategyRound
from fedmesh.coordinator.stage import Script
from fedmesh.errors import FedMeshError, StoppedError
from fedmesh.events import (
    Event,
    EventSink,
    ModelChecked,
    Notice,
    RoundFinished,
    RunFinished,
    RunStarted,
    RunStopped,
    StepDone,
    WaitingForDevices,
)
from fedmesh.federation.plan import make_strategy
from fedmesh.federation.securing import secure_script
from fedmesh.files import read_bounded, write_atomically
from fedmesh.fleet.numbering import Numbering
from fedmesh.fleet.offering import Offers
from fedmesh.fleet.plan import Plan
from fedmesh.fleet.result import describe, epsilon_after
from fedmesh.fleet.switchboard import Switchboard
from fedmesh.fleet.transport_fleet import TransportFleet
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.flower.grid import FleetGrid
from fedmesh.identity import Membership
from fedmesh.secagg import Identity, Roster
from fedmesh.types import Float32

if TYPE_CHECKING:
    from fedmesh.fleet.prepared import Prepared

__all__ = ["Handover", "Publish", "TaskRun"]

_POLL_S = 0.05
_SETTLE_S = 1.0
"""A first round waits so long after the last device has joined: those that start with it should be in it."""
_REPLY_ROOM = 1 << 20
_EXAMPLES = 16


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
        switchboard: of the coordinator. membership: the coordinator's.
        datasets: where public data sets lie.
        events: gets the facts of the run, on its thread.
        publish: delivers models; None: nobody does.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        switchboard: Switchboard,
        membership: Membership,
        datasets: Path | None,
        events: EventSink,
        publish: Publish | None = None,
    ) -> None:
        self.plan = plan
        self.run_id = 0
        self._folder, self._switchboard, self._membership = folder, switchboard, membership
        self._datasets, self._events, self._publish = datasets, events, publish
        self._stopping = threading.Event()
        self._fleet: TransportFleet | None = None
        self._settled = False

    def stop(self) -> None:
        """Ends the run as soon as possible, from any thread: the round under way is abandoned and has not happened."""
        self._stopping.set()
        if self._fleet is not None:
            self._fleet.stop = self._stopped()

    def run(self) -> Mapping[str, Any]:
        """Until the run is over: the content of result.json.

        Raises:
            StoppedError: `stop` was called; what was committed is kept.
            FedMeshError: the run cannot begin or go on; what was committed is kept.
        """
        begun = time.monotonic()
        if (found := self._finished()) is not None:
            self._events(Notice(f"it is finished: {self._folder / 'result.json'} has its figures"))
            return found
        from fedmesh.fleet.prepared import prepare  # torch takes seconds: the connection is made meanwhile

        prepared = prepare(self.plan, self._folder, datasets_folder=self._datasets)
        self._events(StepDone("public start", time.monotonic() - begun))
        self._check()
        with ExitStack() as stack:
            journal = stack.enter_context(Journal(prepared.directory.journal))
            self.run_id = journal.run_id
            numbering = Numbering(prepared.directory.path / "devices.json")
            fleet = self._open_fleet(prepared)
            stack.callback(fleet.close)
            records, weights = self._rounds(prepared, journal, fleet, numbering)
            with prepared.alone():
                result = describe(prepared, records, weights, numbering.names)
            prepared.directory.save_result(result)
            self._switchboard.detach(self.run_id, over=True)
        self._events(RunFinished(time.monotonic() - begun))
        return result

    def _finished(self) -> Mapping[str, Any] | None:
        path = self._folder / "result.json"
        if not path.exists():
            return None
        prepared: Mapping[str, Any] = json.loads(read_bounded(path, 1 << 28))
        return prepared

    def _open_fleet(self, prepared: "Prepared") -> TransportFleet:
        fleet = TransportFleet(
            self.run_id,
            self._switchboard,
            Offers(self.run_id, self.plan, prepared.task, prepared.directory.path),
            deadline_s=self.plan.round.deadline_s,
            max_reply_bytes=16 * prepared.layout.size + _REPLY_ROOM,
            events=self._events,
        )
        self._fleet = fleet
        if self._stopping.is_set():
            fleet.stop = self._stopped()
        return fleet

    def _rounds(
        self, prepared: "Prepared", journal: Journal, fleet: TransportFleet, numbering: Numbering
    ) -> tuple[Sequence[RoundRecord], Float32]:
        scenario = self.plan.scenario

        def device_of(node: int) -> int:
            with self._switchboard.roll() as roll:
                name = roll.name_of(node)
            return numbering.of(name or f"node-{node}")

        def tell(event: Event) -> None:
            self._events(event)
            if isinstance(event, RoundFinished) and event.failed is None:
                self._hand_over(prepared, event.round, event.survivors, event.epsilon)

        strategy = make_strategy(scenario, prepared.layout, prepared.task)
        grid = FleetGrid(fleet, events=self._events, run_id=self.run_id, device_of=device_of)
        coordinator = Coordinator(
            strategy,
            grid,
            journal,
            evaluate=lambda number, arrays: self._evaluate(prepared, journal, number, arrays),
            events=tell,
            deadline_s=self.plan.round.deadline_s,
            quorum=scenario.strategy.quorum,
            script=self._script(prepared, strategy, grid, journal, numbering),
            device_of=device_of,
        )
        last = journal.last()
        first = 1 if last is None else last.record.round + 1
        self._events(RunStarted(scenario.name, scenario.rounds, first, scenario.partition.clients))
        if last is not None:
            self._catch_up(prepared, journal.records(), _weights(prepared, last.arrays))
        try:
            run = coordinator.run(vector_record("model", prepared.start.weights), scenario.rounds)
        except StoppedError:
            committed = journal.records()
            self._events(RunStopped(committed[-1].round if committed else 0, abandoned=True))
            raise
        weights = _weights(prepared, run.arrays)
        self._catch_up(prepared, journal.records(), weights, over=True)
        return run.records, weights

    def _script(
        self, prepared: "Prepared", strategy: Any, grid: FleetGrid, journal: Journal, numbering: Numbering
    ) -> ScriptFactory:
        """The logic of a round, behind the wait for its devices."""
        plain = not self.plan.scenario.secure_aggregation.enabled
        secured: dict[tuple[int, int], ScriptFactory] = {}  # the newest roster -> rounds among those who are on it

        def script(number: int, arrays: ArrayRecord) -> Script:
            self._await_devices(number, grid)
            for name in sorted(self._names(grid.get_node_ids()).values()):
                numbering.of(name)
            if plain:
                return StrategyRound(strategy, number, arrays, grid, quorum=self.plan.scenario.strategy.quorum)
            roster = self._membership.roster
            version = roster.issuer.serial_number, roster.header.version
            if version not in secured:
                secured.clear()
                secured[version] = self._secured(prepared, strategy, grid, journal)
            return secured[version](number, arrays)

        return script

    def _secured(self, prepared: "Prepared", strategy: Any, grid: FleetGrid, journal: Journal) -> ScriptFactory:
        return secure_script(
            self.plan.scenario,
            prepared.task,
            strategy,
            grid,
            identity=Identity(self._membership.signing_key()),
            roster=Roster(self._membership.roster.keys),
            names=self._names,
            attempts=journal.next_attempt,
        )

    def _names(self, nodes: Sequence[int]) -> Mapping[int, str]:
        with self._switchboard.roll() as roll:
            found = {node: roll.name_of(node) for node in nodes}
        return {node: name for node, name in found.items() if name is not None}

    def _await_devices(self, number: int, grid: FleetGrid) -> None:
        """Returns when enough devices are there, or when the wait for them is over: the round itself then says so."""
        plan, told, begun = self.plan, -1, time.monotonic()
        pause_until = begun + (plan.round.pause_s if number > 1 else 0.0)
        changed = begun
        while True:
            self._check()
            now, present = time.monotonic(), len(grid.get_node_ids())
            if present != told:
                told, changed = present, now
                if present < plan.min_devices:
                    self._events(WaitingForDevices(number, present, plan.min_devices))
            settled = self._settled or now - changed >= _SETTLE_S or present >= plan.scenario.partition.clients
            if present >= plan.min_devices and settled and now >= pause_until:
                self._settled = True
                return
            if now - begun > plan.round.wait_s:
                return
            time.sleep(_POLL_S)

    def _evaluate(
        self, prepared: "Prepared", journal: Journal, number: int, arrays: ArrayRecord
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
            prepared.data.public.x[:_EXAMPLES],
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
        if self._stopping.is_set():
            raise self._stopped()

    def _stopped(self) -> StoppedError:
        return StoppedError(
            f"the task {self.plan.name!r} was stopped; it goes on when the coordinator is started again"
        )


def _handed_file(prepared: "Prepared") -> Path:
    return prepared.directory.path / "handed-over.json"


def _weights(prepared: "Prepared", arrays: ArrayRecord) -> Float32:
    weights: Float32 = vector(arrays, "model", dtype="float32", max_bytes=4 * prepared.layout.size)
    return weights
