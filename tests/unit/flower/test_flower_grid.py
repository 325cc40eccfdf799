import threading
import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest
from flower_apps import instruction, plain_app
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run

from fedmesh.events import DeviceFailed, DeviceReplied, Event
from fedmesh.flower import FleetGrid, InlineFleet, payload_bytes
from fedmesh.flower.node import error_reply


class SilentFleet:
    """A fleet whose nodes answer only what the test lets them."""

    def __init__(self) -> None:
        self.submitted: list[Message] = []
        self.abandoned: list[str] = []
        self.ready: list[Message] = []
        self.node_ids: Sequence[int] = (2, 3)

    def submit(self, message: Message) -> None:
        self.submitted.append(message)

    def collect(self, timeout_s: float | None) -> list[Message]:
        found, self.ready = self.ready, []
        return found

    def abandon(self, message_ids: Collection[str]) -> None:
        self.abandoned += message_ids

    def states(self) -> Mapping[int, bytes]:
        return {}

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """Nothing to close."""


def train(node_id: int, number: int = 3, ttl: float | None = None) -> Message:
    content = RecordDict(
        {"arrays": ArrayRecord([np.zeros(5, np.float32)]), "config": ConfigRecord({"server-round": number})}
    )
    return Message(content, node_id, "train", ttl=ttl)


def test_replies_come_back_for_what_was_asked() -> None:
    grid = FleetGrid(InlineFleet(plain_app(), 3))
    assert grid.get_node_ids() == [2, 3, 4]
    assert [info.node_id for info in grid.get_nodes()] == [2, 3, 4]
    ids = grid.push_messages([train(node_id) for node_id in grid.get_node_ids()])
    assert len(set(ids)) == 3
    got: list[Message] = []
    while len(got) < 2:
        got += grid.pull_messages(ids[1:])
    assert {reply.metadata.reply_to_message_id for reply in got} == set(ids[1:])
    assert len(grid.pull_messages(ids)) == 1
    assert grid.pull_messages(ids) == []


def test_traffic_is_the_measured_payload_of_each_node_and_round() -> None:
    grid = FleetGrid(InlineFleet(plain_app(), 2))
    messages = [train(2, 4), train(3, 4), train(2, 5)]
    replies = grid.send_and_receive(messages)
    up = {r.metadata.src_node_id: payload_bytes(r) for r in replies}
    assert set(grid.traffic) == {4, 5}
    assert grid.traffic[4].down == {2: payload_bytes(messages[0]), 3: payload_bytes(messages[1])}
    assert grid.traffic[4].up == up
    assert grid.traffic[5].down.keys() == {2}


def test_events_tell_who_replied_and_who_failed() -> None:
    events: list[Event] = []
    grid = FleetGrid(InlineFleet(plain_app(), 2), events=events.append, device_of=lambda node_id: node_id * 100)
    failing = Message(RecordDict(), 3, "query.stubborn")
    grid.send_and_receive([train(2), failing])
    replied, failed = events
    assert isinstance(replied, DeviceReplied)
    assert (replied.round, replied.stage, replied.device) == (3, "train", 200)
    assert isinstance(failed, DeviceFailed)
    assert (failed.round, failed.stage, failed.device) == (0, "query.stubborn", 300)
    assert "ValueError" in failed.reason


def test_an_event_quotes_no_more_of_a_devices_reason_than_is_fit_to_be_shown() -> None:
    events: list[Event] = []
    fleet = SilentFleet()
    grid = FleetGrid(fleet, events=events.append)
    ids = grid.push_messages([instruction(2)])
    fleet.ready = [error_reply(fleet.submitted[0], 5, "\x1b[31m" + "x" * 10_000)]
    grid.pull_messages(ids)
    (failed,) = [event for event in events if isinstance(event, DeviceFailed)]
    assert failed.reason.isprintable()
    assert len(failed.reason) == 500


def test_an_unknown_node_is_reported_as_unavailable() -> None:
    grid = FleetGrid(InlineFleet(plain_app(), 2))
    replies = grid.send_and_receive([train(77), train(2)])
    codes = {r.metadata.src_node_id: r.error.code for r in replies if r.has_error()}
    assert codes == {77: ErrorCode.NODE_UNAVAILABLE}
    assert len(replies) == 2


