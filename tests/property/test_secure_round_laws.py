"""Whatever devices do at whatever step: a round ends with the sum of exactly those it counts, or typed as failed."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flower_apps import LAYOUT
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_federation import Federation, altered, flipped, step_of

from fedmesh.coordinator import Coordinator, Journal
from fedmesh.errors import RoundError
from fedmesh.flower import FleetGrid, InlineFleet, partition_of, quiet_flower
from fedmesh.flower.arrays import vector_record
from fedmesh.flower.secure import AHEAD, STEPS
from fedmesh.quantization.codec import DeltaCodec, constant_ranges
from fedmesh.testing import ManualClock
from fedmesh_strategies.fedavg import FedAvg

DEVICES, ROUNDS, DEADLINE_S = 9, 2, 60.0
START = vector_record("model", np.zeros(LAYOUT.size, np.float32))
RANGES = np.float32([1.0, 1.0])
ACTIONS = ("answers", "fails", "is silent", "lies", "repeats itself", "leaves", "does not prepare")


def packet(partition: int, number: int) -> bytes:
    """The device's update: no two rounds or devices have the same."""
    rng = np.random.default_rng([partition, number])
    return DeltaCodec(LAYOUT, 8, RANGES).encode_vector(rng.uniform(-1, 1, LAYOUT.size).astype(np.float32), rng)


class Listening(FedAvg):
    """Keeps the sums it was given: the bits of a weight say who is in its sum."""

    def __init__(self) -> None:
        super().__init__(layout=LAYOUT, ranges=constant_ranges(RANGES))
        self.sums: list[tuple[Any, int]] = []

    def apply_sum(self, total: Any, weight: int) -> ArrayRecord:
        self.sums.append((total.copy(), weight))
        return super().apply_sum(total, weight)

    def snapshot(self) -> dict[str, Any]:
        return {}


class Unreliable(InlineFleet):
    """Drops the messages to some nodes; others get theirs twice. Time passes when nobody is left who could answer."""

    def __init__(self, app: Any, plan: dict[tuple[int, str], str], clock: ManualClock) -> None:
        super().__init__(app, DEVICES)
        self.plan = plan
        self.clock = clock

    def submit(self, message: Message) -> None:
        action = self.plan.get((partition_of(message.metadata.dst_node_id), step_of(message)), "answers")
        if action != "is silent":
            super().submit(message)
        if action == "repeats itself":
            super().submit(message)

    def collect(self, timeout_s: float | None) -> list[Message]:
        replies = super().collect(timeout_s)
        if not replies:
            self.clock.advance(DEADLINE_S)
        return replies


def federation(folder: Path, plan: dict[tuple[int, str], str]) -> Federation:
    """Devices that behave as planned, with the weights 1, 2, 4, ..."""
    made, gone = Federation(folder, DEVICES, weight_cap=1 << DEVICES), set[int]()
    answer = made.app(train)

    def app(message: Message, context: Context) -> Message:
        partition, step = int(context.node_config["partition-id"]), step_of(message)
        action = plan.get((partition, step), "answers")
        if action == "leaves":
            gone.add(partition)
        if action == "fails" or partition in gone:
            raise ConnectionError("lost")
        reply = answer(message, context)
        if action == "does not prepare":
            reply.content.pop(AHEAD, None)
        return altered(reply, flipped) if action == "lies" and "secagg" in reply.content else reply

    made.app = lambda: app  # type: ignore[assignment, method-assign]
    return made


def train(message: Message, context: Context) -> Message:
    partition, number = int(context.node_config["partition-id"]), int(message.content["config"]["server-round"])
    content = RecordDict({"update": vector_record("delta", np.frombuffer(packet(partition, number), np.uint8))})
    content["metrics"] = MetricRecord({"num-examples": 1 << partition})
    return Message(content, reply_to=message)


ROUND = st.fixed_dictionaries(
    {
        "plan": st.dictionaries(
            st.tuples(st.integers(0, DEVICES - 1), st.sampled_from(STEPS)), st.sampled_from(ACTIONS)
        ),
        "group_size": st.sampled_from([4, 128]),
        "attempts": st.integers(1, 3),
        "overlap": st.booleans(),
    }
)


@settings(max_examples=10, deadline=None)
@given(ROUND)
def test_a_round_ends_with_the_right_sum_or_a_typed_failure(drawn: dict[str, Any]) -> None:
    check_round(**drawn)


@pytest.mark.exhaustive
@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(ROUND)
def test_many_rounds_end_with_the_right_sum_or_a_typed_failure(drawn: dict[str, Any]) -> None:
    check_round(**drawn)


def check_round(plan: dict[tuple[int, str], str], group_size: int, attempts: int, overlap: bool) -> None:
    strategy, journal, clock = Listening(), Journal(), ManualClock()
    with tempfile.TemporaryDirectory() as folder, quiet_flower():
        made = federation(Path(folder), plan)
        secure = made.secured(strategy, rounds=ROUNDS, group_size=group_size, attempts=attempts, overlap=overlap)
        grid = FleetGrid(Unreliable(made.app(), plan, clock), device_of=partition_of)
        coordinator = Coordinator(
            strategy,
            grid,
            journal,
            device_of=partition_of,
            script=lambda number, arrays: secure.script(number, arrays, grid),
            clock=clock,
            deadline_s=DEADLINE_S,
        )
        with suppress(RoundError):  # not one round was good
            coordinator.run(START, ROUNDS)
    assert len(journal.records()) == ROUNDS + 1
    sums = iter(strategy.sums)
    for record in journal.records()[1:]:
        assert record.clients == DEVICES
        assert (record.failed is None) == (record.survivors > 0)
        if record.failed is None:
            check_sum(*next(sums), record.round, record.survivors)
            assert sum(session.survivors for session in record.sessions) == record.survivors
    assert next(sums, None) is None


def check_sum(total: Any, weight: int, number: int, survivors: int) -> None:
    codec = DeltaCodec(LAYOUT, 8, RANGES)
    members = [device for device in range(DEVICES) if weight >> device & 1]
    assert len(members) == survivors >= 3  # the threshold of four
    expected = np.zeros(LAYOUT.size, np.int64)
    for device in members:
        data = packet(device, number)
        expected += codec.codes(data, max_bytes=len(data)).astype(np.int64) << device
    np.testing.assert_array_equal(total, expected)
