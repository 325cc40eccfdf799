"""Unmodified Flower apps over our grid, on every fleet: Flower's own strategies, wrappers and legacy clients."""

import socket
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flower_apps import plain_app
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Result, Strategy

from fedmesh.errors import ConfigError
from fedmesh.events import DeviceReplied, Event
from fedmesh.flower import Fleet, FleetGrid, InlineFleet, quiet_flower, run_simulation
from fedmesh.simulation.engine import WorkerFleet

NODES = 6

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "fedavg": flower.FedAvg,
    "fedavgm": lambda: flower.FedAvgM(server_momentum=0.5),
    "fedadam": flower.FedAdam,
    "fedadagrad": flower.FedAdagrad,
    "fedyogi": flower.FedYogi,
    "fedmedian": flower.FedMedian,
    "fedprox": lambda: flower.FedProx(proximal_mu=0.1),
    "fedtrimmedavg": lambda: flower.FedTrimmedAvg(beta=0.2),
    "krum": lambda: flower.Krum(num_malicious_nodes=1),
    "multikrum": lambda: flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2),
    "bulyan": lambda: flower.Bulyan(num_malicious_nodes=0),
    "qfedavg": lambda: flower.QFedAvg(client_learning_rate=0.1, train_loss_key="train_loss"),
    "dp-server-fixed": lambda: flower.DifferentialPrivacyServerSideFixedClipping(flower.FedAvg(), 0.0, 10.0, NODES),
    "dp-server-adaptive": lambda: flower.DifferentialPrivacyServerSideAdaptiveClipping(flower.FedAvg(), 0.5, NODES),
}


def served(strategy: Strategy, rounds: int = 2) -> tuple[ServerApp, list[Result]]:
    """A ServerApp around `Strategy.start`, and where its result goes."""
    app, results = ServerApp(), list[Result]()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        start = ArrayRecord([np.zeros((3, 2), np.float32), np.ones(4, np.float32)])
        results.append(strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds))

    return app, results


@pytest.mark.parametrize("name", STRATEGIES)
def test_flowers_strategies_run_unmodified(name: str) -> None:
    app, results = served(STRATEGIES[name]())
    with quiet_flower():
        run_simulation(app, plain_app(), NODES)
    (result,) = results
    assert sorted(result.evaluate_metrics_clientapp) == [1, 2]
    values = [array.numpy() for array in result.arrays.values()]
    assert [v.shape for v in values] == [(3, 2), (4,)]
    assert all(np.isfinite(v).all() for v in values)
    assert any((v != 0).any() for v in values)


def test_fedavg_computes_the_weighted_mean_on_every_fleet() -> None:
    means = []
    for fleet in (None, WorkerFleet(plain_app(), NODES, workers=2)):
        app, results = served(flower.FedAvg(), rounds=3)
        with quiet_flower():
            run_simulation(app, plain_app(), NODES, fleet=fleet)
        means.append(next(iter(results[0].arrays.values())).numpy())
        assert results[0].train_metrics_clientapp[3]["visits"] == pytest.approx(3.0)
        if fleet is not None:
            fleet.close()
    weights = np.arange(1, NODES + 1)
    assert means[0] == pytest.approx(np.full((3, 2), 3 * (weights * weights).sum() / weights.sum()))
    # Replies arrive in another order from worker processes, and Flower sums floats in the order of arrival.
    assert means[1] == pytest.approx(means[0], rel=1e-6)


def test_client_side_clipping_with_a_mod_runs() -> None:
    app, results = served(flower.DifferentialPrivacyClientSideFixedClipping(flower.FedAvg(), 0.0, 0.5, NODES))
    client = ClientApp()
    inner = plain_app()

    @client.train(mods=[fixedclipping_mod])
    def train(message: Message, context: Context) -> Message:
        return inner(message, context)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return inner(message, context)

    with quiet_flower():
        run_simulation(app, client, NODES)
    after = np.concatenate([array.numpy().ravel() for array in results[0].arrays.values()])
    moved = np.linalg.norm(after - np.float32([0] * 6 + [1] * 4))
    assert moved == pytest.approx(2 * 0.5, rel=0.01)  # two rounds of updates of norm 0.5, all in one direction


