"""The signed lists of this node: from neighbours, from the issuer, or put into its folder by hand; and what follows.

Whoever a newer list throws out is shunned and cut off here at once, before anybody is told of the list.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from fedmesh.errors import ConfigError, IdentityError
from fedmesh.events import EventSink, ListAccepted, Notice, ignore
from fedmesh.files import read_bounded
from fedmesh.identity import Membership
from fedmesh.identity.lists import MAX_LIST_BYTES
from fedmesh.peer.post import Post
from fedmesh.transport.list_gossip import KINDS, ListGossip, Outgoing
from fedmesh.transport.lists import Shunning
from fedmesh.transport.peers import PeerTransport
from fedmesh.types import PeerId

__all__ = ["Lists"]

_LOOK_S = 2.0
_WORTH_S = 120.0


class Lists:
    """Of one node.

    Args:
        changed: called behind each newer list, with who is shunned since then.
        clock: seconds since 1970.

    Attributes:
        gossip: the core.
    """

    def __init__(
        self,
        membership: Membership,
        transport: PeerTransport,
        *,
        changed: Callable[[set[PeerId]], None],
        clock: Callable[[], float] = time.time,
        events: EventSink = ignore,
    ) -> None:
        self._membership, self._transport, self._clock, self._events = membership, transport, clock, events
        self._changed = changed
        self._channel = transport.channel("lists")
        self._loop = asyncio.get_running_loop()
        self._post = Post(self._channel, expires_in_s=_WORTH_S)
        self._others: dict[PeerId, Post] = {}
        self._shunning = Shunning(transport, membership)
        self._shunning.apply()
        self._news = False
        self.gossip = ListGossip(membership, clock=clock, accepted=self._accepted)
        self._files = self._stamps()
        self._trouble = ""

    @property
    def counts(self) -> Mapping[str, int]:
        """What was refused or lost, by reason."""
        return {**self.gossip.counts, **self._post.counts}

    def also(self, peer: PeerId, post: Post) -> None:
        """What is for `peer` goes this way: it is none of the mesh."""
        self._others[peer] = post

    def heard(self, peer: PeerId, data: bytes) -> None:
        """This came from one of them."""
        self._carry(self.gossip.received(peer, data, self._loop.time()))

    def connected(self, peer: PeerId) -> None:
        """There is a link."""
        self._carry(self.gossip.connected(peer))

    def disconnected(self, peer: PeerId) -> None:
        """There is none any more."""
        self._carry(self.gossip.disconnected(peer, self._loop.time()))

    def renewed(self) -> None:
        """The membership has newer lists by another way than through here."""
        self._news = True
        self._carry(self.gossip.changed(self._loop.time()))

    async def receive(self) -> None:
        """Takes what comes, until the transport is closed."""
        async for peer, data in self._channel.receive():
            if peer not in self._others:
                self.heard(peer, data)

    async def run(self) -> None:
        """For ever: looks after questions that nobody answers, and at the files of the identity."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._carry(self.gossip.tick(self._loop.time()))
            stamps = self._stamps()
            if stamps != self._files:
                self._files = stamps
                await self._look_at_files()

    async def aclose(self) -> None:
        """Nothing is sent any more."""
        await self._post.aclose()

    def _accepted(self, kind: str, version: int, source: str = "neighbour") -> None:
        self._news = True
        self._events(ListAccepted(kind, version, source))

    def _carry(self, outgoing: list[Outgoing]) -> None:
        if self._news:
            self._news = False
            new = self._shunning.apply()
            self._transport.check()
            self._changed(new)
        for item in outgoing:
            self._others.get(item.to, self._post).send(item.to, item.data)

    async def _look_at_files(self) -> None:
        """Somebody has put a list there (``fedmesh ca lists``), or renewed the certificate by hand."""
        is_newer = False
        for kind in KINDS:
            path = self._membership.folder / f"{kind}.signed"
            try:
                lists = {kind: await asyncio.to_thread(read_bounded, path, MAX_LIST_BYTES)}
                if self._membership.accept(self._clock(), **lists):
                    held = self._membership.roster if kind == "roster" else self._membership.revocations
                    self._accepted(kind, held.header.version, "folder")
                    is_newer = True
            except (IdentityError, ConfigError) as error:
                if self._trouble != str(error):
                    self._events(Notice(f"{path} is not taken over: {error}"))
                self._trouble = str(error)
        if is_newer:  # not `_news`: what came meanwhile has seen to that, and told nobody
            self._carry(self.gossip.changed(self._loop.time()))

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        stamps = []
        for kind in KINDS:
            try:
                found = (self._membership.folder / f"{kind}.signed").stat()
                stamps.append((found.st_mtime_ns, found.st_ino))
            except OSError:
                stamps.append((0, 0))
        return tuple(stamps)
