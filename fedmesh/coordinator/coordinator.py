"""The round loop: drives rounds over a grid, and commits each to the journal before the next begins.

Guaranteed: a round is either committed or has not happened; after a crash `run` goes on behind the last committed round
with the strategy and the nodes as they were then. An exception that is not a RoundError ends the run and leaves the
journal at the last good round; a RoundError costs that round only, and is committed as a round that changed nothing,
unless that is true of every round of the run: then the run fails.

Not guaranteed: that a device trains once a round. A round that was under way when the process died is asked for again.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run

from fedmesh.clock import Clock, SystemClock
from fedmesh.coordinator.checkpoint import Checkpoint, RoundJournal
from fedmesh.coordinator.control import Control, LocalControl, RunState
from fedmesh.coordinator.drive import Drive
from fedmesh.coordinator.gate import Gate
from fedmesh.coordinator.plain import StrategyRound
from fedmesh.coordinator.records import RoundRecord
from fedmesh.coordinator.round import Round
from fedmesh.coordinator.selection import Selection
from fedmesh.coordinator.settings import RoundSettings
from fedmesh.coordinator.snapshot import restore, snapshot
from fedmesh.coordinator.stage import Outcome, Script
from fedmesh.coordinator.stagelog import StageLog
from fedmesh.errors import ConfigError, FedMeshError, NothingLearnedError, RoundError
from fedmesh.events import EventSink, RoundFinished, RoundStarted, RunStopped, ignore
from fedmesh.flower.grid import FleetGrid, Traffic
from fedmesh.flower.node import lasting

__all__ = ["Coordinator", "Evaluate", "RunResult", "ScriptFactory"]

Evaluate = Callable[[int, ArrayRecord], Mapping[str, float | None]]
"""(round, its arrays) -> figures on held-out or public data. Called before the commit: again if that was cut off."""

ScriptFactory = Callable[[int, ArrayRecord], Script]
"""(round, the arrays it begins with) -> the round's logic."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that has ended: the last global arrays, every round from 0, and whether an operator stopped it."""

    arrays: ArrayRecord
    records: tuple[RoundRecord, ...]
    stopped: bool = False


