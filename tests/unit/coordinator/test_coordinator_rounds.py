"""The coordinator over an in-memory grid: rounds, failures, resume."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app, plain_app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fedmesh.coordinator import Coordinator, Journal, Outcome, RunResult, SessionRecord
from fedmesh.errors import ConfigError, NothingLearnedError, QuorumError, RoundError
from fedmesh.events import DeviceFailed, Event, RoundFinished, RoundStarted, StageStarted
from fedmesh.flower import FleetGrid, InlineFleet, partition_of
from fedmesh.flower.arrays import vector_record
from fedmesh.quantization.codec import relative_ranges
from fedmesh.testing import ManualClock
from fedmesh_strategies.fedavg import FedAvg

START = ArrayRecord([np.zeros((3, 2), np.float32), np.ones(4, np.float32)])
WEIGHTS = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))


def ours(**options: Any) -> FedAvg:
    return FedAvg(layout=LAYOUT, ranges=relative_ranges(0.5), **options)


def run(
    strategy: Strategy, rounds: int, *, app: ClientApp | None = None, journal: Journal | None = None, **options: Any
) -> RunResult:
    initial = options.pop("initial", START)
    grid = FleetGrid(InlineFleet(app or plain_app(), 4), device_of=partition_of, events=options.get("events", _drop))
    coordinator = Coordinator(strategy, grid, journal or Journal(), device_of=partition_of, **options)
    return coordinator.run(initial, rounds)


def _drop(event: Event) -> None:
    """No listener."""


def values(result: RunResult) -> list[bytes]:
    return [array.numpy().tobytes() for array in result.arrays.values()]


def test_flowers_fedavg_gives_what_its_own_loop_gives() -> None:
    strategy = flower.FedAvg()
    expected = strategy.start(FleetGrid(InlineFleet(plain_app(), 4)), START, num_rounds=3)
    result = run(flower.FedAvg(), 3)
    # Flower draws the order of nodes, and so of float sums, from Python's global generator.
    for mine, theirs in zip(result.arrays.values(), expected.arrays.values(), strict=True):
        assert mine.numpy() == pytest.approx(theirs.numpy())
    assert result.records[3].metrics["train.train_loss"] == pytest.approx(
        expected.train_metrics_clientapp[3]["train_loss"]
    )
    assert result.records[3].metrics["evaluate.eval_loss"] == 2.0


def test_records_and_events_tell_the_story() -> None:
    events = list[Event]()
    evaluated = list[int]()

    def evaluate(number: int, arrays: ArrayRecord) -> Mapping[str, float | None]:
        evaluated.append(number)
        return {"accuracy_int8": np.float32(0.5), "loss": number / 10, "epsilon": None}

    result = run(ours(), 2, app=delta_app(), initial=WEIGHTS, evaluate=evaluate, events=events.append)
    assert evaluated == [0, 1, 2]
    assert [record.round for record in result.records] == [0, 1, 2]
    last = result.records[2]
    assert (last.clients, last.survivors, last.failures, last.failed) == (4, 4, (), None)
    assert last.evaluation == {"accuracy_int8": 0.5, "loss": 0.2, "epsilon": None}
    assert last.metrics["train.survivors"] == 4
    assert 15 < last.bytes_up < 500
    assert 60 < last.bytes_down < 600
    kinds = [type(event).__name__ for event in events if not isinstance(event, DeviceFailed)]
    once = ["RoundStarted", "StageStarted", *["DeviceReplied"] * 4, "RoundFinished"]
    assert kinds == once * 2
    assert StageStarted(2, "train", 4) in events
    finished = events[-1]
    assert isinstance(finished, RoundFinished)
    assert (finished.round, finished.accuracy_int8, finished.loss, finished.epsilon) == (2, 0.5, 0.2, None)


def test_bytes_of_devices_that_failed_do_not_dilute_the_mean() -> None:
    whole = run(ours(), 1, app=delta_app(), initial=WEIGHTS).records[1].bytes_up
    assert run(ours(), 1, app=failing(1, 2), initial=WEIGHTS).records[1].bytes_up == pytest.approx(whole, abs=4)


def failing(*partitions: int, rounds: Iterable[int] = range(100)) -> ClientApp:
    inner, app = delta_app(), ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = message.content["config"]["server-round"]
        if context.node_config["partition-id"] in partitions and number in rounds:
            raise RuntimeError("no battery")
        return inner(message, context)

    return app


def test_devices_that_fail_are_named_in_the_record() -> None:
    record = run(ours(), 1, app=failing(1), initial=WEIGHTS).records[1]
    assert (record.clients, record.survivors) == (4, 3)
    assert record.failures == ((1, "RuntimeError: no battery"),)


def test_a_round_below_the_quorum_is_recorded_and_changes_nothing() -> None:
    result = run(ours(), 3, app=failing(0, 1, 2, rounds=[2]), initial=WEIGHTS, quorum=2)
    whole = run(ours(), 3, app=delta_app(), initial=WEIGHTS, quorum=2)
    failed = result.records[2]
    assert (failed.survivors, len(failed.failures)) == (0, 3)
    assert "the quorum is 2" in str(failed.failed)
    assert result.records[3].failed is None
    assert values(result) != values(whole)
    assert values(run(ours(), 1, app=delta_app(), initial=WEIGHTS)) == values(
        run(ours(), 2, app=failing(0, 1, 2, rounds=[2]), initial=WEIGHTS, quorum=2)
    )


def test_too_many_failed_rounds_end_the_run_with_a_journal_of_them() -> None:
    journal = Journal()
    with pytest.raises(QuorumError):
        run(ours(), 9, app=failing(0, 1, 2, 3), initial=WEIGHTS, journal=journal, max_failed_rounds=2)
    assert [record.failed is not None for record in journal.records()] == [False, True, True]


def test_a_run_in_which_no_round_succeeded_fails() -> None:
    journal = Journal()
    with pytest.raises(NothingLearnedError, match=r"all 2 rounds failed.*quorum is 1.*begin a new run"):
        run(ours(), 2, app=failing(0, 1, 2, 3), initial=WEIGHTS, journal=journal)
    assert len(journal.records()) == 3
    with pytest.raises(RoundError, match="all 2 rounds failed"):  # also when it is looked at again
        run(ours(), 2, app=failing(0, 1, 2, 3), initial=WEIGHTS, journal=journal)
    assert run(ours(), 3, app=delta_app(), initial=WEIGHTS, journal=journal).records[3].failed is None
    assert len(run(ours(), 0, initial=WEIGHTS).records) == 1


def test_a_script_says_itself_that_its_round_failed() -> None:
    class Failed:
        def begin(self) -> Outcome:
            session = SessionRecord(0, 1, 4, 0, "threshold: too few")
            return Outcome(None, refused={3: "lied"}, sessions=(session,), failed=RoundError("why"))

        def proceed(self, replies: object) -> Outcome:
            raise AssertionError("there was no stage")

    journal = Journal()
    with pytest.raises(RoundError, match="why"):
        run(ours(), 4, script=lambda number, arrays: Failed(), journal=journal, initial=WEIGHTS, max_failed_rounds=2)
    assert len(journal.records()) == 3
    record = journal.records()[1]
    assert (record.failed, record.failures, record.sessions[0].aborted) == ("why", ((1, "lied"),), "threshold: too few")


def test_stages_are_timed_and_weighed() -> None:
    clock = ManualClock()

    def slow(message: Message, context: Context) -> Message:
        clock.advance(2.0)
        return failing(1)(message, context)

    grid = FleetGrid(InlineFleet(slow, 4))
    (stage,) = Coordinator(ours(), grid, Journal(), clock=clock).run(WEIGHTS, 1).records[1].stages
    assert (stage.name, stage.devices, stage.replies, stage.seconds) == ("train", 4, 3, 8.0)
    assert 4 * 15 < stage.bytes_up < 4 * 500
    assert 4 * 60 < stage.bytes_down < 4 * 600


class Brittle(FedAvg):
    """Raises while it aggregates the given round."""

    broken = 3

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        result = super().aggregate_train(server_round, replies)
        if server_round == self.broken:
            raise ZeroDivisionError("a bug in the strategy")
        return result


def test_a_strategy_that_raises_leaves_the_journal_at_the_last_good_round(tmp_path: Path) -> None:
    strategy = Brittle(layout=LAYOUT, ranges=relative_ranges(0.5))
    with Journal(tmp_path / "journal") as journal:
        with pytest.raises(ZeroDivisionError):
            run(strategy, 5, app=delta_app(), initial=WEIGHTS, journal=journal)
        assert [record.round for record in journal.records()] == [0, 1, 2]
    strategy.broken = -1
    with Journal(tmp_path / "journal") as journal:
        result = run(strategy, 5, app=delta_app(), initial=WEIGHTS, journal=journal)
    assert values(result) == values(run(ours(), 5, app=delta_app(), initial=WEIGHTS))


def test_an_evaluation_that_raises_does_so_too() -> None:
    def evaluate(number: int, arrays: ArrayRecord) -> Mapping[str, float]:
        if number == 2:
            raise RoundError("the model cannot be exported")
        return {}

    journal = Journal()
    with pytest.raises(RoundError, match="exported"):
        run(ours(), 5, app=delta_app(), initial=WEIGHTS, journal=journal, evaluate=evaluate)
    assert len(journal.records()) == 2


def momentum() -> Strategy:
    return flower.FedAdam(eta=0.1, min_train_nodes=4, min_available_nodes=4)


@pytest.mark.parametrize("name", ["fedadam", "fedavgm", "fedyogi", "dp", "ours"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, name: str) -> None:
    """Also the nodes' Contexts: `plain_app` counts its visits in one and reports them."""
    make: dict[str, Any] = {
        "fedadam": momentum,
        "fedyogi": flower.FedYogi,
        "fedavgm": lambda: flower.FedAvgM(server_momentum=0.9),
        "dp": lambda: flower.DifferentialPrivacyServerSideAdaptiveClipping(
            momentum(), 0.0, 4, clipped_count_stddev=0.0
        ),
        "ours": lambda: ours(fraction=0.5),
    }
    app = delta_app if name == "ours" else plain_app
    initial = WEIGHTS if name == "ours" else START
    whole = run(make[name](), 6, app=app(), initial=initial)
    path = tmp_path / "journal"
    for rounds in (2, 3, 3, 6):
        with Journal(path) as journal:
            parts = run(make[name](), rounds, app=app(), initial=initial, journal=journal)
    for mine, theirs in zip(parts.arrays.values(), whole.arrays.values(), strict=True):
        if name == "ours":
            assert mine.numpy().tobytes() == theirs.numpy().tobytes()
        else:  # Flower shuffles the order of float sums with Python's global generator
            assert mine.numpy() == pytest.approx(theirs.numpy(), rel=1e-5)
    assert [r.metrics.get("train.visits") for r in parts.records] == pytest.approx(
        [r.metrics.get("train.visits") for r in whole.records]
    )