def test_legacy_numpy_clients_and_server_functions_run() -> None:
    from flwr.client import NumPyClient
    from flwr.server import ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg

    losses = []

    class Client(NumPyClient):
        def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
            return [p + 1 for p in parameters], 2, {}

        def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> tuple[float, int, dict[str, Any]]:
            losses.append(float(parameters[0].mean()))
            return 0.5, 2, {}

        def get_parameters(self, config: dict[str, Any]) -> list[Any]:
            return [np.zeros(4, np.float32)]

    def server_fn(context: Context) -> ServerAppComponents:
        return ServerAppComponents(strategy=FedAvg(), config=ServerConfig(num_rounds=2))

    with quiet_flower():
        run_simulation(ServerApp(server_fn=server_fn), ClientApp(lambda context: Client().to_client()), 3)
    assert losses == [1.0] * 3 + [2.0] * 3


def test_a_node_that_fails_costs_its_reply_only() -> None:
    inner, client, events = plain_app(), ClientApp(), list[Event]()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 2:
            raise RuntimeError("no battery")
        return inner(message, context)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return inner(message, context)

    app, results = served(flower.FedAvg(), rounds=1)
    with quiet_flower():
        run_simulation(app, client, 3, events=events.append)
    weights = np.array([1, 2])
    assert next(iter(results[0].arrays.values())).numpy().mean() == pytest.approx((weights**2).sum() / weights.sum())
    assert sum(isinstance(e, DeviceReplied) for e in events) == 2 + 3


def test_what_the_server_app_raises_is_raised() -> None:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_simulation(app, plain_app(), 2)


def test_the_server_app_gets_its_run_config() -> None:
    app, seen = ServerApp(), list[Any]()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        seen.extend([context.run_config["lr"], context.run_id == grid.run.run_id, isinstance(grid, FleetGrid)])

    run_simulation(app, plain_app(), 2, run_config={"lr": 0.5})
    assert seen == [0.5, True, True]


def test_no_network_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a simulation opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("flwr.supercore.telemetry.create_event", refuse)
    monkeypatch.setattr("flwr.supercore.telemetry.event", refuse)
    app, results = served(flower.FedAvg(), rounds=1)
    with quiet_flower():
        run_simulation(app, plain_app(), 2)
    assert results


def test_backends_of_flower_are_named_as_having_no_effect() -> None:
    app, results = served(flower.FedAvg(), rounds=1)
    with quiet_flower(), pytest.warns(UserWarning, match="no Ray backend"):
        run_simulation(app, plain_app(), 2, backend_name="ray", backend_config={"client_resources": {"num_cpus": 2}})
    assert results
    with quiet_flower(), warnings.catch_warnings():
        warnings.simplefilter("error")
        run_simulation(server_app=app, client_app=plain_app(), num_supernodes=2)


def test_an_impossible_number_of_nodes_is_refused() -> None:
    app, _ = served(flower.FedAvg())
    with pytest.raises(ConfigError, match="at least one"):
        run_simulation(app, plain_app(), 0)
    fleet: Fleet = InlineFleet(plain_app(), 3)
    with pytest.raises(ConfigError, match="the fleet has 3"):
        run_simulation(app, plain_app(), 2, fleet=fleet)


def test_flower_is_quiet_only_inside_the_block(capfd: pytest.CaptureFixture[str]) -> None:
    from flwr.common.logger import FLOWER_LOGGER

    before = (FLOWER_LOGGER.level, [handler.level for handler in FLOWER_LOGGER.handlers])
    app, _ = served(flower.FedAvg(), rounds=1)
    with quiet_flower():
        run_simulation(app, plain_app(), 2)
        assert capfd.readouterr() == ("", "")
    assert (FLOWER_LOGGER.level, [handler.level for handler in FLOWER_LOGGER.handlers]) == before
