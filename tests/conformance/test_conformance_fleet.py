"""What every Fleet promises, over every Fleet there is."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flower_apps import instruction, plain_app
from flwr.app import Message
from flwr.common.constant import ErrorCode

from fedmesh.errors import ConfigError, PeerError
from fedmesh.federation.scenario import FailuresSection
from fedmesh.flower import Fleet, InlineFleet
from fedmesh.simulation.engine import WorkerFleet
from fedmesh.simulation.faults import FaultyFleet

NODES = 4

FLEETS: dict[str, Callable[[], Fleet]] = {
    "inline": lambda: InlineFleet(plain_app(), NODES),
    "faultless": lambda: FaultyFleet(InlineFleet(plain_app(), NODES), FailuresSection(), seed=1),
    "one-worker": lambda: WorkerFleet(plain_app(), NODES, workers=1),
    "two-workers": lambda: WorkerFleet(plain_app(), NODES, workers=2),
}


@pytest.fixture(params=FLEETS)
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    made = FLEETS[request.param]()
    yield made
    made.close()


def replies(fleet: Fleet, count: int, timeout_s: float = 240.0) -> dict[str, Message]:
    """Collects until `count` replies are in, by the id of the message they answer."""
    found: dict[str, Message] = {}
    end = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < end:
        for reply in fleet.collect(1.0):
            assert reply.metadata.reply_to_message_id not in found
            found[reply.metadata.reply_to_message_id] = reply
    return found


def test_node_ids_are_distinct_and_none_is_the_server(fleet: Fleet) -> None:
    assert len(set(fleet.node_ids)) == len(fleet.node_ids) == NODES
    assert 1 not in fleet.node_ids


def test_every_message_gets_one_reply_from_its_node(fleet: Fleet) -> None:
    sent = [instruction(node_id) for node_id in fleet.node_ids for _ in range(3)]
    for message in sent:
        fleet.submit(message)
    got = replies(fleet, len(sent))
    assert set(got) == {message.metadata.message_id for message in sent}
    for message in sent:
        reply = got[message.metadata.message_id]
        assert reply.metadata.src_node_id == message.metadata.dst_node_id
        assert reply.metadata.run_id == message.metadata.run_id
        assert reply.metadata.message_id
        assert reply.has_content()
    assert fleet.collect(0) == []


def test_each_node_is_its_partition(fleet: Fleet) -> None:
    for node_id in fleet.node_ids:
        fleet.submit(instruction(node_id))
    got = replies(fleet, NODES)
    means = {r.metadata.src_node_id: r.content["arrays"]["model"].numpy().mean() for r in got.values()}
    assert [means[node_id] for node_id in fleet.node_ids] == [1, 2, 3, 4]


def test_collect_returns_at_once_when_nothing_is_outstanding(fleet: Fleet) -> None:
    fleet.submit(instruction(fleet.node_ids[0]))
    replies(fleet, 1)
    start = time.monotonic()
    assert fleet.collect(None) == []
    assert fleet.collect(30.0) == []
    assert time.monotonic() - start < 25  # not when the 30 s are over


def test_neither_side_sees_later_changes_of_the_other(fleet: Fleet) -> None:
    first, second = fleet.node_ids[:2]
    message = instruction(first)
    twin = Message(message.content, second, "train")
    twin.metadata.__dict__["_message_id"] = "twin"
    fleet.submit(message)
    fleet.submit(twin)
    message.content["config"]["server-round"] = 99
    message.content["arrays"]["model"].data = b"changed"
    got = replies(fleet, 2)
    assert all(reply.has_content() for reply in got.values())
    answer = got["twin"].content["arrays"]["model"]
    assert answer.numpy().sum() == 15 * 2
    answer.data = b"gone"  # a reply is the caller's own


def test_an_exception_of_the_app_is_an_error_reply_and_the_node_goes_on(fleet: Fleet) -> None:
    node_id = fleet.node_ids[1]
    fleet.submit(instruction(node_id, "query.stubborn"))
    (reply,) = replies(fleet, 1).values()
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "ValueError" in str(reply.error.reason)
    fleet.submit(instruction(node_id))
    (reply,) = replies(fleet, 1).values()
    assert reply.content["metrics"]["visits"] == 1


def test_an_expired_message_is_not_run(fleet: Fleet) -> None:
    node_id = fleet.node_ids[0]
    expired = instruction(node_id, ttl=10.0)
    expired.metadata.created_at -= 60.0
    fleet.submit(expired)
    (reply,) = replies(fleet, 1).values()
    assert reply.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert node_id not in fleet.states()


def test_an_unknown_node_is_refused(fleet: Fleet) -> None:
    with pytest.raises(PeerError, match="no node 999"):
        fleet.submit(instruction(999))


def test_contexts_are_kept_between_messages_and_apart_for_each_run_and_node(fleet: Fleet) -> None:
    first, second = fleet.node_ids[:2]
    visits = []
    for node_id, run_id in [(first, 7), (first, 7), (second, 7), (first, 8), (first, 7)]:
        fleet.submit(instruction(node_id, run_id=run_id))
        (reply,) = replies(fleet, 1).values()
        visits.append(reply.content["metrics"]["visits"])
    assert visits == [1, 2, 1, 1, 3]


@pytest.mark.parametrize("other", FLEETS)
def test_states_go_on_in_any_other_fleet(fleet: Fleet, other: str) -> None:
    first, second, third = fleet.node_ids[:3]
    for node_id in (first, first, second):
        fleet.submit(instruction(node_id))
        replies(fleet, 1)
    states = dict(fleet.states())
    assert set(states) == {first, second}
    successor = FLEETS[other]()
    try:
        successor.submit(instruction(third))
        replies(successor, 1)
        successor.restore(states)
        assert dict(successor.states()) == states
        counts = []
        for node_id in (first, second, third):
            successor.submit(instruction(node_id))
            (reply,) = replies(successor, 1).values()
            counts.append(reply.content["metrics"]["visits"])
        assert counts == [3, 2, 1]
    finally:
        successor.close()


def test_states_of_unknown_nodes_are_refused(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="999"):
        fleet.restore({999: b"x"})


def test_arrays_survive_bit_for_bit(fleet: Fleet) -> None:
    values = np.array([0.0, -0.0, np.nan, np.inf, 1e-45, 3e38] + [1.5] * 9, np.float32)
    message = instruction(fleet.node_ids[0])
    message.content["arrays"]["model"] = type(message.content["arrays"]["model"])(values)
    fleet.submit(message)
    (reply,) = replies(fleet, 1).values()
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values + np.float32(1)
    assert reply.content["arrays"]["model"].numpy().tobytes() == expected.tobytes()


def test_close_is_idempotent(fleet: Fleet) -> None:
    fleet.close()
    fleet.close()
