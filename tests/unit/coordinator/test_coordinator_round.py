"""The round's state machine, without clock, grid or strategy."""

from collections.abc import Sequence

import pytest
from flower_apps import instruction
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedmesh.coordinator.round import Abandon, Begin, Finish, Replied, Round, Send, Tick
from fedmesh.coordinator.stage import Outcome, Stage
from fedmesh.errors import QuorumError, RoundError
from fedmesh.flower.node import error_reply

NODES = (2, 3, 4, 5)


class Chain:
    """A script that plays the given stages and keeps what it was told."""

    def __init__(self, *stages: Stage) -> None:
        self.stages = list(stages)
        self.heard: list[list[tuple[int, bool]]] = []

    def begin(self) -> Stage | Outcome:
        return self._next()

    def proceed(self, replies: Sequence[Message]) -> Stage | Outcome:
        self.heard.append([(r.metadata.src_node_id, r.has_error()) for r in replies])
        return self._next()

    def _next(self) -> Stage | Outcome:
        return self.stages.pop(0) if self.stages else Outcome(None, survivors=1)


class RefusingScript(Chain):
    """Does not use what node 3 sent, and quotes it."""

    def _next(self) -> Stage | Outcome:
        return self.stages.pop(0) if self.stages else Outcome(None, refused={3: "sent \x1b]0;" + "y" * 10_000})


def stage(name: str = "train", nodes: Sequence[int] = NODES, **options: object) -> Stage:
    return Stage(name, tuple(instruction(node) for node in nodes), **options)  # type: ignore[arg-type]


def good(sent: Stage, index: int) -> Message:
    return Message(RecordDict(), reply_to=sent.messages[index])


def bad(sent: Stage, index: int, reason: str = "broke") -> Message:
    return error_reply(sent.messages[index], 2, reason)


def test_what_a_device_says_is_bounded_and_harmless_to_a_terminal() -> None:
    only = stage(nodes=(2, 3))
    machine = Round(RefusingScript(only))
    machine.handle(Begin(), 0.0)
    machine.handle(Replied(0, 0, bad(only, 0, "\x1b[2J\n" + "x" * 10_000)), 1.0)
    machine.handle(Replied(0, 1, good(only, 1)), 1.0)
    assert set(machine.failures) == {2, 3}
    assert all(reason.isprintable() and 0 < len(reason) <= 500 for reason in machine.failures.values())


def test_a_stage_ends_when_all_have_answered_and_replies_come_in_order_of_nodes() -> None:
    only = stage(nodes=(5, 3, 4))
    script = Chain(only)
    machine = Round(script)
    assert machine.handle(Begin(), 0.0) == [Send(0, only)]
    assert machine.wake_at is None
    assert machine.handle(Replied(0, 0, good(only, 0)), 1.0) == []
    assert machine.handle(Replied(0, 2, bad(only, 2)), 2.0) == []
    (finish,) = machine.handle(Replied(0, 1, good(only, 1)), 3.0)
    assert isinstance(finish, Finish)
    assert script.heard == [[(3, False), (4, True), (5, False)]]
    assert (machine.asked, machine.failures) == ({3, 4, 5}, {4: "broke"})


def test_a_reply_counts_once_and_late_or_unknown_ones_not_at_all() -> None:
    first, second = stage("one", (2, 3)), stage("two", (2, 3))
    script = Chain(first, second)
    machine = Round(script)
    machine.handle(Begin(), 0.0)
    assert machine.handle(Replied(0, 0, good(first, 0)), 0.0) == []
    assert machine.handle(Replied(0, 0, good(first, 0)), 0.0) == []
    assert machine.handle(Replied(0, 9, good(first, 0)), 0.0) == []
    assert machine.handle(Replied(0, 1, good(first, 1)), 0.0) == [Send(1, second)]
    assert machine.handle(Replied(0, 1, good(first, 1)), 0.0) == []
    assert machine.handle(Replied(1, 1, good(second, 1)), 0.0) == []
    assert machine.handle(Tick(), 1e9) == []
    machine.handle(Replied(1, 0, good(second, 0)), 0.0)
    assert machine.handle(Replied(1, 0, good(second, 0)), 0.0) == []
    assert script.heard == [[(2, False), (3, False)]] * 2


