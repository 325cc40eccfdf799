"""A `Swarm` over a channel, called when it is due: its messages go out, and it is told which pieces have left."""

import asyncio
import math
from collections.abc import Callable, Mapping

from fedmesh.mesh.swarm import Outgoing, Swarm
from fedmesh.peer.alarm import Alarm
from fedmesh.peer.post import Post
from fedmesh.transport.channel import Channel
from fedmesh.types import PeerId

__all__ = ["Exchange"]

_WORTH_S = 60.0


class Exchange:
    """Of one node.

    Args:
        channel: for this alone.
        after: called with the time behind each call of the swarm; what it returns is sent too.
        due: when `after` is to be called, at the latest.
    """

    def __init__(
        self,
        swarm: Swarm,
        channel: Channel,
        *,
        after: Callable[[float], list[Outgoing]] = lambda _now: [],
        due: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.swarm = swarm
        self._channel, self._after, self._due = channel, after, due
        self._loop = asyncio.get_running_loop()
        self._post = Post(channel, expires_in_s=_WORTH_S)
        self._closed = False
        self._others: dict[PeerId, Callable[[bytes], None]] = {}
        self._alarm = Alarm(lambda: self.carry(self.swarm.tick(self.now)))

    @property
    def now(self) -> float:
        """On the swarm's clock."""
        return self._loop.time()

    @property
    def counts(self) -> Mapping[str, int]:
        """What was refused or lost, by reason."""
        return {**self.swarm.counts, **self._post.counts}

    def also(self, peer: PeerId, send: Callable[[bytes], None]) -> None:
        """What is for `peer` goes this way: it is none of the mesh. Nothing comes back before `send` returns."""
        self._others[peer] = send

    def hear(self, peer: PeerId, data: bytes) -> None:
        """This came from one of them."""
        self.carry(self.swarm.received(peer, data, self.now))

    def connected(self, peer: PeerId) -> None:
        """There is a link."""
        self.carry(self.swarm.connected(peer, self.now))

    def disconnected(self, peer: PeerId) -> None:
        """There is none any more."""
        self.carry(self.swarm.disconnected(peer, self.now))

    def changed(self) -> None:
        """There is something else to give."""
        self.carry(self.swarm.changed(self.now))

    async def receive(self) -> None:
        """Takes what comes, until the transport is closed."""
        async for peer, data in self._channel.receive():
            if peer not in self._others:
                self.hear(peer, data)

    def carry(self, outgoing: list[Outgoing]) -> None:
        """Sends this, and what follows from it."""
        if self._closed:
            return
        for item in [*outgoing, *self._after(self.now)]:
            if send := self._others.get(item.to):
                send(item.data)
            else:
                self._post.send(item.to, item.data, left=self._leaver(item.to) if item.is_piece else None)
        self._alarm.set(min(self.swarm.due, self._due()))

    async def aclose(self) -> None:
        """Nothing is sent or called any more."""
        self._closed = True
        self._alarm.cancel()
        await self._post.aclose()

    def _leaver(self, peer: PeerId) -> Callable[[], None]:
        return lambda: self.carry(self.swarm.sent(peer, self.now))
