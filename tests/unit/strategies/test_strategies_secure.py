"""Secure aggregation around a strategy, in Flower's own loop over our grid."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Result
from secure_federation import Federation, fedavg, loses

from fedmesh.client.identities import AGGREGATOR
from fedmesh.coordinator import Coordinator, Journal
from fedmesh.errors import ConfigError, QuorumError, RoundError
from fedmesh.flower import FleetGrid, InlineFleet, quiet_flower, run_simulation
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.secure import STEPS
from fedmesh_strategies.secure import Secured

WEIGHTS = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
THREE = ["train", "sign", "unmask"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterable[None]:
    with quiet_flower():
        yield


def secured(federation: Federation, **options: Any) -> Secured:
    strategy = options.pop("strategy", None) or fedavg()
    limit = options.pop("max_failed_rounds", 3)
    return Secured(
        strategy,
        identity=federation.identities[AGGREGATOR],
        roster=federation.roster,
        settings=federation.settings(**options),
        max_failed_rounds=limit,
    )


def start(strategy: Any, app: Any, devices: int, rounds: int) -> Result:
    """The result of `Strategy.start` in a ServerApp, under our simulation."""
    server, results = ServerApp(), list[Result]()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        results.append(strategy.start(grid=grid, initial_arrays=WEIGHTS, num_rounds=rounds))

    run_simulation(server, app, devices)
    return results[0]


def steps(federation: Federation, number: int) -> list[str]:
    """What the devices were asked for in a round, in order."""
    return list(dict.fromkeys(step for at, _, step, _ in federation.seen if at == number and step))


def test_flowers_loop_gives_the_plain_sum_and_sees_nothing_else(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5, reported=("examples", "loss"))
    strategy = secured(federation)
    result = start(strategy, federation.client_app(), 5, 3)
    expected = start(fedavg(), delta_app(), 5, 3)
    assert result.arrays == expected.arrays
    assert result.train_metrics_clientapp[3] == MetricRecord(
        {"survivors": 5, "weight": 5, "examples": 3.0, "loss": 0.25}
    )
    assert result.evaluate_metrics_clientapp == {}
    assert steps(federation, 1) == ["hello", *STEPS]
    assert steps(federation, 2) == steps(federation, 3) == THREE
    assert [(s.devices, s.survivors, s.attempt) for s in strategy.sessions] == [(5, 5, 1)]


@pytest.mark.parametrize("step", STEPS)
def test_devices_may_go_at_any_step(tmp_path: Path, step: str) -> None:
    federation = Federation(tmp_path, 7, trouble=loses((1, step), (4, step)))
    result = start(secured(federation), federation.client_app(), 7, 2)
    survivors = 7 if step in {"sign", "unmask"} else 5
    assert result.train_metrics_clientapp[1]["survivors"] == survivors
    assert result.train_metrics_clientapp[2]["survivors"] == survivors


@pytest.mark.parametrize("step", ["share", "train"])
def test_a_round_that_loses_too_many_begins_again(tmp_path: Path, step: str) -> None:
    federation = Federation(tmp_path, 12, trouble=loses(*[(device, step) for device in range(5)]))
    strategy = secured(federation)
    result = start(strategy, federation.client_app(), 12, 1)
    assert result.train_metrics_clientapp[1]["survivors"] == 7
    assert [s.attempt for s in strategy.sessions] == [1, 2]


def test_a_round_that_fails_changes_nothing_and_the_next_goes_on(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5, trouble=loses(*[(d, "sign") for d in range(3)], rounds=[1]))
    strategy = secured(federation)
    result = start(strategy, federation.client_app(), 5, 3)
    assert list(strategy.failures) == [1]
    assert sorted(result.train_metrics_clientapp) == [2, 3]


def test_a_run_without_a_good_round_fails(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5, trouble=loses(*[(d, "sign") for d in range(3)]))
    with pytest.raises(RoundError, match="all 2 rounds failed: 2 of 5 devices are left"):
        start(secured(federation), federation.client_app(), 5, 2)


def test_too_many_failed_rounds_in_a_row_end_the_run(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5, trouble=loses(*[(d, "sign") for d in range(3)], rounds=[2, 3]))
    strategy = secured(federation, max_failed_rounds=2)
    with pytest.raises(RoundError, match="2 of 5"):
        start(strategy, federation.client_app(), 5, 9)
    assert list(strategy.failures) == [2, 3]


def test_too_few_devices_cost_the_round_before_it_begins(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 3)
    with pytest.raises(RoundError, match="3 devices are left"):
        start(secured(federation), federation.client_app(), 3, 1)
    waiting = fedavg(min_available=9, patience_s=0.0)
    with pytest.raises(QuorumError, match="3 nodes were there"):
        start(secured(federation, strategy=waiting, max_failed_rounds=1), federation.client_app(), 3, 1)


def test_replies_of_others_and_repeated_ones_are_not_heard(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 5)
    grid = FleetGrid(InlineFleet(federation.client_app(), 5))
    strategy = secured(federation, rounds=1)
    messages = list(strategy.configure_train(1, WEIGHTS, ConfigRecord(), grid))
    replies = list(grid.send_and_receive(messages))
    arrays, metrics = strategy.aggregate_train(1, [*replies, *replies])
    assert arrays == start(fedavg(), delta_app(), 5, 1).arrays
    assert metrics is not None
    assert metrics["survivors"] == 5
    with pytest.raises(RoundError, match="before it was configured"):
        strategy.aggregate_train(1, replies)


class Reluctant(FleetGrid):
    """Brings no reply from node 3 at a step."""

    step = "share"

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent: Sequence[Message] = list(messages)
        quiet = any(m.content.config_records.get("secagg", {}).get("step") == self.step for m in sent)
        replies = super().send_and_receive(sent, timeout=timeout)
        return [r for r in replies if not (quiet and r.metadata.src_node_id == 3)]


def test_a_device_that_is_silent_is_left_out(tmp_path: Path) -> None:
    federation = Federation(tmp_path, 6)
    grid = Reluctant(InlineFleet(federation.client_app(), 6))
    result = secured(federation).start(grid, WEIGHTS, num_rounds=1, timeout=240.0)
    assert result.train_metrics_clientapp[1]["survivors"] == 5


def test_nobody_is_asked_for_figures_in_the_clear(tmp_path: Path) -> None:
    strategy = secured(Federation(tmp_path, 4))
    grid = FleetGrid(InlineFleet(delta_app(), 4))
    assert list(strategy.configure_evaluate(1, WEIGHTS, ConfigRecord(), grid)) == []
    assert strategy.aggregate_evaluate(1, []) is None
    strategy.summary()


def test_a_rule_that_looks_at_single_updates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs = 'sum'"):
        secured(Federation(tmp_path, 4), strategy=flower.Krum())


class Counting(type(fedavg())):  # type: ignore[misc]
    """Has a state."""

    steps = 0

    def apply_sum(self, total: Any, weight: int) -> ArrayRecord:
        self.steps += 1
        return super().apply_sum(total, weight)

    def snapshot(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def restore(self, state: Any) -> None:
        super().restore({})
        self.steps = state["steps"]


def test_the_coordinator_runs_and_resumes_it_like_any_strategy(tmp_path: Path) -> None:
    federation, path, parts = Federation(tmp_path, 4), tmp_path / "journal", []
    for rounds in (1, 3):
        inner = fedavg()
        inner.__class__ = Counting
        with Journal(path) as journal:
            grid = FleetGrid(InlineFleet(federation.client_app(), 4))
            parts.append(Coordinator(secured(federation, strategy=inner), grid, journal).run(WEIGHTS, rounds))
    assert inner.steps == 3
    assert parts[-1].arrays == start(fedavg(), delta_app(), 4, 3).arrays
