"""The sending half, without I/O: which frame is next, what an answer means, when to ask again.

A message is settled once: acknowledged by the digest of its content, refused for good, or expired. Frames are taken
out one by one (`poll`), by whoever can send them, so nothing piles up behind a slow link; messages take turns. What was
lost on the way is found by announcing again with the next attempt: the answer to that attempt says what arrived, and
links that keep order make that exact.
"""

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fedmesh.errors import PeerError
from fedmesh.transport.accounts import Account
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Chunk, Done, Have, Ident, Open, Refuse, Whole
from fedmesh.transport.limits import Limits
from fedmesh.types import PeerId

__all__ = ["Outgoing", "Sender", "Settled"]

_AGAIN = frozenset({"again", "busy", "unknown", "stale"})
_HIGHEST = 1 << 62


class Settled(NamedTuple):
    """What became of a message that was sent: `error` is empty when its receiver has it."""

    peer: PeerId
    sequence: int
    error: str


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message on its way. `data` may be left out until it is its turn (`Sender` asks for it then)."""

    peer: PeerId
    sequence: int
    content: Content
    expires_at: float
    data: bytes | None
    channel: int = 0
    attempt: int = 0
    asks: bool = True
    """Whether the next frame is the announcement (or the whole message)."""
    todo: deque[int] = field(default_factory=deque)
    unheard: set[int] = field(default_factory=set)
    answered: int = -1
    """The attempt whose answer was seen last."""
    retry_at: float = math.inf
    patience_s: float = 0.0
    waits_for_room: bool = False
    """Its receiver was busy, and has not been asked since."""
    active: bool = False
    queued: bool = False

    @property
    def short(self) -> bool:
        """Whether it goes in one frame."""
        return self.content.chunks == 1


@dataclass(slots=True)
class _Queue:
    """Messages to one peer on one channel: `waiting` and `active` are of long ones and of short ones."""

    messages: int = 0
    waiting: tuple[deque[Outgoing], deque[Outgoing]] = field(default_factory=lambda: (deque(), deque()))
    active: list[int] = field(default_factory=lambda: [0, 0])


@dataclass(slots=True)
class _Lane:
    """All messages to one peer."""

    incarnation: int
    messages: dict[int, Outgoing] = field(default_factory=dict)
    queues: dict[int, _Queue] = field(default_factory=dict)

    def queue(self, channel: int) -> _Queue:
        """The one of `channel`."""
        queue = self.queues.get(channel)
        if queue is None:
            queue = self.queues[channel] = _Queue()
        return queue


class Sender:
    """Messages to many peers.

    Args:
        incarnation: of this sender; every peer accepts only the highest it has seen. renew: is told (peer, incarnation)
            when a peer knew a higher one, for whoever has to remember it.
        load: gives the bytes of message `sequence` where `submit` was given none.
        chance: jitter of retries.
        wall: Unix seconds, for deadlines; all other times are those of the `now` arguments.
        counts: what was refused, by reason.
    """

    def __init__(
        self,
        limits: Limits,
        incarnation: int,
        *,
        chance: random.Random,
        wall: Callable[[], float],
        counts: Counter[str],
        load: Callable[[int], bytes] | None = None,
        renew: Callable[[PeerId, int], None] | None = None,
    ) -> None:
        self._limits, self._incarnation, self._chance, self._wall = limits, incarnation, chance, wall
        self._counts, self._load, self._renew = counts, load, renew
        self._lanes: dict[PeerId, _Lane] = {}
        self._ready: deque[Outgoing] = deque()
        self._parked: dict[PeerId, list[Outgoing]] = {}
        self._deadlines: list[tuple[float, int, PeerId]] = []
        self._retry_at = math.inf
        self._last = -1
        self._settled = 0  # of whose deadlines the heap may still hold some
        self._held = Account()

    @property
    def held_bytes(self) -> int:
        """Of all messages."""
        return self._held.total

    def has_room(self, peer: PeerId, size: int, channel: int = 0) -> bool:
        """Whether `submit` would take a message of `size` bytes for `peer` now."""
        lane = self._lanes.get(peer)
        queue = lane.queues.get(channel) if lane else None
        if queue is not None and queue.messages >= self._limits.queued:
            return False
        return self._held.has_room(size, channel, self._limits.outgoing_bytes)

    def submit(
        self,
        peer: PeerId,
        sequence: int,
        content: Content,
        expires_at: float,
        data: bytes | None,
        *,
        channel: int = 0,
        incarnation: int = 0,
        restored: bool = False,
    ) -> None:
        """Takes a message on; sequences grow. `incarnation`: what this peer made ours rise to (`renew`).

        `restored`: it was taken on by an earlier process, whatever room there is now.

        Raises:
            PeerError: it is longer than the limit, or there is no room.
            ValueError: the sequence is not above the last: a receiver would take it for one it had.
        """
        if content.size > self._limits.message_bytes and not restored:
            raise PeerError(
                f"a message of {content.size} bytes for {peer}, the limit is {self._limits.message_bytes}: raise "
                "message_bytes at both ends, or send less"
            )
        if not (restored or self.has_room(peer, content.size, channel)):
            raise PeerError(f"too much is waiting for {peer}, or in all: wait until something is settled")
        if sequence <= self._last:
            raise ValueError(f"message {sequence} is submitted after {self._last}: sequences have to grow")
        self._last = sequence
        lane = self._lanes.get(peer)
        if lane is None:
            lane = self._lanes[peer] = _Lane(max(incarnation, self._incarnation))
        message = Outgoing(peer, sequence, content, expires_at, data, channel)
        lane.messages[sequence] = message
        queue = lane.queue(channel)
        queue.messages += 1
        queue.waiting[message.short].append(message)
        self._held.add(content.size, channel)
        heapq.heappush(self._deadlines, (expires_at, sequence, peer))
        self._activate(lane, queue, message.short)

    def poll(self, now: float, peer: PeerId | None = None) -> tuple[PeerId, Open | Whole | Chunk, float] | None:
        """The next frame, whom it is for and for how many seconds it is worth carrying; None: nothing to send now.

        With `peer` only if the next one happens to be for that one.
        """
        while self._ready:
            if peer is not None and self._ready[0].peer != peer:
                return None
            message = self._ready.popleft()
            if (parked := self._parked.get(message.peer)) is not None:
                parked.append(message)
                continue
            message.queued = False
            lane = self._lanes.get(message.peer)
            if lane is None or lane.messages.get(message.sequence) is not message:
                continue
            frame = self._next(lane, message, now)
            if frame is None:
                continue
            self._make_ready(message)
            left_s = message.expires_at - self._wall()
            worth_s = self._limits.retry_max_s if isinstance(frame, Chunk) else message.patience_s
            return message.peer, frame, max(1.0, min(left_s, worth_s))
        return None

    def handle(self, peer: PeerId, frame: Have | Done | Refuse, now: float) -> list[Settled]:
        """Takes an answer in."""
        lane = self._lanes.get(peer)
        message = lane.messages.get(frame.ident.sequence) if lane else None
        if lane is None or message is None or not message.active or frame.ident.incarnation != lane.incarnation:
            self._counts["answer_late"] += 1  # to something settled, or never sent
            return []
        if isinstance(frame, Refuse):
            return self._refused(lane, message, frame, now)
        if frame.digest != message.content.digest:
            self._counts["answer_forged"] += 1
            return []
        if isinstance(frame, Done):
            return [self._settle(lane, message, "")]
        self._have(message, frame, now)
        return []

    def tick(self, now: float) -> list[Settled]:
        """Asks again where no answer came, and gives up what has expired."""
        settled = []
        wall = self._wall()
        while self._deadlines and self._deadlines[0][0] <= wall:
            _, sequence, peer = heapq.heappop(self._deadlines)
            lane = self._lanes.get(peer)
            if lane is not None and (message := lane.messages.get(sequence)) is not None:
                settled.append(self._settle(lane, message, "expired: its time was over before its receiver had it"))
        if now >= self._retry_at:
            late = [m for lane in self._lanes.values() for m in lane.messages.values() if m.retry_at <= now]
            for message in late:
                self._ask_again(message)
            self._retry_at = min(
                (m.retry_at for lane in self._lanes.values() for m in lane.messages.values()), default=math.inf
            )
        return settled

    def wakeup(self, now: float) -> float:
        """Time by which to call `tick`; infinite when nothing waits."""
        expiry = now + max(0.0, self._deadlines[0][0] - self._wall()) if self._deadlines else math.inf
        return min(self._retry_at, expiry)

    def reached(self, peer: PeerId | None = None) -> None:
        """`peer` has come back (None: the link has): asks at once how far everything is."""
        lanes = self._lanes.values() if peer is None else filter(None, [self._lanes.get(peer)])
        for lane in lanes:
            for message in lane.messages.values():
                if message.active:
                    message.patience_s = 0.0
                    self._ask_again(message)

    def hold(self, peer: PeerId) -> None:
        """`poll` gives nothing for `peer` until it is released."""
        self._parked.setdefault(peer, [])

    def release(self, peer: PeerId) -> None:
        """`poll` gives what there is for `peer` again, in its turn."""
        self._ready.extend(self._parked.pop(peer, ()))

    def give_up(self, peer: PeerId, reason: str) -> list[Settled]:
        """Settles everything for `peer` with an error."""
        lane = self._lanes.get(peer)
        return [self._settle(lane, m, reason) for m in list(lane.messages.values())] if lane else []

    def _activate(self, lane: _Lane, queue: _Queue, short: bool) -> None:
        most, waiting = self._limits.small if short else self._limits.transfers, queue.waiting[short]
        while waiting and queue.active[short] < most:
            message = waiting.popleft()
            if message.sequence not in lane.messages:
                continue  # expired while it waited
            queue.active[short] += 1
            message.active = True
            self._make_ready(message)

    def _make_ready(self, message: Outgoing) -> None:
        sends = message.asks or (message.todo and len(message.unheard) < self._limits.window)
        if sends and not message.queued:
            message.queued = True
            self._ready.append(message)

    def _next(self, lane: _Lane, message: Outgoing, now: float) -> Open | Whole | Chunk | None:
        content, ident = message.content, Ident(lane.incarnation, message.sequence)
        if message.data is None and self._load is not None:
            message.data = self._load(message.sequence)
        data = message.data or b""
        if message.asks:
            message.asks = message.waits_for_room = False
            message.attempt += 1
            self._wait(message, now)
            floor, expires_ms = next(iter(lane.messages)), int(message.expires_at * 1000)
            if message.short:
                return Whole(ident, floor, expires_ms, content.digest, data, message.channel)
            described = content.size, content.chunk_bytes, content.hashes
            return Open(ident, floor, expires_ms, message.attempt, *described, message.channel)
        if message.todo and len(message.unheard) < self._limits.window:
            index = message.todo.popleft()
            message.unheard.add(index)
            message.retry_at = now + message.patience_s
            start = index * content.chunk_bytes
            return Chunk(ident, index, memoryview(data)[start : start + content.length(index)])
        return None

    def _have(self, message: Outgoing, frame: Have, now: float) -> None:
        chunks = message.content.chunks
        have = int.from_bytes(frame.bitmap, "little")
        if message.short or frame.attempt != message.attempt or have >> chunks:
            # An earlier attempt's answer says nothing of what was sent since; the later one is under way.
            self._counts["answer_late" if frame.attempt < message.attempt else "answer_forged"] += 1
            return
        if message.answered != frame.attempt:  # what was sent before this attempt and is not there is lost
            message.answered = frame.attempt
            message.todo = deque(index for index in range(chunks) if not have >> index & 1)
            message.unheard.clear()
        else:
            message.unheard = {index for index in message.unheard if not have >> index & 1}
        message.patience_s = 0.0
        self._wait(message, now)
        self._make_ready(message)

    def _refused(self, lane: _Lane, message: Outgoing, frame: Refuse, now: float) -> list[Settled]:
        if frame.code not in _AGAIN:
            return [self._settle(lane, message, f"{message.peer} refused it: {frame.code}")]
        if frame.code == "stale":
            self._rise(lane, message.peer, frame.newest)
        elif frame.code == "again":
            if message.waits_for_room:
                message.patience_s = 0.0
                self._ask_again(message)
        elif frame.code == "busy":
            message.waits_for_room = True
            message.todo.clear()
            self._wait(message, now)
        elif message.answered == message.attempt:  # it has forgotten what it knew: once, until it answers again
            self._ask_again(message)
        return []

    def _rise(self, lane: _Lane, peer: PeerId, newest: int) -> None:
        """The peer has heard of a later sender of this name: the clock was set back, or the spool was lost."""
        if not lane.incarnation < newest < _HIGHEST:
            self._counts["answer_forged"] += 1
            return
        lane.incarnation = newest + 1
        if self._renew is not None:
            self._renew(peer, lane.incarnation)
        for message in lane.messages.values():
            if message.active:
                self._ask_again(message)

    def _ask_again(self, message: Outgoing) -> None:
        message.asks = True
        message.todo.clear()
        message.unheard.clear()
        message.retry_at = math.inf
        self._make_ready(message)

    def _wait(self, message: Outgoing, now: float) -> None:
        """Sets the time of the next question: doubling, plus up to a half, so that a fleet does not ask at once."""
        longer = message.patience_s * 2 if message.patience_s else self._limits.retry_s
        message.patience_s = min(longer, self._limits.retry_max_s)
        message.retry_at = now + message.patience_s * (1 + self._chance.random() / 2)
        self._retry_at = min(self._retry_at, message.retry_at)

    def _settle(self, lane: _Lane, message: Outgoing, error: str) -> Settled:
        del lane.messages[message.sequence]
        self._held.add(-message.content.size, message.channel)
        queue = lane.queues[message.channel]
        queue.messages -= 1
        if message.active:
            queue.active[message.short] -= 1
            self._activate(lane, queue, message.short)
        message.data = None
        self._settled += 1
        if self._settled > 1000 and 2 * self._settled > len(self._deadlines):
            self._forget_deadlines()
        return Settled(message.peer, message.sequence, error)

    def _forget_deadlines(self) -> None:
        self._settled = 0
        self._deadlines = [
            entry for entry in self._deadlines if (lane := self._lanes.get(entry[2])) and entry[1] in lane.messages
        ]
        heapq.heapify(self._deadlines)