def test_the_deadline_ends_a_stage_with_who_is_there() -> None:
    first, second = stage("one", (2, 3, 4), quorum=2), stage("two", (2, 3), deadline_s=1.0)
    script = Chain(first, second)
    machine = Round(script, deadline_s=10.0)
    machine.handle(Begin(), 100.0)
    assert machine.wake_at == 110.0
    machine.handle(Replied(0, 0, good(first, 0)), 101.0)
    machine.handle(Replied(0, 1, good(first, 1)), 101.0)
    assert machine.handle(Tick(), 109.9) == []
    effects = machine.handle(Tick(), 110.0)
    assert effects == [Abandon(0, (2,), "no answer by the deadline"), Send(1, second)]
    assert machine.wake_at == 111.0
    assert machine.failures == {4: "no answer by the deadline"}


def test_below_the_quorum_the_round_fails_and_says_why() -> None:
    only = stage(quorum=3)
    machine = Round(Chain(only))
    machine.handle(Begin(), 0.0)
    for index in range(3):
        machine.handle(Replied(0, index, bad(only, index, f"reason {index}")), 0.0)
    with pytest.raises(QuorumError, match=r"1 of 4 devices .* quorum is 3.*node 2 said: reason 0") as caught:
        machine.handle(Replied(0, 3, good(only, 3)), 0.0)
    assert (caught.value.arrived, caught.value.wanted) == (1, 3)
    assert machine.handle(Tick(), 1.0) == []


def test_enough_replies_end_a_stage_early() -> None:
    only = stage(enough=2)
    script = Chain(only)
    machine = Round(script)
    machine.handle(Begin(), 0.0)
    machine.handle(Replied(0, 3, good(only, 3)), 0.0)
    machine.handle(Replied(0, 0, bad(only, 0)), 0.0)
    abandon, finish = machine.handle(Replied(0, 1, good(only, 1)), 0.0)
    assert abandon == Abandon(0, (2,), "enough others answered before")
    assert isinstance(finish, Finish)
    assert script.heard == [[(2, True), (3, False), (5, False)]]


def test_a_stage_without_messages_is_over_at_once() -> None:
    script = Chain(Stage("nobody", ()), Stage("nobody", ()))
    (finish,) = Round(script).handle(Begin(), 0.0)
    assert isinstance(finish, Finish)
    assert script.heard == [[], []]


def test_refused_replies_count_as_failures_at_the_end() -> None:
    class Refuser(Chain):
        def _next(self) -> Stage | Outcome:
            return self.stages.pop(0) if self.stages else Outcome(None, refused={3: "malformed"})

    only = stage(nodes=(2, 3))
    machine = Round(Refuser(only))
    machine.handle(Begin(), 0.0)
    machine.handle(Replied(0, 0, good(only, 0)), 0.0)
    machine.handle(Replied(0, 1, good(only, 1)), 0.0)
    assert machine.failures == {3: "malformed"}


def test_a_round_begins_once() -> None:
    machine = Round(Chain(stage()))
    machine.handle(Begin(), 0.0)
    with pytest.raises(RoundError, match="once"):
        machine.handle(Begin(), 0.0)


def test_a_stage_can_take_its_replies_as_they_arrive() -> None:
    came = list[int]()
    only = stage(nodes=(5, 3, 4), quorum=2, arrived=lambda reply: came.append(reply.metadata.src_node_id))
    script = Chain(only)
    machine = Round(script)
    machine.handle(Begin(), 0.0)
    machine.handle(Replied(0, 0, good(only, 0)), 0.0)
    machine.handle(Replied(0, 0, good(only, 0)), 0.0)
    machine.handle(Replied(0, 1, bad(only, 1)), 0.0)
    assert came == [5]
    (finish,) = machine.handle(Replied(0, 2, good(only, 2)), 0.0)
    assert isinstance(finish, Finish)
    assert came == [5, 4]
    assert script.heard == [[(3, True)]]
    assert machine.failures == {3: "broke"}


