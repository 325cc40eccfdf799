"""A channel: one purpose's part of a transport, with messages, a reader and room of its own.

A message's first frame says on which channel it is, so a receiver whose reader of that channel is slow says ``busy`` to
that channel's messages, to long ones before their bytes are sent, and to no others.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from fedmesh.errors import DeliveryError
from fedmesh.transport.incoming import Delivered
from fedmesh.types import PeerId

if TYPE_CHECKING:
    from fedmesh.transport.courier import Courier

__all__ = ["Channel", "Receipt"]


class Receipt:
    """For a message that was taken on."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self._is_gone = False
        self._outcome: str | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    async def left(self) -> None:
        """Returns when it waits here no longer: the network has it, if it goes in one frame and the carrier can tell.

        Otherwise when it is settled, well or not. What is lost under way is sent again.
        """
        while not self._is_gone:
            await self._changed()

    async def delivered(self) -> None:
        """Returns when the peer has it whole. Raises: DeliveryError: it never will."""
        while self._outcome is None:
            await self._changed()
        if self._outcome:
            raise DeliveryError(f"a message for {self.peer} was not delivered: {self._outcome}", peer=self.peer)

    # For the courier.

    def go(self) -> None:
        """It waits here no longer."""
        self._is_gone = True
        self._wake()

    def settle(self, error: str) -> None:
        """What became of it: empty, its peer has it."""
        self._is_gone = True
        if self._outcome is None:
            self._outcome = error
        self._wake()

    async def _changed(self) -> None:
        change = asyncio.get_running_loop().create_future()
        self._waiting.add(change)
        try:
            await change
        finally:
            self._waiting.discard(change)

    def _wake(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)


class Channel:
    """A `fedmesh.types.Transport` beside others on one connection. `Courier.channel` gives it."""

    def __init__(self, courier: "Courier", name: str, number: int) -> None:
        self.name = name
        self._courier, self._number = courier, number
        self._inbox: deque[Delivered] = deque()
        self._arrival = asyncio.Event()
        self._in_hand: Delivered | None = None
        self._closed = False

    async def send(self, to: PeerId, data: bytes, *, expires_in_s: float | None = None) -> None:
        """As `Courier.send`."""
        await self._courier.send(to, data, expires_in_s=expires_in_s, channel=self._number)

    async def post(self, to: PeerId, data: bytes, *, expires_in_s: float | None = None) -> Receipt:
        """As `Courier.post`."""
        return await self._courier.post(to, data, expires_in_s=expires_in_s, channel=self._number)

    def receive(self) -> AsyncIterator[tuple[PeerId, bytes]]:
        """As `Courier.receive`: the messages of this channel, for one reader at a time."""
        return _Incoming(self)

    def done(self) -> None:
        """As `Courier.done`, for the message that this channel's reader has in hand."""
        if self._in_hand is not None and not self._courier.is_closed:
            done, self._in_hand = self._in_hand, None
            self._courier.taken(done)

    async def aclose(self) -> None:
        """Its reader ends; the transport goes on, and keeps what comes on this channel as far as there is room."""
        self._closed = True
        self.wake()

    # For the courier.

    def put(self, message: Delivered) -> None:
        """A message came."""
        self._inbox.append(message)
        self._arrival.set()

    def drop(self, peer: PeerId) -> list[Delivered]:
        """Takes out what came from `peer` and is in nobody's hand."""
        dropped = [message for message in self._inbox if message.peer == peer]
        self._inbox = deque(message for message in self._inbox if message.peer != peer)
        return dropped

    def wake(self) -> None:
        """Whoever waits is to look again."""
        self._arrival.set()

    def take(self) -> Delivered | None:
        """The next message, the one before being done with; None: there is none now."""
        self.done()
        if self._inbox and not self._over:  # else what is in hand was not dealt with, and is the next process's
            self._in_hand = self._inbox.popleft()
            return self._in_hand
        return None

    async def wait_for_message(self) -> bool:
        """Returns when `take` may give one; False: no more come."""
        while not self._inbox and not self._over:
            self._arrival.clear()
            await self._arrival.wait()
        return not self._over

    @property
    def _over(self) -> bool:
        return self._closed or self._courier.is_closed


class _Incoming:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[PeerId, bytes]:
        while True:
            if (delivered := self._channel.take()) is not None:
                return delivered.peer, delivered.data
            if not await self._channel.wait_for_message():
                raise StopAsyncIteration
