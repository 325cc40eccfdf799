"""A coordinator hears of newer lists from its devices, as members of a mesh hear of them from each other.

For a device that is in a mesh too (`fedmesh.peer.bridge`): what somebody was told there reaches the fleet, and the
other way round. Who has the newer list is asked for it; it is believed for its signature and version alone. Who never
says anything about lists is told nothing either: devices follow announcements (`fedmesh.transport.lists`).
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from fedmesh.errors import FedMeshError
from fedmesh.identity import Membership
from fedmesh.transport.channel import Channel
from fedmesh.transport.list_gossip import ListGossip, Outgoing
from fedmesh.types import PeerId

__all__ = ["ListExchange"]

_LOOK_S = 2.0
_WORTH_S = 120.0
_ROOM_S = 5.0
_MOST = 64
"""Devices that are told of lists; who spoke longest ago gives way."""
_log = logging.getLogger(__name__)


class Carrier(Protocol):
    """What of a transport is used here."""

    def channel(self, name: str) -> Channel:
        """As `Courier.channel`."""
        ...


class ListExchange:
    """Of one coordinator, on the event loop's thread.

    Args:
        membership: whose lists are kept up to date. transport: its own.
        accepted: called when a list was taken over.
        clock: Unix seconds.
    """

    def __init__(
        self,
        membership: Membership,
        transport: Carrier,
        *,
        accepted: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._membership, self._accepted = membership, accepted
        self._channel = transport.channel("lists")
        self._loop = asyncio.get_running_loop()
        self._gossip = ListGossip(membership, clock=clock, accepted=lambda _kind, _version: self._news())
        self._speaking: OrderedDict[PeerId, None] = OrderedDict()
        self._told = membership.signed_lists()
        self._is_news = False

    @property
    def counts(self) -> Mapping[str, int]:
        """What was refused, by reason: see `ListGossip`."""
        return self._gossip.counts

    async def serve(self) -> None:
        """For ever."""
        looking = asyncio.create_task(self._look())
        try:
            async for peer, data in self._channel.receive():
                await self._send(self._met(peer))
                await self._send(self._gossip.received(peer, data, self._loop.time()))
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    def _met(self, peer: PeerId) -> list[Outgoing]:
        known = peer in self._speaking
        self._speaking[peer] = None
        self._speaking.move_to_end(peer)
        out = [] if known else self._gossip.connected(peer)
        while len(self._speaking) > _MOST:
            gone, _ = self._speaking.popitem(last=False)
            out += self._gossip.disconnected(gone, self._loop.time())
        return out

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            now, lists = self._loop.time(), self._membership.signed_lists()
            changed = lists != self._told  # the issuer was asked, or they lay in the folder
            self._told = lists
            await self._send(self._gossip.changed(now) if changed else self._gossip.tick(now))

    def _news(self) -> None:
        self._is_news = True

    async def _send(self, outgoing: list[Outgoing]) -> None:
        if self._is_news:
            self._is_news, self._told = False, self._membership.signed_lists()
            self._accepted()
        for item in outgoing:
            try:
                async with asyncio.timeout(_ROOM_S):
                    await self._channel.post(item.to, item.data, expires_in_s=_WORTH_S)
            except (FedMeshError, TimeoutError) as error:  # it is told again later
                _log.info("%s is not told of lists: %s", item.to, error)
