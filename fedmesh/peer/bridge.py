"""A member of a mesh that is a device of a fleet too: what is signed goes from one side to the other.

The coordinator is one more neighbour, over MQTT: of the signed lists, both ways, and of the models, which come from it.
Each side believes signatures alone, so a bridge that lies is a neighbour that lies. Nothing else crosses: no statements
of who is there, no votes, no training (docs/mesh.md).
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from fedmesh.configuration import PeerConfig
from fedmesh.events import EventSink, Notice, ignore
from fedmesh.identity import Membership
from fedmesh.peer.post import Post
from fedmesh.transport.files import RemoteFiles
from fedmesh.transport.limits import Limits
from fedmesh.transport.list_gossip import MAX_MESSAGE_BYTES
from fedmesh.transport.lists import Shunning
from fedmesh.transport.mqtt import MqttTransport, options_from
from fedmesh.types import PeerId

if TYPE_CHECKING:
    from fedmesh.peer.exchange import Exchange
    from fedmesh.peer.lists import Lists
    from fedmesh.peer.upstream import Upstream

__all__ = ["Bridge"]

ANNOUNCED = "model"
_WORTH_S = 120.0
_LOOK_S = 1.0
_LIMITS = Limits(
    message_bytes=MAX_MESSAGE_BYTES + 1024, peer_bytes=32 << 20, incoming_bytes=64 << 20, outgoing_bytes=32 << 20
)


class Bridge:
    """Of one node. `start`, `run`, `aclose`.

    Args:
        config: with ``[bridge]``. lists: of the node.
        models: of the node's swarm, where it fetches models; None: it does not.
        events: gets a Notice when the broker refuses us.
    """

    def __init__(
        self,
        config: PeerConfig,
        membership: Membership,
        *,
        lists: "Lists",
        models: "Exchange | None",
        events: EventSink = ignore,
    ) -> None:
        assert config.bridge is not None, "a bridge is made where there is one"
        self.coordinator: PeerId = config.bridge.coordinator
        self._section, self._membership, self._events = config.bridge, membership, events
        self._lists, self._models = lists, models
        self._stack = AsyncExitStack()
        self._upstream: Upstream | None = None
        self._is_there = False

    @property
    def is_connected(self) -> bool:
        """Whether the coordinator is there, as far as the broker says."""
        return self._is_there

    @property
    def counts(self) -> Mapping[str, int]:
        """What its transport refused, by reason."""
        return self._transport.counts

    async def start(self) -> None:
        """Connects, and keeps connecting. Raises: ConfigError: a file cannot be used."""
        section = self._section
        options = options_from(self._membership, section.host, section.port, coordinator=False)
        self._transport = await MqttTransport.open(options, limits=_LIMITS)
        self._stack.push_async_callback(self._transport.aclose)
        self._channel = self._transport.channel("lists")
        post = Post(self._channel, expires_in_s=_WORTH_S)
        self._stack.push_async_callback(post.aclose)
        self._lists.also(self.coordinator, post)
        self._shunning = Shunning(self._transport, self._membership)
        self._shunning.apply()
        if self._models is not None:
            from fedmesh.peer.upstream import Upstream

            files = RemoteFiles(self._transport.channel("files"), self.coordinator)
            await self._stack.enter_async_context(files)
            models, name = self._models, self.coordinator
            self._upstream = Upstream(files, lambda data: models.hear(name, data))
            self._stack.push_async_callback(self._upstream.aclose)
            models.also(name, self._upstream.send)
            self._transport.subscribe(ANNOUNCED, self._announced)
        self._transport.on_presence = self._noticed
        for peer in list(self._transport.present):
            self._noticed(peer, there=True)

    async def run(self) -> None:
        """For ever: takes what comes, and looks whether the broker lets us in."""
        told: Any = None
        reading = asyncio.create_task(self._receive())
        try:
            while not reading.done():
                refusal = self._transport.link.refusal
                if refusal is not None and told is None:
                    self._events(Notice(f"nothing crosses the bridge: {refusal}"))
                told = refusal
                await asyncio.wait([reading], timeout=_LOOK_S)
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def lists_changed(self) -> None:
        """Newer lists count from now on."""
        self._shunning.apply()

    async def aclose(self) -> None:
        """Nothing crosses any more."""
        await self._stack.aclose()

    async def _receive(self) -> None:
        async for peer, data in self._channel.receive():
            if peer == self.coordinator:
                self._lists.heard(peer, data)

    def _noticed(self, peer: PeerId, there: bool) -> None:
        if peer != self.coordinator or there == self._is_there:
            return
        self._is_there = there
        if there:
            self._lists.connected(peer)
        else:
            self._lists.disconnected(peer)
        if self._models is None:
            return
        if there:
            self._models.connected(peer)
            self._announced(peer, self._transport.announced.get((peer, ANNOUNCED), b""))
        else:
            self._models.disconnected(peer)

    def _announced(self, peer: PeerId, data: bytes) -> None:
        if peer == self.coordinator and self._is_there and self._upstream is not None:
            self._upstream.announce(data)
