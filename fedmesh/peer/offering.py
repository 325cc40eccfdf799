"""What a node does with models: it takes them from its neighbours, or gives those of a repository, or neither.

What takes and gives is loaded where the configuration asks for it: a node without models holds no TUF. Who takes none
passes none on, and what comes all the same is dropped.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fedmesh.configuration import PeerConfig
from fedmesh.events import EventSink, ignore
from fedmesh.identity import Membership
from fedmesh.transport.channel import Channel
from fedmesh.types import PeerId

if TYPE_CHECKING:
    from fedmesh.mesh.swarm import Settings
    from fedmesh.peer.exchange import Exchange
    from fedmesh.peer.models import Models
    from fedmesh.peer.publishing import Publishing
    from fedmesh.registry.install import Probe

    Part = Models | Publishing

__all__ = ["Offering"]


class Offering:
    """Of one node.

    Args:
        channel: for the swarm alone.
        changed: called when `model` is another.
        probe: what a model has to stand; None: as in a fleet.

    Attributes:
        part: what takes or gives; None: nothing does.

    Raises:
        ConfigError: a folder cannot be used, no root is trusted, or there is no repository.
    """

    def __init__(
        self,
        config: PeerConfig,
        membership: Membership,
        channel: Channel,
        *,
        changed: Callable[[], None],
        settings: "Settings | None" = None,
        probe: "Probe | None" = None,
        clock: Callable[[], float],
        events: EventSink = ignore,
    ) -> None:
        self._config, self._channel = config, channel
        self.part: Part | None = None
        if config.registry is not None:
            from fedmesh.peer.models import Models

            self.part = Models(
                membership,
                channel,
                folder=config.registry_folder,
                trusted_root=config.registry.trusted_root,
                probe=probe,
                changed=changed,
                settings=settings,
                clock=clock,
                events=events,
            )
        elif config.publish is not None:
            from fedmesh.peer.publishing import Publishing

            self.part = Publishing(
                channel, folder=config.publish.folder, changed=changed, settings=settings, events=events
            )

    @property
    def model(self) -> str:
        """What others are told of the version here; empty: there is none."""
        version = 0 if self.part is None else self.part.version
        return str(version) if version else ""

    @property
    def counts(self) -> dict[str, Callable[[], Mapping[str, int]]]:
        """As `Node.counts`."""
        part = self.part
        found: dict[str, Callable[[], Mapping[str, int]]] = {}
        if part is not None:
            found["swarm"] = lambda: part.exchange.counts
            if (refused := getattr(part, "refused", None)) is not None:
                found["registry"] = lambda: refused
        return found

    @property
    def taking(self) -> "Exchange | None":
        """Of the swarm that models are fetched by; None: none are."""
        return None if self._config.registry is None or self.part is None else self.part.exchange

    def connected(self, peer: PeerId) -> None:
        """There is a link."""
        if self.part is not None:
            self.part.exchange.connected(peer)

    def disconnected(self, peer: PeerId) -> None:
        """There is none any more."""
        if self.part is not None:
            self.part.exchange.disconnected(peer)

    async def receive(self) -> None:
        """Takes what comes, until the transport is closed."""
        if self.part is not None:
            await self.part.exchange.receive()
            return
        async for _ in self._channel.receive():
            continue

    async def run(self) -> None:
        """For ever."""
        if self.part is not None:
            await self.part.run()
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        """Ends it."""
        if self.part is not None:
            await self.part.aclose()
