"""The asyncio side that every carrier shares: `send` waits, `receive` hands out, and the endpoint's frames get carried.

Everything here runs on one event loop. A carrier (`Link`) says when it has room, carries frames, and calls `arrived`,
`connected` and `noticed`; it may lose, repeat and reorder.
"""

import asyncio
import functools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Protocol, Self

from fedmesh.errors import ConfigError, DeliveryError, PeerError
from fedmesh.identity.names import checked_id
from fedmesh.transport.announcing import Announcer, Hearer, published
from fedmesh.transport.channel import Channel, Receipt
from fedmesh.transport.content import Content
from fedmesh.transport.endpoint import Carried, Endpoint
from fedmesh.transport.frames import Data
from fedmesh.transport.incoming import Delivered
from fedmesh.transport.limits import CHANNELS, FLEETING, MAX_CHUNK_BYTES
from fedmesh.transport.outgoing import Settled
from fedmesh.transport.spool import Spool
from fedmesh.transport.timers import Timer, Timers
from fedmesh.types import PeerId

__all__ = ["Courier", "Link", "Receipt"]


class Link(Protocol):
    """What carries frames. `announces`: whether this party is one whose announcements are read."""

    @property
    def announces(self) -> bool: ...  # noqa: D102 - see the class

    def announce(self, what: str, data: bytes) -> None:
        """Takes an announcement on its way, when there is room; `Courier.announcement_settled` follows."""
        ...

    def has_room(self) -> bool:
        """Whether `carry` may be called now; false while there is no connection."""
        ...

    def carry(self, frame: Carried) -> None:
        """Takes a frame on its way."""
        ...

    async def aclose(self) -> None:
        """Ends the connection; idempotent."""
        ...