class Coordinator:
    """Runs a strategy round by round.

    Args:
        strategy: any message-based Flower strategy.
        grid: reaches the nodes; states of nodes are journaled when it is a `FleetGrid`.
        journal: an empty one begins a run, any other continues one.
        evaluate: figures for a round's record; ``accuracy_int8``, ``loss`` and ``epsilon`` also go into RoundFinished.
        events: gets RoundStarted, StageStarted and RoundFinished; RunStopped, and what `Gate` tells, where there is
            something to tell.
        clock: for durations and deadlines.
        deadline_s: longest wait for the answers of a stage; None waits for all.
        quorum: fewest trained replies that make a round.
        settings: over-selection, deadlines, quorum and the wait for devices, in place of `deadline_s` and `quorum`. A
            `script` of its own is given them by its maker.
        control: pauses and stops the run.
        seed: of the draw that `settings` ask for; None: from the operating system's randomness.
        train_config, evaluate_config: passed to the strategy.
        max_failed_rounds: after so many failed rounds in a row the run ends with the last one's error.
        script: the logic of a round; by default that of `strategy` alone.
        device_of: node id -> the number by which records name the device.
    """

    def __init__(
        self,
        strategy: Strategy,
        grid: Grid,
        journal: RoundJournal,
        *,
        evaluate: Evaluate | None = None,
        events: EventSink = ignore,
        clock: Clock | None = None,
        deadline_s: float | None = None,
        quorum: int = 1,
        settings: RoundSettings | None = None,
        control: Control | None = None,
        seed: int | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        max_failed_rounds: int = 3,
        script: ScriptFactory | None = None,
        device_of: Callable[[int], int] = int,
    ) -> None:
        self._strategy = strategy
        self._grid = grid
        self._journal = journal
        self._evaluate = evaluate
        self._events = events
        self._clock = SystemClock() if clock is None else clock
        self._deadline_s = deadline_s if settings is None else settings.deadline_s
        self._quorum = quorum if settings is None else settings.quorum
        self._settings = settings or RoundSettings()
        self._selection = Selection(self._settings, seed=seed)
        self._control = LocalControl() if control is None else control
        self._gate = Gate(self._control, settings, self._present, self._clock, events)
        self._configs = (train_config, evaluate_config)
        self._max_failed_rounds = max_failed_rounds
        self._script = self._plain if script is None else script
        self._device_of = device_of
        if isinstance(grid, FleetGrid):
            grid.set_run(Run.create_empty(journal.run_id))

    def run(self, initial: ArrayRecord, rounds: int) -> RunResult:
        """Goes on until round `rounds` is committed, or until it is asked to stop. A coordinator runs once.

        Args:
            initial: the global arrays that a new run starts from; a resumed one has its own.
            rounds: number of the last round.

        Raises:
            RoundError: too many rounds failed in a row.
            NothingLearnedError: not one of the run's has succeeded.
            ConfigError: the journal cannot be read or written, or is of another strategy.
        """
        self._control.report(RunState.RUNNING)
        try:
            result = self._run(initial, rounds)
        except FedMeshError as error:  # what is cut off otherwise goes on: it has neither ended nor failed
            self._fail(error)
            raise
        self._control.report(RunState.STOPPED if result.stopped else RunState.FINISHED)
        return result

    def _run(self, initial: ArrayRecord, rounds: int) -> RunResult:
        last = self._journal.last()
        if last is None:
            last = self._start(initial)
        else:
            self._resume(last)
        arrays, failed = last.arrays, 0
        for number in range(last.record.round + 1, rounds + 1):
            step = self._next(number, arrays)
            if step is None:
                return RunResult(arrays, tuple(self._journal.records()), stopped=True)
            arrays, error = step
            failed = 0 if error is None else failed + 1
            if error is not None and failed >= self._max_failed_rounds:
                raise error
        records = tuple(self._journal.records())
        if len(records) > 1 and all(record.failed is not None for record in records[1:]):
            raise NothingLearnedError(
                f"all {len(records) - 1} rounds failed, the model is the start's: {records[-1].failed}; see that more "
                "devices answer, and begin a new run"
            )
        return RunResult(arrays, records)

    def _fail(self, error: FedMeshError) -> None:
        try:
            self._control.report(RunState.FAILED, str(error))
        except FedMeshError as other:  # e.g. the journal cannot be written, which may be what failed
            error.add_note(f"This could not be written down: {other}")

    def _start(self, initial: ArrayRecord) -> Checkpoint:
        start = self._clock.now()
        evaluation = self._evaluated(0, initial)
        record = RoundRecord(0, evaluation=evaluation, seconds=self._clock.now() - start)
        self._commit(record, initial)
        return Checkpoint(record, initial, b"", {})

    def _resume(self, last: Checkpoint) -> None:
        restore(self._strategy, last.strategy)
        if isinstance(self._grid, FleetGrid):
            self._grid.fleet.restore(last.states)
        elif last.states:
            raise ConfigError(
                "the journal holds states of nodes, which this grid cannot restore: resume over a FleetGrid"
            )

    def _next(self, number: int, arrays: ArrayRecord) -> tuple[ArrayRecord, RoundError | None] | None:
        """`_run_round`, unless the run is to end before it."""
        if self._gate.wished(number):
            return self._run_round(number, arrays)
        self._events(RunStopped(number - 1, abandoned=False))
        return None

    def _run_round(self, number: int, arrays: ArrayRecord) -> tuple[ArrayRecord, RoundError | None] | None:
        """One round, committed: the arrays after it, and why it failed if it did. None: the run is to end instead."""
        self._events(RoundStarted(number))
        machine, outcome, start = None, None, self._clock.now()
        log = StageLog(self._clock, lambda: self._traffic(number))
        try:
            if self._gate.enough(number):
                start = self._clock.now()
                machine = Round(self._script(number, arrays), deadline_s=self._deadline_s)
                outcome = Drive(machine, number, self._grid, log, self._clock, self._events, self._control).run()
        except RoundError as problem:
            outcome = Outcome(None, failed=problem)
        if outcome is None:
            self._events(RunStopped(number - 1, abandoned=machine is not None))
            return None
        error, stages = outcome.failed, log.end()
        arrays = arrays if outcome.arrays is None else outcome.arrays
        evaluation = self._evaluated(number, arrays)
        traffic = self._traffic(number)
        asked, failures = (machine.asked, machine.failures) if machine is not None else (set[int](), dict[int, str]())
        record = RoundRecord(
            number,
            clients=len(asked),
            survivors=outcome.survivors,
            metrics=_metrics(outcome),
            evaluation=evaluation,
            bytes_up=_mean_over(traffic.up, asked - failures.keys()),
            bytes_down=_mean_over(traffic.down, asked),
            seconds=self._clock.now() - start,
            failures=tuple((self._device_of(node), reason) for node, reason in sorted(failures.items())),
            failed=None if error is None else str(error),
            stages=stages,
            sessions=outcome.sessions,
        )
        self._commit(record, arrays)
        if isinstance(self._grid, FleetGrid):
            self._grid.traffic.pop(number, None)
        self._events(_finished(record))
        return arrays, error

    def _present(self) -> int:
        """How many nodes can be reached now."""
        return len(list(self._grid.get_node_ids()))

    def _traffic(self, number: int) -> Traffic:
        """What round `number` has carried so far."""
        return self._grid.traffic.get(number, Traffic()) if isinstance(self._grid, FleetGrid) else Traffic()

    def _commit(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        states = self._grid.fleet.states() if isinstance(self._grid, FleetGrid) else {}
        kept = {node_id: found for node_id, state in states.items() if (found := lasting(state))}
        self._journal.commit(record, arrays, strategy=snapshot(self._strategy), states=kept)

    def _evaluated(self, number: int, arrays: ArrayRecord) -> Mapping[str, float | None]:
        figures = {} if self._evaluate is None else self._evaluate(number, arrays)
        return {name: None if value is None else float(value) for name, value in figures.items()}

    def _plain(self, number: int, arrays: ArrayRecord) -> Script:
        train, evaluate = self._configs
        return StrategyRound(
            self._strategy,
            number,
            arrays,
            self._selection.grid(self._grid, number),
            quorum=self._quorum,
            settings=self._settings,
            train_config=train,
            evaluate_config=evaluate,
        )


def _metrics(outcome: Outcome) -> dict[str, float | int | list[float] | list[int]]:
    parts: dict[str, MetricRecord | None] = {"train": outcome.train_metrics, "evaluate": outcome.evaluate_metrics}
    return {f"{part}.{key}": value for part, record in parts.items() if record for key, value in record.items()}


def _finished(record: RoundRecord) -> RoundFinished:
    figures = record.evaluation
    return RoundFinished(
        record.round,
        record.clients,
        record.survivors,
        accuracy_int8=_number(figures.get("accuracy_int8")),
        loss=_number(figures.get("loss")),
        epsilon=figures.get("epsilon"),
        bytes_up=record.bytes_up,
        bytes_down=record.bytes_down,
        seconds=record.seconds,
        failed=record.failed,
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _mean_over(counts: Mapping[int, int], nodes: Collection[int]) -> float:
    return sum(counts.get(node, 0) for node in nodes) / max(1, len(nodes))
