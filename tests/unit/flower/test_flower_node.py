import pytest
from flower_apps import instruction, plain_app
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from fedmesh import wire
from fedmesh.errors import DecodeError, PeerError
from fedmesh.flower import Node, acting_as, adopt, node_id_of, partition_of
from fedmesh.flower.node import lasting
from fedmesh.flower.sessions import Kept, keep

NODE = 2


def node(**options: object) -> Node:
    return Node(NODE, plain_app(), {"partition-id": 0, "num-partitions": 1}, **options)


def test_a_repeated_message_is_run_once_and_answered_alike() -> None:
    device = node()
    message = instruction(NODE)
    first, second = device.handle(message), device.handle(message)
    assert second.metadata.message_id == first.metadata.message_id
    assert device.handle(instruction(NODE)).content["metrics"]["visits"] == 2


def test_only_the_last_few_replies_are_remembered() -> None:
    device = node(remember=2)
    first = instruction(NODE)
    device.handle(first)
    for _ in range(2):
        device.handle(instruction(NODE))
    assert device.handle(first).content["metrics"]["visits"] == 4


def test_a_failed_message_leaves_the_context_as_it_was() -> None:
    device = node()
    device.handle(instruction(NODE))
    before = device.state()
    assert device.handle(instruction(NODE, "query.stubborn")).has_error()
    assert device.state() == before


def test_outside_a_simulation_an_error_says_no_more_than_its_type() -> None:
    reason = node().handle(instruction(NODE, "query.stubborn")).error.reason
    assert reason == "ValueError"
    assert node(explain=True).handle(instruction(NODE, "query.stubborn")).error.reason == "ValueError: secret 2"


def test_a_reply_to_another_message_is_an_error() -> None:
    reply = node(explain=True).handle(instruction(NODE, "query.stray"))
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "reply_to=message" in str(reply.error.reason)


def test_a_reply_that_is_no_message_is_an_error() -> None:
    device = Node(NODE, lambda message, context: None, {})  # type: ignore[arg-type, return-value]
    assert "NoneType" in str(device.handle(instruction(NODE)).error.reason)


@pytest.mark.parametrize(("source", "destination"), [(9, NODE), (1, 9)])
def test_messages_from_or_for_others_are_refused(source: int, destination: int) -> None:
    message = instruction(NODE)
    message.metadata.__dict__.update(_src_node_id=source, _dst_node_id=destination)
    with pytest.raises(PeerError, match=f"from node {source} for node {destination}"):
        node().handle(message)


def test_time_to_live_is_held_against_the_clock_given() -> None:
    message = instruction(NODE, ttl=10.0)
    late = message.metadata.created_at + 10.1
    assert node(now=lambda: late).handle(message).error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert node(now=lambda: late - 0.2).handle(message).has_content()


def test_a_node_without_contexts_has_an_empty_state() -> None:
    assert node().state() == b""
    device = node()
    device.handle(instruction(NODE))
    device.restore(b"")
    assert device.handle(instruction(NODE)).content["metrics"]["visits"] == 1


def test_what_lasts_of_a_state_is_all_but_the_sessions_of_secure_aggregation() -> None:
    device, other = node(), node()
    other.handle(instruction(NODE))
    device.restore(other.state())
    run = instruction(NODE).metadata.run_id
    keep(device.context(run), {3: Kept(b"header", b"sealed")})
    assert device.state() != other.state()
    assert lasting(device.state()) == lasting(other.state()) == other.state()
    alone = node()
    keep(alone.context(run), {3: Kept(b"header", b"sealed")})
    assert lasting(alone.state()) == b""


@pytest.mark.parametrize(
    "state", [b"\xff", wire.dumps({"version": 9}), wire.dumps({"version": 1, "contexts": [b"\xff"]})]
)
def test_a_damaged_state_is_refused(state: bytes) -> None:
    with pytest.raises(DecodeError):
        node().restore(state)


def test_within_the_app_the_process_is_the_node_and_afterwards_the_server_again() -> None:
    seen = []

    def app(message: Message, context: object) -> Message:
        seen.append((TaskIdentity.run_id, TaskIdentity.node_id))
        return Message(RecordDict(), reply_to=message)

    adopt(7)
    Node(NODE, app, {}).handle(instruction(NODE, run_id=7))
    assert seen == [(7, NODE)]
    assert TaskIdentity.node_id == 1


def test_acting_as_restores_even_after_an_exception() -> None:
    adopt(5, 1)
    with pytest.raises(KeyError), acting_as(6, 9):
        raise KeyError
    assert (TaskIdentity.run_id, TaskIdentity.node_id) == (5, 1)


def test_node_ids_and_partitions_are_inverse_and_avoid_the_server() -> None:
    assert [partition_of(node_id_of(p)) for p in range(5)] == list(range(5))
    assert 1 not in {node_id_of(p) for p in range(5)}
