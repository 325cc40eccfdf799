"""Dropouts and stragglers: repeatable, at the rate asked for, and felt where a real one is."""

from collections import Counter
from itertools import pairwise

import pytest
import training
from flower_apps import instruction, plain_app
from flwr.app import Message

from fedmesh.errors import PeerError
from fedmesh.federation.scenario import FailuresSection
from fedmesh.flower import InlineFleet
from fedmesh.flower.secure import AHEAD, CURRENT, HELLO, QUERY, STEPS, Order, asked, attach
from fedmesh.simulation.faults import FaultyFleet

NODES = 40


def run(failures: FailuresSection, *, seed: int = 1, number: int = 1, backwards: bool = False) -> dict[int, str]:
    """Node -> reason of its failure, of all that failed in a round."""
    fleet = FaultyFleet(InlineFleet(plain_app(), NODES), failures, seed)
    nodes = list(fleet.node_ids)
    for node_id in reversed(nodes) if backwards else nodes:
        fleet.submit(training.train_message(node_id, training.start()[:4], number=number))
    replies = []
    while more := fleet.collect(None):
        replies += more
    assert len(replies) == NODES
    fleet.close()
    return {reply.metadata.src_node_id: reply.error.reason for reply in replies if reply.has_error()}


def test_without_failures_nothing_fails() -> None:
    assert run(FailuresSection()) == {}


def test_devices_drop_out_at_about_the_rate_asked_for() -> None:
    lost = [len(run(FailuresSection(dropout=0.3), number=number)) for number in range(1, 6)]
    assert 0.2 < sum(lost) / (5 * NODES) < 0.4


def test_who_fails_follows_from_seed_round_and_device_alone() -> None:
    failures = FailuresSection(dropout=0.3, straggler=0.3, straggler_delay_s=2.0, deadline_s=1.0)
    once = run(failures)
    assert once == run(failures)
    assert once == run(failures, backwards=True)
    assert once != run(failures, number=2)
    assert once != run(failures, seed=2)
    kinds = {reason.split(" (")[0].rsplit(",")[-1] for reason in once.values()}
    assert len(kinds) == 2


def test_a_late_answer_counts_as_lost_only_behind_the_deadline() -> None:
    late = FailuresSection(straggler=0.5, straggler_delay_s=2.0, deadline_s=1.0)
    assert 5 < len(run(late)) < 35
    assert "2 s late, the deadline was 1 s" in next(iter(run(late).values()))
    assert run(late.model_copy(update={"deadline_s": 3.0})) == {}
    assert run(late.model_copy(update={"deadline_s": None})) == {}


def test_a_device_that_drops_out_is_not_touched_and_a_late_one_is() -> None:
    inside = InlineFleet(plain_app(), NODES)
    fleet = FaultyFleet(inside, FailuresSection(dropout=0.99), seed=1)
    for node_id in fleet.node_ids:
        fleet.submit(training.train_message(node_id, training.start()[:4]))
    while fleet.collect(None):
        pass
    assert len(fleet.states()) < NODES / 4
    late = FaultyFleet(inside, FailuresSection(straggler=0.99, straggler_delay_s=2.0, deadline_s=1.0), seed=1)
    for node_id in late.node_ids:
        late.submit(training.train_message(node_id, training.start()[:4]))
    while late.collect(None):
        pass
    assert len(late.states()) == NODES
    late.restore({})
    assert inside.states() == {}


def test_a_node_that_is_not_there_cannot_drop_out() -> None:
    fleet = FaultyFleet(InlineFleet(plain_app(), 2), FailuresSection(dropout=0.99), seed=1)
    with pytest.raises(PeerError):
        fleet.submit(instruction(77))


class Echo:
    """A fleet whose nodes answer every message, and that remembers whom it brought something."""

    def __init__(self) -> None:
        self.node_ids = range(2, 2 + NODES)
        self.brought: list[int] = []
        self._waiting: list[Message] = []

    def submit(self, message: Message) -> None:
        self.brought.append(message.metadata.dst_node_id)
        self._waiting.append(Message(message.content, reply_to=message))

    def collect(self, _timeout_s: float | None) -> list[Message]:
        waiting, self._waiting = self._waiting, []
        return waiting


def secure_message(node_id: int, current: str | None, ahead: str | None = None, *, number: int = 1) -> Message:
    """What a device gets at a step of secure aggregation, or at a step of the next round's session, or both."""
    message = training.train_message(node_id, training.start()[:4], number=number)
    if current != "train":
        message.content = asked(number, Order(current) if current else None, Order(ahead) if ahead else None)
        message.metadata.message_type = QUERY
        return message
    attach(message.content, Order("train"), CURRENT)
    if ahead:
        attach(message.content, Order(ahead), AHEAD)
    return message


def lost_at(failures: FailuresSection, *messages: tuple[str | None, str | None], seed: int = 1) -> list[dict[int, str]]:
    """For each of a round's messages: node -> reason, of all nodes that did not answer it."""
    fleet = FaultyFleet(Echo(), failures, seed)
    lost = []
    for current, ahead in messages:
        for node_id in fleet.node_ids:
            fleet.submit(secure_message(node_id, current, ahead))
        replies = [*fleet.collect(None), *fleet.collect(None)]
        assert len(replies) == NODES
        lost.append({reply.metadata.src_node_id: reply.error.reason for reply in replies if reply.has_error()})
    return lost


ROUND = [(step, None) for step in STEPS]


def test_devices_drop_out_at_every_step_and_do_not_come_back_in_the_round() -> None:
    lost = lost_at(FailuresSection(dropout=0.5), *ROUND)
    for before, after in pairwise(lost):
        assert before.items() <= after.items()
    steps = Counter(reason.split("at the step ")[1].split(" ")[0] for reason in lost[-1].values())
    assert set(steps) == set(STEPS)
    assert sum(steps.values()) == len(lost[-1]) > NODES / 4


def test_a_late_device_has_done_its_step_and_is_not_asked_again() -> None:
    failures = FailuresSection(straggler=0.5, straggler_delay_s=2.0, deadline_s=1.0)
    inside = Echo()
    fleet = FaultyFleet(inside, failures, 1)
    for step in STEPS:
        for node_id in fleet.node_ids:
            fleet.submit(secure_message(node_id, step))
    late = {r.metadata.src_node_id: r.error.reason for r in fleet.collect(None) + fleet.collect(None) if r.has_error()}
    assert len(late) > NODES / 4
    for node_id, reason in late.items():
        step = reason.split("at the step ")[1].split(" ")[0]
        assert inside.brought.count(node_id) == STEPS.index(step) + 1


def test_hello_comes_before_all_steps_and_the_next_rounds_steps_ride_on_this_ones() -> None:
    failures = FailuresSection(dropout=0.9)
    whole = lost_at(failures, *ROUND)
    hello, advertised, shared, riding = lost_at(
        failures, (HELLO, None), (None, "advertise"), (None, "share"), ("train", "advertise")
    )
    assert hello == {}
    assert advertised == riding == whole[STEPS.index("train")]
    assert shared == whole[STEPS.index("sign")]


def test_who_is_lost_is_the_same_with_and_without_secure_aggregation() -> None:
    failures = FailuresSection(dropout=0.4)
    assert run(failures).keys() == lost_at(failures, *ROUND)[-1].keys()