def test_a_timeout_returns_what_is_there_and_drops_what_comes_later() -> None:
    class FirstAnswers(SilentFleet):
        def submit(self, message: Message) -> None:
            super().submit(message)
            if len(self.submitted) == 2:
                self.ready.append(error_reply(self.submitted[0], 5, "early"))

    fleet, events = FirstAnswers(), list[Event]()
    grid = FleetGrid(fleet, events=events.append)
    start = time.monotonic()
    replies = grid.send_and_receive([train(2), train(3)], timeout=0.3)
    assert time.monotonic() - start > 0.25
    assert [r.error.reason for r in replies] == ["early"]
    assert fleet.abandoned == [fleet.submitted[1].metadata.message_id]
    assert [type(e) for e in events] == [DeviceFailed, DeviceFailed]
    fleet.ready.append(error_reply(fleet.submitted[1], 5, "late"))
    assert grid.pull_messages([m.metadata.message_id for m in fleet.submitted]) == []
    assert len(events) == 2


def test_a_lost_reply_becomes_an_error_when_the_time_to_live_is_over() -> None:
    fleet = SilentFleet()
    (reply,) = FleetGrid(fleet).send_and_receive([train(2, ttl=0.1)], timeout=None)
    assert reply.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE
    assert fleet.abandoned == [fleet.submitted[0].metadata.message_id]


def test_a_node_cannot_answer_for_another_nor_twice() -> None:
    fleet = SilentFleet()
    grid = FleetGrid(fleet)
    (first, _) = grid.push_messages([train(2), train(3)])
    forged = error_reply(fleet.submitted[0], 5, "forged")
    forged.metadata.__dict__["_src_node_id"] = 3
    fleet.ready = [forged, error_reply(fleet.submitted[0], 5, "true"), error_reply(fleet.submitted[0], 5, "again")]
    assert [r.error.reason for r in grid.pull_messages([first])] == ["true"]
    assert grid.pull_messages([first]) == []


def test_messages_belong_to_the_grids_run_even_with_two_runs_in_a_process() -> None:
    first, second = FleetGrid(InlineFleet(plain_app(), 1), run_id=11), FleetGrid(InlineFleet(plain_app(), 1), run_id=12)
    replies = [grid.send_and_receive([train(2)])[0] for grid in (first, second, first)]
    assert [r.metadata.run_id for r in replies] == [11, 12, 11]
    assert [r.content["metrics"]["visits"] for r in replies] == [1, 1, 2]
    first.set_run(Run.create_empty(13))
    assert first.run.run_id == 13


def test_threads_may_share_a_grid() -> None:
    grid = FleetGrid(InlineFleet(plain_app(), 8))
    found: dict[int, list[Message]] = {}

    def visit(node_id: int) -> None:
        found[node_id] = [r for _ in range(5) for r in grid.send_and_receive([train(node_id)])]

    threads = [threading.Thread(target=visit, args=(node_id,)) for node_id in grid.get_node_ids()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert {n: [r.metadata.src_node_id for r in rs] for n, rs in found.items()} == {n: [n] * 5 for n in range(2, 10)}


def test_create_message_still_works() -> None:
    grid = FleetGrid(InlineFleet(plain_app(), 1), run_id=21)
    message = grid.create_message(RecordDict(), "train", 2, "g", ttl=3.0)
    assert (message.metadata.run_id, message.metadata.ttl, message.metadata.group_id) == (21, 3.0, "g")


@pytest.mark.parametrize("count", [300])
def test_waiting_for_many_replies_is_linear(count: int) -> None:
    fleet = SilentFleet()
    fleet.node_ids = range(2, 2 + count)
    grid = FleetGrid(fleet)
    ids = grid.push_messages([instruction(n) for n in fleet.node_ids])
    fleet.ready = [error_reply(m, 5, "x") for m in fleet.submitted]
    assert len(grid.pull_messages(ids)) == count
