"""Lite devices get the backbone of the weights that are sent, all get its digest, the strategy notices nothing."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_apps import LAYOUT, delta_app
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import strategy as flower

from fedmesh.coordinator import Coordinator, Journal
from fedmesh.coordinator.instructions import Instructions, check_sums
from fedmesh.coordinator.snapshot import restore, snapshot
from fedmesh.coordinator.tiers import Tiered
from fedmesh.errors import ConfigError
from fedmesh.flower import FleetGrid, InlineFleet, partition_of
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.flower.backbone import BACKBONE, DIGEST, backbone_in
from fedmesh.flower.secure import model_hash, scale_hash
from fedmesh.quantization.codec import relative_ranges
from fedmesh_strategies.fedavg import FedAvg

LITE = {1, 2}
START = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))


def backbone_of(arrays: ArrayRecord) -> bytes:
    return b"backbone of " + vector(arrays, "model", dtype="float32", max_bytes=1000).tobytes()


def is_lite(node_id: int) -> bool:
    return partition_of(node_id) in LITE


def fedavg(**options: Any) -> FedAvg:
    return FedAvg(layout=LAYOUT, ranges=relative_ranges(0.5), **options)


def tiered(strategy: Any = None) -> Tiered:
    return Tiered(strategy or fedavg(), is_lite=is_lite, backbone_of=backbone_of)


def configured(strategy: Any, arrays: ArrayRecord = START, nodes: int = 4) -> list[Message]:
    grid = FleetGrid(InlineFleet(delta_app(), nodes))
    return list(strategy.configure_train(1, arrays, ConfigRecord(), grid))


def test_lite_devices_alone_get_the_backbone_and_all_its_digest() -> None:
    messages, data = configured(tiered()), backbone_of(START)
    assert [BACKBONE in message.content for message in messages] == [False, True, True, False]
    for message, plain in zip(messages, configured(fedavg()), strict=True):
        assert message.content["config"][DIGEST] == hashlib.sha256(data).digest()
        rest = {key: value for key, value in message.content["config"].items() if key != DIGEST}
        assert rest == dict(plain.content["config"])
        assert message.content["arrays"] == plain.content["arrays"]
        same = ("dst_node_id", "message_type", "group_id", "ttl")
        assert all(getattr(message.metadata, key) == getattr(plain.metadata, key) for key in same)
    assert backbone_in(messages[1].content, max_bytes=1000) == data


def test_without_a_lite_device_nothing_is_made() -> None:
    def fail(_: ArrayRecord) -> bytes:
        raise AssertionError

    strategy = Tiered(fedavg(), is_lite=lambda _: False, backbone_of=fail)
    for message, plain in zip(configured(strategy), configured(fedavg()), strict=True):
        assert message.content == plain.content


def test_secure_aggregation_binds_the_digest_with_the_model() -> None:
    found = Instructions(configured(tiered()), LAYOUT).belongs
    weights = vector(START, "model", dtype="float32", max_bytes=1000)
    ranges = configured(tiered())[0].content["config"]["delta-ranges"]
    assert found == (model_hash(weights, hashlib.sha256(backbone_of(START)).digest()), scale_hash(ranges))
    assert found != Instructions(configured(fedavg()), LAYOUT).belongs


def test_it_is_the_strategy_to_whoever_asks() -> None:
    strategy = tiered(fedavg(fraction=0.5, quorum=2, seed=3))
    check_sums(strategy)
    assert strategy.drawn(4, [2, 3, 4, 5]) == fedavg(fraction=0.5, quorum=2, seed=3).drawn(4, [2, 3, 4, 5])
    assert (strategy.needs, strategy.quorum, strategy.layout) == ("sum", 2, LAYOUT)
    with pytest.raises(AttributeError):
        strategy.nothing_like_it  # noqa: B018


def test_a_run_is_the_strategys_and_can_be_resumed(tmp_path: Path) -> None:
    def run(strategy: Any, rounds: int, path: Path) -> list[bytes]:
        with Journal(path) as journal:
            grid = FleetGrid(InlineFleet(delta_app(), 4))
            result = Coordinator(strategy, grid, journal).run(START, rounds)
            assert not result.records[-1].failures
            return [array.numpy().tobytes() for array in result.arrays.values()]

    want = run(fedavg(), 3, tmp_path / "plain.sqlite3")
    run(tiered(), 1, tmp_path / "tiered.sqlite3")
    assert run(tiered(), 3, tmp_path / "tiered.sqlite3") == want


@pytest.mark.parametrize("make", [fedavg, flower.FedAdam], ids=["says its state", "does not"])
def test_the_state_is_the_strategys(make: Any) -> None:
    strategy = tiered(make())
    if isinstance(strategy._strategy, flower.FedAdam):
        strategy._strategy.m_t = {"x": np.ones(3)}
    other = tiered(make())
    restore(other, snapshot(strategy))
    assert snapshot(other) == snapshot(strategy)


class Two(FedAvg):
    """Sends every device a model of its own."""

    def configure_train(self, *arguments: Any) -> Iterable[Message]:
        for message in super().configure_train(*arguments):
            own = vector_record("model", np.full(LAYOUT.size, message.metadata.dst_node_id, np.float32))
            content = RecordDict({**dict(message.content.items()), "arrays": own})
            yield Message(content, message.metadata.dst_node_id, "train")


class Bare(FedAvg):
    """Sends no config."""

    def configure_train(self, *arguments: Any) -> Iterable[Message]:
        for message in super().configure_train(*arguments):
            yield Message(RecordDict({"arrays": message.content["arrays"]}), message.metadata.dst_node_id, "train")


@pytest.mark.parametrize(("kind", "said"), [(Two, "different models"), (Bare, "holds 'arrays' and 'config'")])
def test_a_strategy_that_it_cannot_be_around_is_refused(kind: type[FedAvg], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(tiered(kind(layout=LAYOUT, ranges=relative_ranges(0.5))))
