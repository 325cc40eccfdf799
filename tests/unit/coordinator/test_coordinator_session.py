"""One session as the round sees it, over an aggregator that does as it is told."""

import dataclasses
from typing import Any, cast

import pytest

from fedmesh.coordinator.attempt import Attempt
from fedmesh.coordinator.session import Session
from fedmesh.errors import SecAggError
from fedmesh.flower.secure import STEPS
from fedmesh.secagg import Aggregator, SessionHeader

NODES = {2: "a", 3: "b", 4: "c", 5: "d"}
HEADER = SessionHeader(
    task="t", round=1, attempt=3, cohort=tuple(NODES.values()), threshold=3, min_cohort=3, ring_bits=15, length=7
)


class Obedient:
    """An aggregator that takes ``good`` from everybody; ``last`` makes it give up the session."""

    def __init__(self) -> None:
        self.steps = ["advertise", "share", "mask", "sign", "unmask", "done"]
        self.heard = list[str]()
        self.result = None

    @property
    def step(self) -> str:
        return self.steps[0]

    def handle(self, sender: str, message: bytes) -> list[tuple[str, bytes]]:
        if message == b"last":
            self.steps = ["aborted"]
            raise SecAggError("the shares do not fit", code="shares")
        if message != b"good":
            raise SecAggError("not signed", code="signature")
        self.heard.append(sender)
        return self.advance() if len(self.heard) == len(NODES) else []

    def advance(self) -> list[tuple[str, bytes]]:
        if len(self.heard) < 3:
            self.steps = ["aborted"]
            raise SecAggError("too few", code="threshold")
        self.steps = self.steps[1:]
        heard, self.heard = self.heard, []
        return [(name, self.step.encode()) for name in heard]


def session() -> Session:
    return Session(1, HEADER, cast("Aggregator", Obedient()), NODES)


def hear(of: Session | Attempt, **messages: bytes) -> list[bool]:
    node_of = {name: node for node, name in NODES.items()}
    return [of.hear(node_of[name], message) for name, message in messages.items()]


def test_the_first_order_is_the_header_and_the_next_are_the_aggregators() -> None:
    of = session()
    assert of.orders == dict.fromkeys(NODES, HEADER.to_bytes())
    assert hear(of, a=b"good", b=b"good", c=b"good", d=b"good") == [True] * 4
    of.close("advertise")  # the aggregator has gone on by itself: nothing is closed twice
    assert of.orders == dict.fromkeys(NODES, b"share")
    assert (of.complete, of.members, of.error) == (True, 4, None)


def test_a_bad_message_is_its_senders_alone() -> None:
    of = session()
    assert hear(of, a=b"good", b=b"bad", c=b"good", d=b"good") == [True, False, True, True]
    of.close("advertise")
    assert of.refused == {3: "signature: not signed"}
    assert sorted(of.orders) == [2, 4, 5]
    assert (of.complete, of.members) == (False, 3)
    assert not of.hear(3, b"good")  # it has no order in this step
    assert not of.hear(9, b"good")


def test_an_abort_ends_the_session_and_is_nobodys_fault() -> None:
    of = session()
    assert hear(of, a=b"good", b=b"last", c=b"good") == [True, True, False]
    of.close("advertise")
    assert of.orders == {}
    assert of.refused == {}
    assert of.result is None
    record = of.record()
    assert (record.group, record.attempt, record.devices, record.survivors) == (1, 3, 4, 0)
    assert record.aborted == "shares: the shares do not fit"


def test_too_few_answers_abort_it() -> None:
    of = session()
    hear(of, a=b"good", b=b"good")
    of.close("advertise")
    assert (of.members, of.complete, str(of.error)) == (0, False, "too few")


def test_members_of_the_sum_are_settled_by_the_masked_inputs() -> None:
    attempt = Attempt([session()])
    for step in STEPS:
        assert attempt.step == step
        field = "header" if step == "advertise" else "message"
        assert all(getattr(order, field) for order in attempt.orders().values())
        hear(attempt, a=b"good", b=b"good", c=b"good", **({} if step == "sign" else {"d": b"good"}))
        attempt.close()
        assert attempt.members == 4
    assert attempt.step == "done"
    assert attempt.complete is False


def test_a_device_that_goes_on_the_way_is_not_complete_any_more() -> None:
    attempt = Attempt([session()])
    hear(attempt, a=b"good", b=b"good", c=b"good")
    attempt.close()
    assert not attempt.complete
    assert attempt.nodes == set(NODES)
    assert not hear(attempt, d=b"good")[0]
    assert attempt.error is None


@pytest.mark.parametrize(
    ("devices", "left", "done", "strained"),
    [
        (100, 100, 1, False),
        (100, 97, 1, False),
        (100, 94, 1, True),
        (100, 92, 2, False),
        (100, 88, 2, True),
        (10, 9, 1, False),  # nine can lose no more than nine of ten
        (10, 8, 1, True),
        (6, 5, 2, True),
        (5, 4, 1, True),
        (4, 3, 1, False),  # three have no session
    ],
)
def test_a_session_is_strained_when_it_is_likely_to_lose_more_than_it_can(
    devices: int, left: int, done: int, *, strained: bool
) -> None:
    nodes = {node: str(node) for node in range(devices)}
    header = dataclasses.replace(
        HEADER, cohort=tuple(nodes.values()), threshold=SessionHeader.threshold_for(devices), min_cohort=3
    )
    of = Session(0, header, cast("Aggregator", Obedient()), nodes)
    of.members = left
    assert of.strained(done, 5 - done) is strained
    of.give_up()
    assert of.error is not None
    assert not of.strained(done, 5 - done)


def test_answers_are_bounded_by_the_session() -> None:
    attempt = Attempt([session()])
    assert 8 * 8 <= attempt.max_answer_bytes(2) < 20_000
    assert attempt.max_answer_bytes(99) == 0  # not in it
    records: Any = attempt.records
    assert [record.aborted for record in records] == [None]
