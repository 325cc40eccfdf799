"""The Flower side of the client apps: what is in a reply, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import training
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedmesh.client.assignment import Assignment
from fedmesh.client.home import SimulatedHomes
from fedmesh.client.trainer import Trainer
from fedmesh.errors import ConfigError, DecodeError, FedMeshError
from fedmesh.flower import InlineFleet
from fedmesh.flower.identity import node_id_of
from fedmesh.types import Examples
from fedmesh_clients import vision, wearable
from fedmesh_clients.training import TrainingApp


def make(**changes: object) -> TrainingApp:
    return vision.build(training.task(**changes), training.examples, homes=SimulatedHomes())


def context(device: int) -> Context:
    return Context(1, node_id_of(device), {"partition-id": device, "num-partitions": 4}, RecordDict(), {})


def message(device: int = 0, number: int = 1) -> Message:
    return training.train_message(node_id_of(device), training.start(), number=number)


def test_a_reply_holds_the_packet_and_nothing_else() -> None:
    reply = make()(message(1), context(1))
    want = Trainer.of(training.task()).train(Assignment(1, 1, training.start()), training.examples(1)).packet
    assert training.packet_of(reply) == want
    assert list(reply.content) == ["update"]


def test_the_example_count_leaves_only_where_the_task_weights_by_it() -> None:
    reply = make(weighting="examples")(message(), context(0))
    assert dict(reply.content["metrics"]) == {"num-examples": 11}


def test_there_is_no_way_to_ask_for_metrics() -> None:
    asked = message()
    asked.metadata.__dict__["_message_type"] = "evaluate"
    with pytest.raises(ValueError, match="No evaluate function"):
        make()(asked, context(0))


def test_error_feedback_lives_in_the_context() -> None:
    app = vision.build(training.int8_task(error_feedback=True), training.examples, homes=SimulatedHomes())
    where = context(0)
    app(message(number=1), where)
    residual = where.state["fedmesh.residual"]["residual"].numpy()
    app(message(number=2), where)
    assert np.abs(residual).max() > 0
    assert not np.array_equal(where.state["fedmesh.residual"]["residual"].numpy(), residual)


def test_a_cohort_sends_what_each_would_send_alone() -> None:
    app = make()
    contents = app.train_cohort([message(d) for d in range(3)], [context(d) for d in range(3)])
    for device, content in enumerate(contents):
        assert isinstance(content, RecordDict)
        alone = training.packet_of(app(message(device), context(device)))
        together = content["update"]["delta"].numpy().tobytes()
        a, b = (np.frombuffer(packet[32:], np.float32) for packet in (alone, together))
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_one_bad_member_of_a_cohort_does_not_harm_the_others() -> None:
    bad = training.train_message(node_id_of(1), np.zeros(3, np.float32))
    contents = make().train_cohort([message(0), bad, message(2)], [context(d) for d in range(3)])
    assert [type(content) for content in contents] == [RecordDict, DecodeError, RecordDict]


def test_private_devices_are_never_trained_as_a_cohort(tmp_path: Path) -> None:
    app = vision.build(training.task(dp=training.DP), training.examples, homes=SimulatedHomes(tmp_path))
    assert app.cohort_size == 1
    with pytest.raises(ConfigError, match="one at a time"):
        app.train_cohort([message(0)], [context(0)])


def test_a_fleet_of_devices_trains_through_the_app() -> None:
    fleet = InlineFleet(make(), 3)
    for node_id in fleet.node_ids:
        fleet.submit(training.train_message(node_id, training.start()))
    packets = [training.packet_of(fleet.collect(None)[0]) for _ in range(3)]
    assert len(set(packets)) == 3


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda content: content.pop("arrays"), "without 'arrays'"),
        (lambda content: content.pop("config"), "server-round None"),
        (lambda content: content.update({"config": ConfigRecord({"server-round": -1})}), "server-round -1"),
        (lambda content: content.update({"config": ConfigRecord({"server-round": 1})}), "delta-ranges"),
        (
            lambda content: content.update({"config": ConfigRecord({"server-round": 1, "delta-ranges": ["a"]})}),
            "delta-ranges",
        ),
    ],
)
def test_malformed_instructions_are_refused(change: object, wanted: str) -> None:
    app, bad = vision.build(training.int8_task(), training.examples, homes=SimulatedHomes()), message()
    change(bad.content)  # type: ignore[operator]
    with pytest.raises((DecodeError, ConfigError), match=wanted):
        app(bad, context(0))


def test_a_node_must_say_which_partition_it_holds() -> None:
    with pytest.raises(ConfigError, match="partition-id"):
        make()(message(), Context(1, 2, {}, RecordDict(), {}))


def test_a_private_task_needs_a_place_for_ledgers(tmp_path: Path) -> None:
    private = training.task(dp=training.DP)
    with pytest.raises(ConfigError, match="ledgers"):
        vision.build(private, training.examples, homes=SimulatedHomes())
    vision.build(private, training.examples, homes=SimulatedHomes(tmp_path))(message(2), context(2))
    assert (tmp_path / "device-2.ledger").exists()


def test_vision_takes_images_and_wearable_takes_windows() -> None:
    windows = training.task(model="har_cnn", input_shape=(9, 128), classes=6, model_options={"width": 4})

    def data(device: int) -> Examples:
        rng = np.random.default_rng(device)
        return Examples(rng.standard_normal((5, 9, 128), dtype=np.float32), rng.integers(0, 6, 5))

    app = wearable.build(windows, data, homes=SimulatedHomes())
    weights = np.full(Trainer.of(windows).layout.size, 0.01, np.float32)
    assert app(training.train_message(2, weights), context(0)).has_content()
    with pytest.raises(ConfigError, match="vision client"):
        vision.build(windows, data, homes=SimulatedHomes())
    with pytest.raises(ConfigError, match="wearable client"):
        wearable.build(training.task(), training.examples, homes=SimulatedHomes())


@pytest.mark.parametrize("private", [True, False])
def test_an_error_of_a_private_device_says_nothing_of_its_data(private: bool, tmp_path: Path) -> None:
    def data(device: int) -> Examples:
        raise ValueError(f"row 17 of device {device} says: diabetes")

    task = training.task(dp=training.DP if private else None)
    app = vision.build(task, data, homes=SimulatedHomes(tmp_path))
    with pytest.raises(FedMeshError if private else ValueError) as caught:
        app(message(), context(0))
    assert ("diabetes" in str(caught.value)) is not private
