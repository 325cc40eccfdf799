"""Who is connected: one connection for both directions with each peer, a bounded number of them, and none for ever.

Where two dial each other at once, the connection that the lower name dialled stays: as soon as its hello is under way
the other one is refused (``mine``), and whoever gets that hello lets go of its own attempt. A direct connection stays
before one that a neighbour relays, whoever dialled it, and takes its place.
"""

import asyncio
import secrets
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from fedmesh.errors import IdentityError
from fedmesh.identity import Membership, Peer
from fedmesh.transport.frames import Data
from fedmesh.transport.peer_link import PeerLink
from fedmesh.transport.peer_options import PeerOptions
from fedmesh.transport.peer_wire import RUN_BYTES, Hello, Kind
from fedmesh.types import PeerId

__all__ = ["RESTING", "Pool", "Watcher"]

RESTING = frozenset({"idle", "crowded"})
"""Goodbyes of who does not go away, but has no use or no room for a connection now."""


class Watcher(Protocol):
    """Who uses the connections."""

    def came(self, link: PeerLink) -> None:
        """There is a connection with this peer, or a new one instead of an old one."""
        ...

    def went(self, link: PeerLink) -> None:
        """There is none any more."""
        ...

    def over(self, link: PeerLink) -> None:
        """This connection is over, and maybe another one took its place before."""
        ...

    def received(self, link: PeerLink, kind: Kind, body: Data) -> None:
        """A parcel, an announcement, or a frame about a circuit came."""
        ...

    def full(self, link: PeerLink, *, full: bool) -> None:
        """Whether there is room in a connection."""
        ...

    def count(self, reason: str) -> None:
        """Something was refused or out of the ordinary."""
        ...


