"""A Flower Grid over a fleet: what a ServerApp, or our coordinator, talks to.

Measures the payload of every message. Replies that nobody waits for any more are dropped.
"""

import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp.grid import Grid
from flwr.supercore.run import Run

from fedmesh.errors import PeerError
from fedmesh.events import DeviceFailed, DeviceReplied, EventSink, ignore
from fedmesh.flower.envelope import payload_bytes
from fedmesh.flower.fleet import Fleet
from fedmesh.flower.identity import SERVER_NODE_ID, adopt
from fedmesh.flower.node import error_reply
from fedmesh.flower.records import excerpt, new_message_id, round_of

__all__ = ["FleetGrid", "Traffic", "wait"]

SLICE_S = 0.05
"""Longest that the grid holds its lock while it waits, so that other threads of a ServerApp get in."""


@dataclass(slots=True)
class Traffic:
    """Measured payload bytes of one round by node id: `down` to the node, `up` from it."""

    down: dict[int, int] = field(default_factory=dict)
    up: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Sent:
    """An instruction that is out; it has a reply by `expires_at` (Unix seconds), or none."""

    message: Message
    round: int

    @property
    def expires_at(self) -> float:
        return self.message.metadata.created_at + self.message.metadata.ttl


class FleetGrid(Grid):
    """Flower's Grid over a `Fleet`. Threads may share it.

    Args:
        fleet: the nodes.
        events: gets a DeviceReplied or DeviceFailed for every reply.
        run_id: a fresh one if None. A resumed run has to keep its id, or the nodes' Contexts are not found.
        device_of: node id -> the number by which events name the device.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        events: EventSink = ignore,
        run_id: int | None = None,
        device_of: Callable[[int], int] = int,
    ) -> None:
        self.fleet = fleet
        self.traffic: dict[int, Traffic] = {}
        """Round -> what was carried in it. A long run takes out what it has read."""
        self._events = events
        self._device_of = device_of
        self._lock = threading.RLock()
        self._sent: dict[str, _Sent] = {}
        self._arrived: dict[str, Message] = {}
        self._first_expiry = math.inf
        self.set_run(Run.create_empty(secrets.randbits(63) if run_id is None else run_id))

    def set_run(self, run: Run) -> None:
        """Makes this process the server of `run`."""
        self._run = run
        adopt(run.run_id)

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message of this run (deprecated in Flower, yet abstract there)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Sequence[int]:
        """Ids of the nodes that can be reached now."""
        with self._lock:
            return list(self.fleet.node_ids)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Sends messages and returns their ids, in order. A node that cannot be reached gets an error reply."""
        ids = []
        for message in messages:
            with self._lock:
                ids.append(self._push(message))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to the given messages that have arrived, each given out once; does not wait."""
        wanted = message_ids if isinstance(message_ids, AbstractSet | Mapping) else set(message_ids)
        with self._lock:
            self._receive(0.0)
            self._expire()
            return [self._arrived.pop(i) for i in [i for i in self._arrived if i in wanted]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Sends messages and waits for their replies, at most `timeout` seconds; late ones are dropped."""
        missing = dict.fromkeys(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while True:
            fresh = self.pull_messages(missing)
            replies += fresh
            for reply in fresh:
                del missing[reply.metadata.reply_to_message_id]
            left = None if end is None else end - time.monotonic()
            if not missing or (left is not None and left <= 0):
                break
            self.wait(left)
        self.abandon(missing, f"no reply within {timeout} s")
        return replies

    def wait(self, timeout_s: float | None) -> None:
        """Blocks for a moment, until a reply arrives or `timeout_s` has passed: call `pull_messages` afterwards."""
        slice_s = SLICE_S if timeout_s is None else max(0.0, min(SLICE_S, timeout_s))
        start = time.monotonic()
        with self._lock:
            if not self._arrived:
                self._receive(slice_s)
            idle = not self._arrived
        if idle:  # a fleet that knows of nothing outstanding returns at once: lost replies must not make this spin
            time.sleep(max(0.0, min(0.01, slice_s - (time.monotonic() - start))))

    def abandon(self, message_ids: Iterable[str], reason: str) -> None:
        """Waits no longer for these; their replies will be dropped."""
        with self._lock:
            missing = []
            for message_id in message_ids:
                self._arrived.pop(message_id, None)
                if (sent := self._sent.pop(message_id, None)) is not None:
                    missing.append(message_id)
                    self._fail(sent, reason)
            if missing:
                self.fleet.abandon(missing)

    def _push(self, message: Message) -> str:
        message_id = new_message_id()
        # Flower stamps the process-global run at construction; with several runs in a process the grid knows better.
        stamp = {"_message_id": message_id, "_run_id": self._run.run_id, "_src_node_id": SERVER_NODE_ID}
        message.metadata.__dict__.update(stamp)
        sent = _Sent(message, round_of(message))
        self._sent[message_id] = sent
        self._first_expiry = min(self._first_expiry, sent.expires_at)
        try:
            self.fleet.submit(message)
        except PeerError as error:
            self._arrive(error_reply(message, ErrorCode.NODE_UNAVAILABLE, str(error)))
            return message_id
        _add(self._traffic(sent.round).down, message.metadata.dst_node_id, payload_bytes(message))
        return message_id

    def _receive(self, timeout_s: float) -> None:
        for reply in self.fleet.collect(timeout_s):
            self._arrive(reply)

    def _arrive(self, reply: Message) -> None:
        sent = self._sent.get(reply.metadata.reply_to_message_id)
        if sent is None or reply.metadata.src_node_id != sent.message.metadata.dst_node_id:
            return  # late, repeated, or from a node that was not asked
        del self._sent[reply.metadata.reply_to_message_id]
        self._arrived[reply.metadata.reply_to_message_id] = reply
        node_id, size = reply.metadata.src_node_id, payload_bytes(reply)
        _add(self._traffic(sent.round).up, node_id, size)
        if reply.has_error():
            self._fail(sent, excerpt(reply.error.reason) or f"error {reply.error.code}")
        else:
            stage = sent.message.metadata.message_type
            self._events(DeviceReplied(sent.round, stage, self._device_of(node_id), size))

    def _expire(self) -> None:
        now = time.time()
        if now < self._first_expiry:
            return
        expired = [message_id for message_id, sent in self._sent.items() if sent.expires_at <= now]
        if expired:
            self.fleet.abandon(expired)
        for sent in [self._sent[message_id] for message_id in expired]:
            self._arrive(error_reply(sent.message, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "no reply in its time to live"))
        self._first_expiry = min((s.expires_at for s in self._sent.values()), default=math.inf)

    def _fail(self, sent: _Sent, reason: str) -> None:
        metadata = sent.message.metadata
        self._events(DeviceFailed(sent.round, metadata.message_type, self._device_of(metadata.dst_node_id), reason))

    def _traffic(self, number: int) -> Traffic:
        return self.traffic.setdefault(number, Traffic())


def wait(grid: Grid, timeout_s: float | None) -> None:
    """Blocks until `grid` may have replies, at most `timeout_s`; a grid that is not ours is polled."""
    if isinstance(grid, FleetGrid):
        grid.wait(timeout_s)
    else:
        time.sleep(0.1 if timeout_s is None else max(0.0, min(0.1, timeout_s)))


def _add(counts: dict[int, int], key: int, value: int) -> None:
    counts[key] = counts.get(key, 0) + value
