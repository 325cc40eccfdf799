"""Failures on purpose: devices that drop out and devices that answer too late, drawn from the seed.

Whether device d fails in round r, and at which of the round's steps, is a function of (seed, r, d): a run can be
repeated and resumed, and the order of messages does not matter. Plain training has one step, secure aggregation five;
the step is drawn uniformly, and the device is not heard of again in that round. One that would have failed at a step
that the round before has done ahead fails at the next. Time is simulated: a late answer costs no waiting here, it
counts as lost if its delay is beyond the deadline. The grid sees both as error replies, as it sees a device that is not
there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message
from flwr.common.constant import ErrorCode

from fedmesh.errors import PeerError
from fedmesh.federation.scenario import FailuresSection
from fedmesh.flower.fleet import Fleet
from fedmesh.flower.identity import partition_of
from fedmesh.flower.node import error_reply
from fedmesh.flower.records import round_of
from fedmesh.flower.secure import AHEAD, HELLO, STEPS, order_in

__all__ = ["FaultyFleet"]

PLAIN = ("train",)
"""The steps of a round without secure aggregation."""
_RIDES_ON = {"advertise": "train", "share": "sign"}
"""Step of the next round's session -> the step of this round that it is done with."""


@dataclass(frozen=True, slots=True)
class _Fate:
    """Where in a round a device drops out, and where it is late: index of the step, None for nowhere."""

    gone: int | None
    late: int | None


class FaultyFleet:
    """A fleet around another one, some of whose devices fail.

    A device that drops out gets no message from that step on: at the first it trains nothing and pays nothing. One that
    is late has done its step in vain, and gets no further message in the round.

    Args:
        fleet: the devices; closed with this one.
        failures: how often, and how late.
        seed: of the run.
    """

    def __init__(self, fleet: Fleet, failures: FailuresSection, seed: int) -> None:
        self._fleet = fleet
        self._failures = failures
        self._seed = seed
        self._failed: list[Message] = []
        self._late: dict[str, Message] = {}

    @property
    def node_ids(self) -> Sequence[int]:
        """All nodes: a device that is about to drop out does not say so."""
        return self._fleet.node_ids

    def submit(self, message: Message) -> None:
        """Sends the message on, unless its device has dropped out, or is late with an earlier step."""
        if message.metadata.dst_node_id not in self._fleet.node_ids:
            raise PeerError(f"there is no node {message.metadata.dst_node_id}")
        steps, now = _step_of(message)
        fate = self._fate(message, len(steps))
        if fate.gone is not None and fate.gone <= now:
            self._failed.append(_gone(message, steps, fate.gone))
        elif fate.late is not None and fate.late < now:
            self._failed.append(self._too_late(message, steps, fate.late))
        else:
            if fate.late == now:
                self._late[message.metadata.message_id] = self._too_late(message, steps, now)
            self._fleet.submit(message)

    def collect(self, timeout_s: float | None) -> list[Message]:
        """See `Fleet.collect`; answers that are too late have become errors."""
        failed, self._failed = self._failed, []
        replies = self._fleet.collect(0.0 if failed else timeout_s)
        return failed + [self._late.pop(reply.metadata.reply_to_message_id, reply) for reply in replies]

    def abandon(self, message_ids: Collection[str]) -> None:
        """See `Fleet.abandon`."""
        self._fleet.abandon(message_ids)

    def states(self) -> Mapping[int, bytes]:
        """See `Fleet.states`."""
        return self._fleet.states()

    def restore(self, states: Mapping[int, bytes]) -> None:
        """See `Fleet.restore`."""
        self._fleet.restore(states)

    def close(self) -> None:
        """Closes the fleet inside."""
        self._fleet.close()

    def _fate(self, message: Message, steps: int) -> _Fate:
        device = partition_of(message.metadata.dst_node_id)
        drawn = np.random.default_rng([self._seed, round_of(message), device]).random(4)
        deadline_s = self._failures.deadline_s
        misses = deadline_s is not None and self._failures.straggler_delay_s > deadline_s
        return _Fate(
            gone=int(drawn[2] * steps) if drawn[0] < self._failures.dropout else None,
            late=int(drawn[3] * steps) if misses and drawn[1] < self._failures.straggler else None,
        )

    def _too_late(self, message: Message, steps: Sequence[str], step: int) -> Message:
        delay_s, deadline_s = self._failures.straggler_delay_s, self._failures.deadline_s
        reason = (
            f"the device answered{_at(steps, step)} {delay_s:g} s late, the deadline was {deadline_s:g} s (simulated)"
        )
        return error_reply(message, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, reason)


def _step_of(message: Message) -> tuple[Sequence[str], int]:
    """The steps of the message's round, and the index of the one it is about; -1 comes before all of them."""
    current, ahead = order_in(message.content), order_in(message.content, AHEAD)
    if current is not None:
        return STEPS, -1 if current.step == HELLO else STEPS.index(current.step)
    if ahead is not None:
        return STEPS, STEPS.index(_RIDES_ON[ahead.step])
    return PLAIN, 0


def _gone(message: Message, steps: Sequence[str], step: int) -> Message:
    reason = f"the device dropped out{_at(steps, step)} (simulated)"
    return error_reply(message, ErrorCode.NODE_UNAVAILABLE, reason)


def _at(steps: Sequence[str], step: int) -> str:
    return f" at the step {steps[step]}" if len(steps) > 1 else ""