def test_a_resumed_run_keeps_its_own_arrays_and_refuses_another_strategy() -> None:
    journal = Journal()
    run(momentum(), 2, journal=journal)
    other = ArrayRecord([np.full((3, 2), 99, np.float32), np.ones(4, np.float32)])
    result = run(momentum(), 2, journal=journal, initial=other)
    assert result.arrays != other
    with pytest.raises(ConfigError, match="FedAdam"):
        run(flower.FedYogi(), 3, journal=journal)


def test_configs_reach_the_devices_and_are_not_written_to() -> None:
    seen = list[Any]()
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append((message.content["config"]["lr"], message.content["config"]["server-round"]))
        return delta_app()(message, context)

    config = ConfigRecord({"lr": 0.5})
    run(ours(), 2, app=app, initial=WEIGHTS, train_config=config)
    assert seen == [(0.5, 1)] * 4 + [(0.5, 2)] * 4
    assert dict(config) == {"lr": 0.5}


def test_a_script_of_ones_own_runs_in_place_of_the_strategys() -> None:
    class Still:
        def begin(self) -> Outcome:
            return Outcome(ArrayRecord([np.float32([7])]), survivors=0)

        def proceed(self, replies: object) -> Outcome:
            raise AssertionError("there was no stage")

    result = run(ours(), 2, script=lambda number, arrays: Still())
    assert result.arrays == ArrayRecord([np.float32([7])])