class Courier:
    """A `fedmesh.types.Transport` over a link.

    Args:
        endpoint: the party's; used by nothing else. spool: the one it was made with.
        wall: Unix seconds, for deadlines.

    Attributes:
        present: peers that said they are there, a hint: a broker can lie about it, and a crash shows with a delay.
        on_presence: called with a peer and whether it is there now.
        on_announcement: called with a coordinator, what it announces and the value; empty: withdrawn.
    """

    def __init__(
        self, endpoint: Endpoint, timers: Timers, *, spool: Spool | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self.present: set[PeerId] = set()
        self.on_presence: Callable[[PeerId, bool], None] = lambda _peer, _there: None
        self.on_announcement: Callable[[PeerId, str, bytes], None] = lambda _peer, _what, _data: None
        self._endpoint, self._timers, self._spool, self._wall = endpoint, timers, spool, wall
        self._link: Link | None = None
        self._channels = [Channel(self, name, number) for number, name in enumerate(CHANNELS)]
        self._announcer = Announcer()
        self._hearer = Hearer()
        self._subscribed: list[tuple[str, Callable[[PeerId, bytes], None]]] = []
        self._out: dict[int, Receipt] = {}
        self._room: list[asyncio.Future[None]] = []
        self._order = asyncio.Lock()
        self._timer: Timer | None = None
        self._timer_at = math.inf
        self._closed = False
        self._pumping: asyncio.Handle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def counts(self) -> Counter[str]:
        """What was refused or out of the ordinary, by reason, for metrics."""
        return self._endpoint.counts

    @property
    def is_closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    def attach(self, link: Link) -> None:
        """Begins to use a link, and takes up what the spool holds."""
        self._link = link
        self._process(list(self._endpoint.restore(self._timers.now())))
        self.pump()

    def channel(self, name: str) -> Channel:
        """The channel `name`, one of `CHANNELS`; the transport's own methods are those of the first, ``main``.

        Raises:
            ConfigError: there is no such channel.
        """
        if name not in CHANNELS:
            raise ConfigError(f"there is no channel {name!r:.80}: there are {', '.join(CHANNELS)}")
        return self._channels[CHANNELS.index(name)]

    async def announce(self, what: str, data: bytes) -> None:
        """Publishes a coordinator's value of `what`, one of `ANNOUNCEMENTS`; returns when the broker has it.

        It is kept, and published again on every new connection, until another one replaces it; an empty one withdraws
        it. Cancelled, it stops waiting; the announcement itself goes on.

        Raises:
            ConfigError: this party is not a coordinator, or nothing of this name is announced.
            PeerError: it is longer than `MAX_ANNOUNCEMENT_BYTES`.
            DeliveryError: the broker's access rules do not allow it, or the transport was closed.
        """
        if self._link is None or not self._link.announces:
            raise ConfigError("a device announces nothing: a coordinator does")
        if self._closed:
            raise DeliveryError(f"the announcement {what!r:.80} was not made: closed", peer="everybody")
        outcome = self._announcer.put(what, data)
        self.pump()
        await published(what, outcome)

    def subscribe(self, what: str, call: Callable[[PeerId, bytes], None]) -> None:
        """`call` gets every new announcement of `what`, beside `on_announcement`; what was there is in `announced`."""
        self._subscribed.append((what, call))

    def unsubscribe(self, what: str, call: Callable[[PeerId, bytes], None]) -> None:
        """Ends what `subscribe` began. Raises: ValueError: it was not begun."""
        self._subscribed.remove((what, call))

    @property
    def announced(self) -> dict[tuple[PeerId, str], bytes]:
        """(coordinator, what) -> what it announces; a hint, of which nothing is proved."""
        return self._hearer.announced

    async def send(self, to: PeerId, data: bytes, *, expires_in_s: float | None = None, channel: int = 0) -> None:
        """Returns when the peer's transport has the whole message; waits while there is no room for it.

        Cancelled, it stops waiting; the message itself goes on until it is delivered or has expired.

        Args:
            to: whom it is for.
            data: copied by nobody: do not change it.
            channel: its number; `Channel.send` knows it.
            expires_in_s: seconds after which nobody wants it, the round's deadline; `Limits.lifetime_s` if None.

        Raises:
            DeliveryError: it was refused, has expired, or the transport was closed.
            PeerError: it is longer than the limit, or than the whole spool.
        """
        await (await self.post(to, data, expires_in_s=expires_in_s, channel=channel)).delivered()

    async def post(self, to: PeerId, data: bytes, *, expires_in_s: float | None = None, channel: int = 0) -> Receipt:
        """As `send`, but returns when the message is taken on; where there is a spool it is durable then.

        Raises:
            PeerError: it is longer than the limit, or than the whole spool; `to` is no name.
            DeliveryError: the transport was closed, or the peer is shunned.
        """
        checked_id(to)
        limits, kept = self._endpoint.limits, self._keeping(channel) is not None
        lifetime_s = limits.lifetime_s if expires_in_s is None else expires_in_s
        if not 0 < lifetime_s <= limits.lifetime_s:
            raise ConfigError(f"a message is to expire in {lifetime_s} s: 0 to {limits.lifetime_s} can be asked for")
        if len(data) > limits.message_bytes:
            raise PeerError(f"a message of {len(data)} bytes for {to}, the limit is {limits.message_bytes}")
        expires_at = self._wall() + lifetime_s
        long = len(data) > limits.chunk_bytes
        content = await Content.of_long(data, limits.chunk_bytes) if long else Content.of(data, MAX_CHUNK_BYTES)
        while True:
            while not self._admits(to, content, channel):
                self._room.append(self._loop.create_future())
                await self._room[-1]
            if not kept and not self._order.locked():  # at once: answers that wait go with it
                return self._submit(to, self._endpoint.next_sequence(), data, content, expires_at, channel=channel)
            submitting = self._submit_in_order(to, data, content, expires_at, channel)
            # Shielded: a message that is half on the disk is not left to the next process.
            if (receipt := await asyncio.shield(self._loop.create_task(submitting))) is not None:
                return receipt

    def receive(self) -> AsyncIterator[tuple[PeerId, bytes]]:
        """Messages with who sent them, each once; ends when the transport is closed.

        A message counts as taken when the next one is asked for, or by `done`. One that was in hand when the process
        was killed, or the transport closed, is handed out again by one with the same spool. One reader at a time.
        """
        return self._channels[0].receive()

    def done(self) -> None:
        """The message in hand is dealt with: for who asks for no other one before closing."""
        self._channels[0].done()

    def taken(self, message: Delivered) -> None:
        """A channel's reader is done with a message."""
        self._endpoint.taken(message)
        self._pump_later()

    def shun(self, peer: PeerId) -> None:
        """Takes nothing from `peer` any more and sends it nothing: its certificate was revoked.

        What came from it and was not handed out is dropped.
        """
        self._process(self._endpoint.shun(peer))
        for message in [message for channel in self._channels for message in channel.drop(peer)]:
            self.counts["shunned"] += 1
            self.taken(message)
        self._hearer.forget(peer)
        self.present.discard(peer)

    def readmit(self, peer: PeerId) -> None:
        """Takes `peer`, if it was shunned, for a peer again: it has a new certificate."""
        self._endpoint.readmit(peer)

    async def aclose(self) -> None:
        """Stops; what was not delivered fails here, and stays in the spool where there is one. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            await self._link.aclose()
        for receipt in self._out.values():
            receipt.settle("the transport was closed")
        self._announcer.close()
        self._wake_senders()
        for channel in self._channels:
            channel.wake()
        if self._spool is not None:
            async with self._order:  # not while a message is being written
                self._spool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # What a link calls, on the event loop.

    def arrived(self, peer: PeerId, data: Data) -> None:
        """A parcel came from `peer`, for which the link vouches. It is not needed after that."""
        self._process(self._endpoint.handle(peer, data, self._timers.now()))
        self._not_later()  # an answer that came just before wanted it, and the message's reader is to be first
        self._pump_later()

    def connected(self) -> None:
        """There is a connection (again)."""
        self._endpoint.reached()
        self._announcer.again()
        self.pump()

    def heard(self, peer: PeerId, what: str, data: bytes) -> None:
        """A coordinator announces something."""
        if self._endpoint.is_shunned(peer):
            self.counts["shunned"] += 1
            return
        match self._hearer.heard(peer, what, data):
            case "new":
                self.on_announcement(peer, what, data)
                for call in [call for wanted, call in self._subscribed if wanted == what]:
                    call(peer, data)
            case "refused":
                self.counts["announcement"] += 1

    def announcement_settled(self, what: str, data: bytes, error: str = "") -> None:
        """The broker has an announcement of ours, or has refused it."""
        if error:
            self.counts["denied"] += 1
        self._announcer.settled(what, data, error)

    def noticed(self, peer: PeerId, *, there: bool) -> None:
        """A peer came or went."""
        if self._endpoint.is_shunned(peer):
            return
        if there:
            self.present.add(peer)
            self._endpoint.reached(peer)
        else:
            self.present.discard(peer)
        self.on_presence(peer, there)
        self.pump()

    def left(self, sequence: int) -> None:
        """A message that goes in one frame waits here no longer (see `Carried.whole`)."""
        if (receipt := self._out.get(sequence)) is not None:
            receipt.go()

    def denied(self, peer: PeerId, reason: str) -> None:
        """The broker does not let us write to `peer`: waiting would not help."""
        self.counts["denied"] += 1
        self._process(self._endpoint.give_up(peer, reason))

    def pump(self) -> None:
        """Carries what there is room for, and sees to the next timer."""
        self._not_later()
        if self._closed or self._link is None:
            return
        now, link = self._timers.now(), self._link
        while link.has_room():
            if (announcement := self._announcer.next()) is not None:
                link.announce(*announcement)
            elif (frame := self._endpoint.poll(now)) is not None:
                link.carry(frame)
            else:
                break
        self._arm(self._endpoint.wakeup(now))

    def _keeping(self, channel: int) -> Spool | None:
        return None if channel in FLEETING else self._spool

    def _has_room(self, to: PeerId, content: Content, channel: int) -> bool:
        spool = self._keeping(channel)
        on_disk = spool is None or spool.has_room(content.size + len(content.hashes))
        return on_disk and self._endpoint.has_room(to, content.size, channel)

    def _admits(self, to: PeerId, content: Content, channel: int) -> bool:
        """Whether there is room. Raises: DeliveryError: there never will be."""
        if self._closed or self._endpoint.is_shunned(to):
            why = f"{to} is shunned" if self._endpoint.is_shunned(to) else "the transport is closed"
            raise DeliveryError(f"a message for {to} was not taken on: {why}", peer=to)
        return self._has_room(to, content, channel)

    def _submit(
        self, to: PeerId, sequence: int, data: bytes, content: Content, expires_at: float, *, channel: int
    ) -> Receipt:
        self._endpoint.submit(to, sequence, content, expires_at, data, channel=channel)
        receipt = self._out[sequence] = Receipt(to)
        self.pump()
        return receipt

    async def _submit_in_order(
        self, to: PeerId, data: bytes, content: Content, expires_at: float, channel: int
    ) -> Receipt | None:
        """The receipt; None: somebody else took the room."""
        async with self._order:  # numbers have to be submitted in the order in which they are given out
            if self._closed or self._endpoint.is_shunned(to) or not self._has_room(to, content, channel):
                return None  # asks again, or is told why not
            sequence = self._endpoint.next_sequence()
            spool = self._keeping(channel)
            if spool is not None:
                put = functools.partial(spool.put, channel=channel)
                await asyncio.to_thread(put, to, sequence, content, expires_at, data)
            if not self.is_closed and (spool is None or not self._endpoint.is_shunned(to)):
                return self._submit(to, sequence, data, content, expires_at, channel=channel)
            receipt = Receipt(to)
            receipt.settle("the transport was closed" if self.is_closed else f"{to} is shunned")
            if spool is not None and not self.is_closed:  # else it was closed while the disk was written
                spool.drop(sequence)  # and the next process sends it
            return receipt

    def _process(self, effects: list[Delivered | Settled]) -> None:
        for effect in effects:
            if isinstance(effect, Delivered):
                self._channels[effect.channel].put(effect)
            else:
                if (receipt := self._out.pop(effect.sequence, None)) is not None:
                    receipt.settle(effect.error)
                self._wake_senders()

    def _wake_senders(self) -> None:
        waiting, self._room = self._room, []
        for room in waiting:
            if not room.done():
                room.set_result(None)

    def _arm(self, when: float) -> None:
        if when >= self._timer_at - 0.001:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._timers.call_at(when, self._tick)

    def _pump_later(self) -> None:
        """After whoever waits for a message: what it sends takes the answers along."""
        if self._pumping is None:
            self._pumping = self._loop.call_soon(self.pump)

    def _not_later(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
            self._pumping = None

    def _tick(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if not self._closed:
            self._process(self._endpoint.tick(self._timers.now()))
            self.pump()
