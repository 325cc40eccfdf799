from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg

from fedmesh import wire
from fedmesh.coordinator.snapshot import restore, snapshot
from fedmesh.errors import ConfigError


class Rich(FedAvg):
    """Every kind of state a strategy may keep."""

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        self.rng = rng or np.random.default_rng()
        self.state: Any = None


class Own(FedAvg):
    """Knows its own state, which holds what could not be read from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = object()
        self.seen = 0

    def snapshot(self) -> Mapping[str, Any]:
        return {"seen": self.seen, "order": {"b": 1, "a": 2}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]
        assert list(state["order"]) == ["b", "a"]


VALUES: list[Any] = [
    None,
    True,
    -5,
    2**70,
    0.1,
    float("inf"),
    "é",
    b"\0\xff",
    [1, [2.0, "x"]],
    (1, (2, 3)),
    {"b": 1, "a": {3: (4,)}, (1, 2): []},
    {3, 1, 2},
    np.float32([1.5, np.inf]),
    np.zeros((0, 3), np.int64),
    np.array([True, False]),
    [np.ones(3), np.uint8([1])],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_state_survives_with_its_types_and_order(value: Any) -> None:
    before, after = Rich(), Rich()
    before.state = value
    restore(after, snapshot(before))
    assert repr(after.state) == repr(value)
    assert type(after.state) is type(value)


@pytest.mark.parametrize("value", [np.float32(0.1), np.int16(-3), np.float64(0.1)])
def test_numpy_scalars_keep_their_type(value: Any) -> None:
    before, after = Rich(), Rich()
    before.state = value
    restore(after, snapshot(before))
    assert after.state == value
    assert after.state.dtype == value.dtype


def test_flower_records_survive() -> None:
    before, after = Rich(), Rich()
    before.state = {
        "arrays": ArrayRecord({"z": Array(np.ones(2)), "a": Array(np.zeros(1))}),
        "config": ConfigRecord({"x": 1}),
    }
    restore(after, snapshot(before))
    assert after.state == before.state
    assert list(after.state["arrays"]) == ["z", "a"]


def test_a_generator_goes_on_where_it_was() -> None:
    before, after = Rich(np.random.default_rng(5)), Rich()
    before.rng.normal(size=7)
    state = snapshot(before)
    expected = before.rng.normal(size=3)
    restore(after, state)
    assert after.rng.normal(size=3).tolist() == expected.tolist()


def test_fedadam_keeps_its_moments_inside_a_wrapper() -> None:
    def strategy() -> DifferentialPrivacyServerSideFixedClipping:
        return DifferentialPrivacyServerSideFixedClipping(FedAdam(), 0.0, 1.0, 2)

    before, after = strategy(), strategy()
    before.strategy.m_t = {"w": np.float32([1, 2])}
    restore(after, snapshot(before))
    assert after.strategy.m_t["w"].tolist() == [1, 2]
    assert after.strategy.train_metrics_aggr_fn is not None


def test_a_strategy_that_knows_its_state_is_asked() -> None:
    before, after = Own(), Own()
    before.seen = 7
    restore(after, snapshot(before))
    assert after.seen == 7


def test_what_cannot_be_journaled_is_named() -> None:
    strategy = Rich()
    strategy.state = {"model": [object()]}
    with pytest.raises(ConfigError, match=r"Rich\.state\['model'\]\[0\] is a object.*snapshot\(\) and restore"):
        snapshot(strategy)


def test_the_state_of_another_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match="FedAdam"):
        restore(FedAvg(), snapshot(FedAdam()))
    with pytest.raises(ConfigError, match="Own"):
        restore(FedAvg(), snapshot(Own()))


@pytest.mark.parametrize("state", [b"", b"\xff\xff", wire.dumps({}), wire.dumps({"class": "FedAvg", "attributes": 5})])
def test_a_damaged_state_is_refused(state: bytes) -> None:
    with pytest.raises(ConfigError):
        restore(FedAvg(), state)


@pytest.mark.parametrize("name", ["seed", "get_printoptions", "ndarray"])
def test_a_state_names_no_other_callable_of_numpy_than_a_generator(name: str) -> None:
    generator = {"t": "generator", "v": {"t": "dict", "v": [["bit_generator", name]]}}
    state = wire.dumps({"class": "Rich", "attributes": [["rng", generator]]})
    with pytest.raises(ConfigError, match=f"{name}.*not one of numpy's generators|no attribute '{name}'"):
        restore(Rich(), state)


def test_equal_strategies_have_equal_snapshots() -> None:
    assert snapshot(FedAdam()) == snapshot(FedAdam())