def test_a_grid_that_leaves_out_messages_costs_the_round() -> None:
    class Forgetful(FleetGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            return super().push_messages(messages)[:-1]

    grid = Forgetful(InlineFleet(delta_app(), 4))
    with pytest.raises(RoundError, match="3 of 4 messages"):
        Coordinator(ours(), grid, Journal(), max_failed_rounds=1).run(WEIGHTS, 1)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a round: the round before is the last."""
    visits = [0]

    def app(message: Message, context: Context) -> Message:
        visits[0] += 1
        if visits[0] == 10:
            raise KeyboardInterrupt
        return delta_app()(message, context)

    path = tmp_path / "journal"
    with Journal(path) as journal:
        grid = FleetGrid(InlineFleet(app, 4))
        with pytest.raises(KeyboardInterrupt):
            Coordinator(ours(), grid, journal).run(WEIGHTS, 4)
        assert [record.round for record in journal.records()] == [0, 1, 2]
    with Journal(path) as journal:
        result = run(ours(), 4, app=delta_app(), initial=WEIGHTS, journal=journal)
    assert values(result) == values(run(ours(), 4, app=delta_app(), initial=WEIGHTS))


def test_the_deadline_is_held() -> None:
    clock = ManualClock()

    class Deaf(InlineFleet):
        """Node 3 never answers, and time passes when there is nothing else to do."""

        def submit(self, message: Message) -> None:
            if message.metadata.dst_node_id != 3:
                super().submit(message)

        def collect(self, timeout_s: float | None) -> list[Message]:
            found = super().collect(timeout_s)
            clock.advance(0.0 if found else 0.1)
            return found

    events = list[Event]()
    grid = FleetGrid(Deaf(delta_app(), 4), events=events.append, device_of=partition_of)
    coordinator = Coordinator(
        ours(), grid, Journal(), deadline_s=0.3, device_of=partition_of, events=events.append, clock=clock
    )
    record = coordinator.run(WEIGHTS, 1).records[1]
    assert record.survivors == 3
    assert record.failures == ((1, "no answer by the deadline"),)
    assert DeviceFailed(1, "train", 1, "no answer by the deadline") in events
    assert RoundStarted(1) in events
