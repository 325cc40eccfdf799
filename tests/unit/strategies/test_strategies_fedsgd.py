"""FedSGD with an average over its tail: against FedAvg, whose arrays are the iterates."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import heads
import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from secure_federation import Federation

from fedmesh import plugins
from fedmesh.client.assignment import Assignment
from fedmesh.client.identities import AGGREGATOR
from fedmesh.client.lite import LiteTrainer
from fedmesh.coordinator import Coordinator, Journal
from fedmesh.errors import ConfigError, QuorumError
from fedmesh.flower import FleetGrid, InlineFleet, adopt
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.quantization.codec import constant_ranges, relative_ranges
from fedmesh.types import Float32
from fedmesh_strategies.fedavg import FedAvg
from fedmesh_strategies.fedsgd import FedSgd, build
from fedmesh_strategies.secure import Secured

START = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
ROUNDS = 8


def rule(kind: type[FedAvg] = FedSgd, **options: Any) -> FedAvg:
    return kind(**{"layout": LAYOUT, "ranges": relative_ranges(0.5), **options})


def weights(arrays: ArrayRecord | None) -> Float32:
    assert arrays is not None
    found: Float32 = vector(arrays, "model", dtype="float32", max_bytes=4 * LAYOUT.size)
    return found


def grid(*nodes: int) -> Grid:
    adopt(7)
    return cast("Grid", SimpleNamespace(get_node_ids=lambda: list(nodes)))


def failing(rounds: Sequence[int]) -> Any:
    """Devices that all fail in these rounds."""
    app = delta_app()

    def answer(message: Message, context: Any) -> Message:
        if message.content["config"]["server-round"] in rounds:
            raise ConnectionError("lost")
        return app(message, context)

    return answer


def run(strategy: FedAvg, rounds: int, journal: Journal | None = None, app: Any = None) -> bytes:
    fleet = InlineFleet(app or delta_app(), 4)
    result = Coordinator(strategy, FleetGrid(fleet), journal or Journal()).run(START, rounds)
    return weights(result.arrays).tobytes()


def iterates(rounds: int = ROUNDS, **options: Any) -> list[Float32]:
    """The arrays of a plain run after each round: nothing of it depends on how long it will be."""
    app = options.pop("app", None)
    runs = (run(rule(FedAvg, **options), number, app=app) for number in range(1, rounds + 1))
    return [np.frombuffer(arrays, np.float32) for arrays in runs]


def mean(arrays: Sequence[Float32]) -> bytes:
    return np.mean(np.stack(arrays), axis=0, dtype=np.float64).astype(np.float32).tobytes()


@pytest.mark.parametrize("average_from", [1, 3, ROUNDS])
def test_the_result_is_the_mean_of_the_iterates_since_then(average_from: int) -> None:
    expected = iterates()
    assert run(rule(average_from=average_from), ROUNDS) == mean(expected[average_from - 1 :])


@pytest.mark.parametrize("average_from", [None, 0, ROUNDS + 1])
def test_without_averaging_it_is_fedavg(average_from: int | None) -> None:
    strategy = rule(average_from=average_from)
    assert run(strategy, ROUNDS) == iterates()[-1].tobytes()
    assert strategy.snapshot() == {}


def test_the_servers_learning_rate_is_that_of_fedavg() -> None:
    options = {"server_learning_rate": 0.5}
    assert run(rule(average_from=5, **options), ROUNDS) == mean(iterates(**options)[4:])


def test_the_devices_train_on_the_iterate() -> None:
    sent: list[bytes] = []
    app = delta_app()

    def answer(message: Message, context: Any) -> Message:
        sent.append(message.content["arrays"]["model"].numpy().tobytes())
        return app(message, context)

    run(rule(average_from=2), ROUNDS, app=answer)
    before = [weights(START), *iterates()[:-1]]
    assert sent == [array.tobytes() for array in before for _ in range(4)]


def test_a_run_in_parts_is_the_same_run(tmp_path: Path) -> None:
    for first, second in ((1, 2), (2, 5), (4, 7)):
        path = tmp_path / f"{first}"
        for rounds in (first, second, ROUNDS):
            with Journal(path) as journal:
                parts = run(rule(average_from=3), rounds, journal)
        assert parts == run(rule(average_from=3), ROUNDS)


@pytest.mark.parametrize("lost", [(1,), (3,), (4,), (2, 3), (5, 6), (8,)])
def test_a_failed_round_leaves_no_trace(tmp_path: Path, lost: tuple[int, ...]) -> None:
    reference = iterates(app=failing(lost)) if 1 not in lost else [weights(START), *_later(lost)]
    counted = [array for number, array in enumerate(reference, start=1) if number >= 3 and number not in lost]
    whole = run(rule(average_from=3), ROUNDS, app=failing(lost))
    assert whole == mean(counted)
    for rounds in range(1, ROUNDS + 1):  # interrupted after every single round
        if rounds >= 2 or 1 not in lost:
            with Journal(tmp_path / "journal") as journal:
                parts = run(rule(average_from=3), rounds, journal, failing(lost))
    assert parts == whole


def _later(lost: tuple[int, ...]) -> list[Float32]:
    """A run of nothing but failed rounds is an error, so the first is looked at with the second."""
    runs = [run(rule(FedAvg), number, app=failing(lost)) for number in range(2, ROUNDS + 1)]
    return [np.frombuffer(arrays, np.float32) for arrays in runs]


def configured(strategy: FedAvg, number: int, arrays: ArrayRecord) -> Float32:
    """What the devices of a round are sent."""
    (message,) = strategy.configure_train(number, arrays, ConfigRecord(), grid(2))
    return weights(message.content["arrays"])


def applied(strategy: FedAvg, value: float) -> ArrayRecord:
    return strategy.apply_sum(np.full(LAYOUT.size, value, np.float32), 1)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_round_that_fails_after_its_sum_leaves_no_trace(interrupted: bool) -> None:
    strategy = rule(average_from=1, codec="float32")
    start = weights(START)
    configured(strategy, 1, START)
    applied(strategy, 5.0)  # and then the round is lost
    np.testing.assert_array_equal(configured(strategy, 2, START), start)
    first = applied(strategy, 1.0)
    np.testing.assert_array_equal(weights(first), start + 1)
    np.testing.assert_array_equal(configured(strategy, 3, first), start + 1)
    applied(strategy, 7.0)  # lost too
    if interrupted:
        state, strategy = strategy.snapshot(), rule(average_from=1, codec="float32")
        strategy.restore(state)
    np.testing.assert_array_equal(configured(strategy, 4, first), start + 1)
    second = applied(strategy, 2.0)
    np.testing.assert_array_equal(weights(second), ((start + 1) + (start + 1 + 2)) / 2)
    np.testing.assert_array_equal(configured(strategy, 5, second), start + 1 + 2)
    again = applied(strategy, 2.0), applied(strategy, 2.0)
    assert weights(again[0]).tobytes() == weights(again[1]).tobytes()


def test_a_round_that_finds_no_devices_leaves_no_trace() -> None:
    strategy = rule(average_from=1, codec="float32", patience_s=0.0)
    configured(strategy, 1, START)
    first = applied(strategy, 1.0)
    with pytest.raises(QuorumError):
        strategy.configure_train(2, first, ConfigRecord(), grid())
    np.testing.assert_array_equal(configured(strategy, 3, first), weights(START) + 1)
    np.testing.assert_allclose(weights(applied(strategy, 1.0)), weights(START) + np.float32(1.5), atol=1e-6)


def test_arrays_of_another_origin_are_a_new_start() -> None:
    strategy = rule(average_from=1, codec="float32")
    configured(strategy, 1, START)
    applied(strategy, 1.0)
    other = vector_record("model", np.full(LAYOUT.size, 9, np.float32))
    np.testing.assert_array_equal(configured(strategy, 1, other), weights(other))
    np.testing.assert_array_equal(weights(applied(strategy, 1.0)), 10)


class Momentum(FedSgd):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.velocity = np.zeros(self.layout.size, np.float32)

    def move(self, weights: Float32, delta: Float32) -> Float32:
        self.velocity = 0.5 * self.velocity + delta
        return weights + self.velocity


def test_a_rule_with_a_step_of_its_own_is_averaged_as_well() -> None:
    runs = [run(rule(Momentum), number) for number in range(1, ROUNDS + 1)]
    assert run(rule(Momentum, average_from=4), ROUNDS) == mean([np.frombuffer(a, np.float32) for a in runs[3:]])


def test_under_secure_aggregation_it_is_the_same_run(tmp_path: Path) -> None:
    expected = run_of(5, rule(average_from=2))
    federation = Federation(tmp_path / "coordinator", 5)
    federation.folder.mkdir()
    strategy = rule(average_from=2)
    over = FleetGrid(InlineFleet(federation.app(), 5))
    result = Coordinator(strategy, over, Journal(), script=script(federation, strategy, over)).run(START, 4)
    assert weights(result.arrays).tobytes() == expected
    other = Federation(tmp_path / "loop", 5)
    other.folder.mkdir()
    secured = Secured(
        rule(average_from=2), identity=other.identities[AGGREGATOR], roster=other.roster, settings=other.settings()
    )
    loop = secured.start(FleetGrid(InlineFleet(other.app(), 5)), START, num_rounds=4)
    assert weights(loop.arrays).tobytes() == expected
    assert set(secured.snapshot()) == {"strategy"}


def run_of(devices: int, strategy: FedAvg) -> bytes:
    return weights(strategy.start(FleetGrid(InlineFleet(delta_app(), devices)), START, num_rounds=4).arrays).tobytes()


def script(federation: Federation, strategy: FedAvg, over: FleetGrid) -> Any:
    secure = federation.secured(strategy)
    return lambda number, arrays: secure.script(number, arrays, over)


def test_a_private_sum_moves_the_iterate_by_the_clipped_mean_gradient() -> None:
    """Three devices, four rounds; devices and server derive the rotation from the same weights, the iterate."""
    task = heads.summed_task("example")
    assert task.summed is not None
    trainer = LiteTrainer(task)
    strategy = FedSgd(
        layout=trainer.layout, ranges=constant_ranges(np.float32([0.3])), average_from=2, summed=task.summed
    )
    arrays, iterates = vector_record("model", heads.start()), []
    for number in itertools.count(1):
        (message,) = strategy.configure_train(number, arrays, ConfigRecord(), grid(2))
        sent = vector(message.content["arrays"], "model", dtype="float32", max_bytes=4 * heads.SIZE)
        iterates.append(sent)
        if number > 4:
            break
        scales = message.content["config"]["delta-ranges"]
        parts = [
            trainer.train(Assignment(number, d, sent, scales), heads.examples(d), ledger=heads.Recorder()).values
            for d in range(3)
        ]
        if number == 3:  # an interruption: the round is configured again
            strategy.restore(strategy.snapshot())
            strategy.configure_train(number, arrays, ConfigRecord(), grid(2))
        arrays = strategy.apply_sum(np.sum(parts, axis=0), 3)
    got = vector(arrays, "model", dtype="float32", max_bytes=4 * heads.SIZE)
    want = np.mean(np.stack(iterates[2:]), axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(got, want)
    assert set(strategy.snapshot()) >= {"clip", "before"}
    noise = task.summed.step * task.summed.clip * task.summed.noise_multiplier / (3 * 9.0)
    moved = iterates[-1] - iterates[0]
    assert 0.5 * noise < moved.std() < 10 * noise  # with another rotation it would be off by the whole sum


@pytest.mark.parametrize("value", [-1, 2.0, True, "3"])
def test_impossible_settings_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="average_from"):
        rule(average_from=value)


def test_a_state_of_another_model_is_refused() -> None:
    strategy = rule(average_from=1, codec="float32")
    configured(strategy, 1, START)
    applied(strategy, 1.0)
    state = strategy.snapshot()
    state["after"] = {**state["after"], "iterate": np.zeros(3, np.float32)}
    with pytest.raises(ConfigError, match="of another run"):
        rule().restore(state)
    with pytest.raises(ConfigError, match="momentum"):
        rule().restore({"momentum": 1})
    for foreign in (3, {"iterates": []}):
        with pytest.raises(ConfigError, match="not one of FedSgd's"):
            rule().restore({"after": foreign})


def test_it_is_found_by_its_entry_point_and_refuses_unknown_settings() -> None:
    assert plugins.load(plugins.STRATEGIES, "fedsgd") is build
    assert build(layout=LAYOUT, ranges=relative_ranges(0.5), average_from=3).needs == "sum"
    with pytest.raises(ConfigError, match="'fedsgd' does not take"):
        build(layout=LAYOUT, ranges=relative_ranges(0.5), momentum=0.5)


def test_single_packets_are_averaged_as_sums_are() -> None:
    """Without secure aggregation, in float32."""
    result = run(rule(average_from=3, codec="float32"), 4, app=delta_app(None))
    runs = [run(rule(FedAvg, codec="float32"), number, app=delta_app(None)) for number in (3, 4)]
    assert result == mean([np.frombuffer(arrays, np.float32) for arrays in runs])