def test_replies_taken_as_they_arrive_count_for_quorum_and_enough() -> None:
    only = stage(enough=2, quorum=2, arrived=lambda reply: None)
    machine = Round(Chain(only))
    machine.handle(Begin(), 0.0)
    machine.handle(Replied(0, 3, good(only, 3)), 0.0)
    abandon, finish = machine.handle(Replied(0, 1, good(only, 1)), 0.0)
    assert abandon == Abandon(0, (0, 2), "enough others answered before")
    assert isinstance(finish, Finish)


def test_nodes_that_the_round_is_not_about_neither_count_nor_fall_out() -> None:
    only = stage(nodes=(2, 3, 4, 5), about=frozenset({2, 3, 9}))
    machine = Round(Chain(only), deadline_s=1.0)
    machine.handle(Begin(), 0.0)
    machine.handle(Replied(0, 0, good(only, 0)), 0.0)
    machine.handle(Replied(0, 2, bad(only, 2)), 0.0)
    abandon, _ = machine.handle(Tick(), 1.0)
    assert abandon == Abandon(0, (1, 3), "no answer by the deadline")
    assert machine.asked == {2, 3, 9}
    assert machine.failures == {3: "no answer by the deadline"}


class Shrinking:
    """Five stages, each to the survivors of the one before: the shape of secure aggregation."""

    names = ("advertise", "share", "masked", "consistency", "unmask")

    def __init__(self, threshold: int) -> None:
        self.threshold = threshold
        self.cohorts: list[tuple[int, ...]] = []

    def begin(self) -> Stage:
        return self._stage(NODES)

    def proceed(self, replies: Sequence[Message]) -> Stage | Outcome:
        alive = tuple(r.metadata.src_node_id for r in replies if not r.has_error())
        if len(self.cohorts) == len(self.names):
            return Outcome(None, survivors=len(self.cohorts[3]))
        return self._stage(alive)

    def _stage(self, nodes: tuple[int, ...]) -> Stage:
        self.cohorts.append(nodes)
        return stage(self.names[len(self.cohorts) - 1], nodes, quorum=self.threshold, deadline_s=10.0)


@given(data=st.data(), threshold=st.integers(1, 4))
def test_a_round_of_five_stages_ends_whatever_devices_do(data: st.DataObject, threshold: int) -> None:
    """Answers, errors, silence, repetitions and replies to old stages in any order: a result above the threshold, a
    QuorumError below it, and every stage asks exactly the survivors of the one before."""
    script = Shrinking(threshold)
    machine, now, old = Round(script), 0.0, list[Replied]()
    effects = machine.handle(Begin(), now)
    try:
        while not isinstance(effects[-1], Finish):
            sent = effects[-1]
            assert isinstance(sent, Send)
            alive, effects = [], []
            for index in data.draw(st.permutations(range(len(sent.stage.messages)))):
                what = data.draw(st.sampled_from(["answer", "answer", "answer", "error", "silence", "old"]))
                event = Replied(sent.number, index, (bad if what == "error" else good)(sent.stage, index))
                if what == "old" and old:
                    assert machine.handle(data.draw(st.sampled_from(old)), now) == []
                if what in {"answer", "error"}:
                    alive += [sent.stage.messages[index].metadata.dst_node_id] * (what == "answer")
                    old.append(event)
                    effects = machine.handle(event, now)
            if not effects:
                now += 10.0
                effects = machine.handle(Tick(), now)
            if isinstance(effects[-1], Send):
                assert script.cohorts[-1] == tuple(sorted(alive))
            assert len(alive) >= threshold
    except QuorumError as error:
        arrived, wanted = error.arrived, error.wanted
        assert arrived < threshold == wanted
    else:
        assert len(script.cohorts) == 5
