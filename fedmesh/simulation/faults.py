"""Failures on purpose: devices that drop out and devices that answer too late, drawn from the seed.

Whether device d fails in round r is a function of (seed, r, d, kind of message): a run can be repeated and resumed, and
the order of messages does not matter. Time is simulated: a late answer costs no waiting here, it counts as lost if its
delay is beyond the deadline. The grid sees both as error replies, as it sees a real device that is not there.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import Message
from flwr.common.constant import ErrorCode

from fedmesh.errors import PeerError
from fedmesh.flower.fleet import Fleet
from fedmesh.flower.identity import partition_of
from fedmesh.flower.node import error_reply
from fedmesh.flower.records import round_of
from fedmesh.simulation.scenario import FailuresSection

__all__ = ["FaultyFleet"]


class FaultyFleet:
    """A fleet around another one, some of whose devices fail.

    A device that drops out gets no message: it trains nothing and pays nothing. One that is late has trained, and paid,
    in vain.

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
        """Sends the message on, unless its device drops out."""
        if message.metadata.dst_node_id not in self._fleet.node_ids:
            raise PeerError(f"there is no node {message.metadata.dst_node_id}")
        drops_out, is_late = self._fate(message)
        if drops_out:
            self._failed.append(error_reply(message, ErrorCode.NODE_UNAVAILABLE, "the device dropped out (simulated)"))
            return
        if is_late:
            self._late[message.metadata.message_id] = self._too_late(message)
        self._fleet.submit(message)

    def collect(self, timeout_s: float | None) -> list[Message]:
        """See `Fleet.collect`; answers that are too late have become errors."""
        failed, self._failed = self._failed, []
        replies = self._fleet.collect(0.0 if failed else timeout_s)
        return failed + [self._late.pop(reply.metadata.reply_to_message_id, reply) for reply in replies]

    def states(self) -> Mapping[int, bytes]:
        """See `Fleet.states`."""
        return self._fleet.states()

    def restore(self, states: Mapping[int, bytes]) -> None:
        """See `Fleet.restore`."""
        self._fleet.restore(states)

    def close(self) -> None:
        """Closes the fleet inside."""
        self._fleet.close()

    def _fate(self, message: Message) -> tuple[bool, bool]:
        """Whether the device drops out, and whether it answers after the deadline."""
        device = partition_of(message.metadata.dst_node_id)
        kind = zlib.crc32(message.metadata.message_type.encode())
        drawn = np.random.default_rng([self._seed, round_of(message), device, kind]).random(2)
        deadline_s = self._failures.deadline_s
        misses = deadline_s is not None and self._failures.straggler_delay_s > deadline_s
        return bool(drawn[0] < self._failures.dropout), bool(misses and drawn[1] < self._failures.straggler)

    def _too_late(self, message: Message) -> Message:
        delay_s, deadline_s = self._failures.straggler_delay_s, self._failures.deadline_s
        reason = f"the device answered {delay_s:g} s late, the deadline was {deadline_s:g} s (simulated)"
        return error_reply(message, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, reason)
