"""Devices behind a transport as a Flower fleet: one run's messages out, sealed for each device, and its replies in.

A reply counts if it is to something that was asked, comes from whom it was asked of, and is the first. What cannot be
read of such a reply becomes an error reply: it costs its device the round, and nobody else. A message is waited for
until its reply, its abandonment or its end of life; whoever is gone by then is given up at once.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import Message
from flwr.common.constant import ErrorCode

from fedmesh.errors import ConfigError, DecodeError, PeerError
from fedmesh.events import DeviceAnswered, EventSink, ignore
from fedmesh.fleet.protocol import Abandon, Here, Instruct, Offer, Reply
from fedmesh.fleet.switchboard import Switchboard
from fedmesh.flower.envelope import Buffer, Envelope, fold, unfold
from fedmesh.flower.identity import SERVER_NODE_ID
from fedmesh.flower.node import error_reply
from fedmesh.flower.records import round_of
from fedmesh.identity.packets import MAX_PARTS

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Offering", "TransportFleet"]

Offering = Callable[[str, Here], tuple[Offer, Sequence[Buffer]] | None]
"""(device, how it is) -> what is offered to it; None: nothing."""

_SLICE_S = 0.25
_ABANDONED_S = 600.0
_LONGEST_ABANDON = 200
_DAY_S = 86_400.0


@dataclass(slots=True, eq=False)
class _Asked:
    message: Message
    name: str
    sending: "Future[None] | None" = None


@dataclass(frozen=True, slots=True)
class _Answer:
    asked: _Asked
    error: str
    parts: tuple[Buffer, ...] = ()


class TransportFleet:
    """A `fedmesh.flower.fleet.Fleet` for run `run`, used by the run's thread; the rest is the switchboard's.

    Args:
        run: its Flower run id.
        switchboard: sends and hears.
        offering: says what is offered to devices.
        deadline_s: a message is good for so long at most: the longest stage.
        max_reply_bytes: of one reply; a longer one is an error.
        events: gets DeviceAnswered.

    Attributes:
        stop: an exception that `collect` and `submit` raise from now on: how the run is ended from outside.
    """

    def __init__(
        self,
        run: int,
        switchboard: Switchboard,
        offering: Offering,
        *,
        deadline_s: float | None,
        max_reply_bytes: int,
        events: EventSink = ignore,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.run = run
        self.stop: Exception | None = None
        self._switchboard, self._offering = switchboard, offering
        self._life_s = _DAY_S if deadline_s is None else min(deadline_s, _DAY_S)
        self._max_reply_bytes = max_reply_bytes
        self._events, self._wall = events, wall
        self._lock = threading.Lock()
        self._asked: dict[str, _Asked] = {}
        self._inbox: queue.SimpleQueue[_Answer] = queue.SimpleQueue()  # at most one of each that was asked
        self._closed = False
        switchboard.attach(run, self)

    # A fleet, on the run's thread.

    @property
    def node_ids(self) -> Sequence[int]:
        """Nodes of the devices that have accepted the run, are there and willing, ascending."""
        return () if self._closed else self._switchboard.taking_part(self.run)

    def submit(self, message: Message) -> None:
        """Seals and sends `message`, in the background. The message must not be changed afterwards.

        Raises:
            PeerError: there is no such device, or the fleet was closed.
            ConfigError: it has more arrays than a packet has parts.
        """
        self._check_stopped()
        metadata = message.metadata
        with self._switchboard.roll() as roll:
            name = roll.name_of(metadata.dst_node_id)
        if name is None or self._closed:
            raise PeerError(f"node {metadata.dst_node_id} cannot be reached: it is no device that is enrolled now")
        left_s = min(metadata.created_at + metadata.ttl - self._wall(), self._life_s)
        if left_s <= 0:
            raise PeerError(f"a message for {name} was past its time to live before it was sent")
        envelope = fold(message)
        if len(envelope.buffers) >= MAX_PARTS:
            raise ConfigError(
                f"a message with {len(envelope.buffers)} arrays cannot be sent: put the weights into one, as fedmesh's "
                f"own strategies do, or into fewer than {MAX_PARTS}"
            )
        asked = _Asked(message, name)
        with self._lock:
            self._asked[metadata.message_id] = asked
        body = Instruct(self.run, metadata.message_id, metadata.message_type, round_of(message))
        asked.sending = self._switchboard.start(self._send(asked, body, envelope, left_s))

    def collect(self, timeout_s: float | None) -> list[Message]:
        """See `Fleet.collect`. Raises: what `stop` is."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._check_stopped()
            left_s = _SLICE_S if end is None else min(_SLICE_S, end - time.monotonic())
            try:
                first = self._inbox.get(block=left_s > 0 and bool(self._asked), timeout=max(left_s, 0.001))
            except queue.Empty:
                if self._asked and left_s > 0:
                    continue
                return []
            return [self._opened(answer) for answer in (first, *self._waiting())]

    def abandon(self, message_ids: Collection[str]) -> None:
        """Tells the devices that nobody waits for these any more; what is on its way to be sent is not sent."""
        dropped: dict[str, list[str]] = {}
        for message_id in message_ids:
            if (asked := self._forget(message_id)) is not None:
                dropped.setdefault(asked.name, []).append(message_id)
        for name, messages in dropped.items():
            for start in range(0, len(messages), _LONGEST_ABANDON):
                body = Abandon(self.run, tuple(messages[start : start + _LONGEST_ABANDON]))
                self._switchboard.send_soon(name, body, expires_in_s=min(self._life_s, _ABANDONED_S))

    def states(self) -> Mapping[int, bytes]:
        """None: a device keeps its state to itself."""
        return {}

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Raises: ConfigError: there are states, so the journal is a simulation's."""
        if states:
            raise ConfigError(
                f"the journal holds the states of {len(states)} nodes, which are on the devices in a fleet: it is of a "
                "simulation; name another folder"
            )

    def close(self) -> None:
        """Abandons what is out and hears nothing any more; idempotent."""
        if not self._closed:
            self._closed = True
            self.abandon(list(self._asked))
            self._switchboard.detach(self.run, over=False)

    # A party of the switchboard, on the event loop's thread.

    def offer(self, name: str, here: Here) -> tuple[Offer, Sequence[Buffer]] | None:
        """See `Party.offer`."""
        return self._offering(name, here)

    def replied(self, sender: str, reply: Reply, parts: Sequence[Buffer]) -> str:
        """See `Party.replied`."""
        with self._lock:
            asked = self._asked.get(reply.message)
            if asked is None or asked.name != sender:
                return "unasked"  # late, repeated, abandoned, or somebody else's
            del self._asked[reply.message]
        if asked.sending is not None:
            asked.sending.cancel()
        if sum(memoryview(part).nbytes for part in parts) > self._max_reply_bytes:
            self._inbox.put(_Answer(asked, f"a reply of more than {self._max_reply_bytes} bytes came"))
            return "oversized"
        if bool(reply.error) == bool(parts):
            self._inbox.put(_Answer(asked, "a reply came with neither an envelope nor an error, or with both"))
            return "fields"
        self._inbox.put(_Answer(asked, reply.error, tuple(parts)))
        return ""

    def look_after(self, is_gone: Callable[[str], bool]) -> None:
        """See `Party.look_after`."""
        with self._lock:
            waiting = list(self._asked.items())
        for message_id, asked in waiting:
            if is_gone(asked.name):
                self._fail(message_id, "the device is gone")

    def events(self, event: DeviceAnswered) -> None:
        """See `Party.events`."""
        self._events(event)

    async def _send(self, asked: _Asked, body: Instruct, envelope: Envelope, left_s: float) -> None:
        try:
            parts = (envelope.meta, *envelope.buffers)
            receipt = await self._switchboard.send(asked.name, body, parts, expires_in_s=left_s)
            del parts, envelope
            await receipt.delivered()
        except PeerError as error:
            self._fail(body.message, str(error))
        except asyncio.CancelledError:  # it was answered or abandoned
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours must not leave the round waiting without a word
            self._fail(body.message, f"it could not be sent: {type(error).__name__}: {error}")

    # Both.

    def _check_stopped(self) -> None:
        if self.stop is not None:
            raise self.stop

    def _forget(self, message_id: str) -> _Asked | None:
        with self._lock:
            asked = self._asked.pop(message_id, None)
        if asked is not None and asked.sending is not None:
            asked.sending.cancel()
        return asked

    def _fail(self, message_id: str, reason: str) -> None:
        with self._lock:
            asked = self._asked.pop(message_id, None)
        if asked is not None:
            self._inbox.put(_Answer(asked, reason))

    def _waiting(self) -> list[_Answer]:
        found = []
        while True:
            try:
                found.append(self._inbox.get_nowait())
            except queue.Empty:
                return found

    def _opened(self, answer: _Answer) -> Message:
        asked = answer.asked.message
        if answer.error:
            return error_reply(asked, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, answer.error)
        try:
            reply = unfold(Envelope(bytes(answer.parts[0]), answer.parts[1:]))
            _check(reply, asked)
        except DecodeError as error:
            self._switchboard.counts["malformed"] += 1
            return error_reply(asked, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"its reply cannot be read: {error}")
        return reply


def _check(reply: Message, asked: Message) -> None:
    """Raises: DecodeError: it says that it is the reply to something else."""
    found, wanted = reply.metadata, asked.metadata
    got = (found.run_id, found.src_node_id, found.dst_node_id, found.reply_to_message_id, found.message_type)
    want = (wanted.run_id, wanted.dst_node_id, SERVER_NODE_ID, wanted.message_id, wanted.message_type)
    if got != want:
        raise DecodeError(f"it is of {got}, wanted {want}"[:300])