class Pool:
    """The connections of one party. Call `tick` now and then.

    Args:
        membership: ours: who is let in, by the lists that it has then.
        clock: seconds since 1970.

    Attributes:
        run: names this process to peers. links: peer -> its connection.
        dialling: peer -> the connection that we are making, where it came that far.
        doubted: peers that somebody holds to be gone: silence of theirs is borne half as long.
        made: every connection of which something is left, those that are refused or ending included.
    """

    def __init__(
        self,
        membership: Membership,
        options: PeerOptions,
        watcher: Watcher,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.run = secrets.token_bytes(RUN_BYTES)
        self.links: dict[PeerId, PeerLink] = {}
        self.dialling: dict[PeerId, PeerLink] = {}
        self.doubted: set[PeerId] = set()
        self.made: weakref.WeakSet[PeerLink] = weakref.WeakSet()
        self._membership, self._options, self._watcher, self._clock = membership, options, watcher, clock
        self._loop = asyncio.get_running_loop()
        self._believed: tuple[object, object] = (membership.revocations, membership.authority)
        self._closed = False

    def link(self, dialled: PeerId | None = None, *, via: PeerId | None = None) -> PeerLink:
        """A connection that is to be made."""
        link = PeerLink(self, dialled=dialled, hello_s=self._options.hello_s, via=via)
        self.made.add(link)
        return link

    def is_direct(self, peer: PeerId) -> bool:
        """Whether there is a connection with `peer` that nobody relays."""
        link = self.links.get(peer)
        return link is not None and link.via is None

    def has_room(self) -> bool:
        """Whether one more connection may be made; the least recently used one gives way, if it rests."""
        if len(self.links) < self._options.connections:
            return True
        resting_since = self._loop.time() - self._options.rest_s
        resting = [
            link
            for name, link in self.links.items()
            if name not in self._options.keep and not link.unwritten and link.used_at <= resting_since
        ]
        if not resting:
            return False
        min(resting, key=lambda link: link.used_at).close("crowded")
        return True

    def tick(self) -> None:
        """Ends what is idle, dead or slow, and who is no longer let in."""
        self.check()
        now, options = self._loop.time(), self._options
        for name, link in list(self.links.items()):
            quiet_s = options.quiet_s / 2 if name in self.doubted else options.quiet_s
            if now - link.heard_at > 2 * quiet_s:
                self.count("silent")
                link.abort("silent")
            elif (link.opened_at is not None and now - link.opened_at > options.frame_s) or (
                link.stalled_s(now) > options.frame_s
            ):
                link.abort("slow")
            elif now - link.used_at > options.idle_s and name not in options.keep and not link.unwritten:
                link.close("idle")
            elif now - link.heard_at > quiet_s and not link.is_full:
                link.ping()

    def check(self) -> None:
        """Ends the connections of who is no longer let in: revoked, expired, or of an issuer that was replaced."""
        believed = self._membership.revocations, self._membership.authority
        self._believed = believed
        peers = {link: link.peer for link in self.links.values() if link.peer is not None}
        for link, code in self._membership.to_cut(peers, self._clock()).items():
            self.count(f"cut_{code}")
            link.close(code)

    def close(self, *, relayed: bool = False) -> list[PeerLink]:
        """Says goodbye to everybody, or to those who are `relayed`, and lets nobody in any more; gives these."""
        self._closed = True
        parting = [
            link for link in [*self.links.values(), *self.dialling.values()] if link.via is not None or not relayed
        ]
        for link in parting:
            link.close("closed")
        return [link for link in parting if link.is_open]

    # What links call.

    def identify(self, link: PeerLink, leaf: bytes | None) -> Peer:
        """As `Owner`."""
        if leaf is None:
            raise IdentityError("a peer shows a certificate; none came", code="name")
        peer = self._membership.check([leaf], expected=link.dialled, clock=self._clock(), server=True)
        if peer.name.id == self._membership.name.id:
            raise IdentityError("what answers or calls is called as we are", code="peer")
        if peer.stale:
            self.count("stale_list")
        return peer

    def admit(self, link: PeerLink, hello: Hello) -> str:
        """As `Owner`."""
        code = self._refusal(link, hello)
        if code:
            self.count(f"refused_{code}")
        return code

    def adopt(self, link: PeerLink) -> None:
        """As `Owner`."""
        name = link.name
        before = self.links.pop(name, None)
        self.links[name] = link
        ours = self.dialling.pop(name, None)
        if ours is not None and ours is not link:
            ours.abort("theirs")
        if before is not None:
            before.abort("replaced")
        self._watcher.came(link)

    def received(self, link: PeerLink, kind: Kind, body: Data) -> None:
        """As `Owner`. A list that came a moment ago counts for what came after it."""
        believed = self._believed
        if believed[0] is not self._membership.revocations or believed[1] is not self._membership.authority:
            self.check()
            if link.is_over:
                return
        self._watcher.received(link, kind, body)

    def full(self, link: PeerLink, *, full: bool) -> None:
        """As `Owner`."""
        self._watcher.full(link, full=full)

    def ended(self, link: PeerLink) -> None:
        """As `Owner`."""
        self._watcher.over(link)
        if self.links.get(link.name) is link:
            del self.links[link.name]
            self._watcher.went(link)

    def count(self, reason: str) -> None:
        """As `Owner`."""
        self._watcher.count(reason)

    def _refusal(self, link: PeerLink, hello: Hello) -> str:
        own = self._membership.name.id
        if self._closed:
            return "closed"
        if hello.to != own:
            return "peer"
        ours = self.dialling.get(link.name)
        if ours is not None and ours.greets and self._stays(ours, link):
            return "mine"
        there = self.links.get(link.name)
        if there is not None:
            young = there.since > self._loop.time() - self._options.hello_s
            if young and there.run == hello.run and self._stays(there, link):
                return "mine"  # it called before it had our hello, and has it by now
            return ""
        return "" if self.has_room() else "crowded"

    def _stays(self, ours: PeerLink, theirs: PeerLink) -> bool:
        """Of two connections with one peer that are made at once: whether ours is the one."""
        if (ours.via is None) is not (theirs.via is None):
            return ours.via is None
        return ours.dialled is not None and self._membership.name.id < theirs.name
