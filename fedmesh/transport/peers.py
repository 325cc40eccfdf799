"""A transport between peers, with no broker: TLS 1.3 with device certificates, one connection for each pair.

A connection is made when something is to be sent, and ended when it rests; peers that are to be connected always are
named (`PeerOptions.keep`). Where a peer may be is asked of a callable, and whoever answers there is believed for its
certificate. The guarantees, bounds, channels and the spool are those of `Courier`: docs/transport.md.

What a broker would know, and a mesh does not:

- `present` are peers with which there is a connection, or was one that ended for want of use. Who was never met is not.
- `announce` tells every peer with which there is a connection, and each that is met later: not those further away.
  It returns at once. To pass on what was heard is for whoever speaks with the whole mesh.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fedmesh.errors import PeerError
from fedmesh.identity import Membership
from fedmesh.transport.courier import Courier
from fedmesh.transport.endpoint import Endpoint
from fedmesh.transport.limits import Limits
from fedmesh.transport.peer_carrier import PeerCarrier
from fedmesh.transport.peer_options import Address, PeerOptions
from fedmesh.transport.spool import Spool
from fedmesh.transport.timers import LoopTimers
from fedmesh.types import PeerId

__all__ = ["Address", "PeerOptions", "PeerTransport"]


class PeerTransport(Courier):
    """A `fedmesh.types.Transport` between the parties of a mesh. Make one with `open`."""

    carrier: PeerCarrier

    @classmethod
    async def open(
        cls,
        membership: Membership,
        addresses: Callable[[PeerId], Sequence[Address]],
        options: PeerOptions | None = None,
        *,
        limits: Limits | None = None,
        spool: Path | None = None,
        spool_bytes: int = 1 << 30,
        clock: Callable[[], float] = time.time,
    ) -> "PeerTransport":
        """Listens, and calls whom there is something for from then on.

        Args:
            membership: who we are, and whom we let in: by its lists, at every moment.
            addresses: where a peer may be, hints from anywhere; the first eight are tried in turn.
            options: where to listen, and bounds.
            limits: bounds of messages.
            spool: folder in which messages outlive the process; `spool_bytes` bounds what waits to be sent.
            clock: seconds since 1970, for certificates.

        Raises:
            ConfigError: a file cannot be used, or we cannot listen there.
        """
        options = options or PeerOptions()
        chance = random.Random()  # noqa: S311 - jitter
        kept = None if spool is None else Spool(spool, incarnation=int(time.time() * 1000), max_bytes=spool_bytes)
        endpoint = Endpoint(limits or Limits(), chance=chance, spool=kept)
        transport = cls(endpoint, LoopTimers(), spool=kept)
        transport.carrier = PeerCarrier(
            membership, options, courier=transport, endpoint=endpoint, addresses=addresses, clock=clock, chance=chance
        )
        transport.attach(transport.carrier)
        try:
            await transport.carrier.start()
        except BaseException:
            await transport.aclose()
            raise
        return transport

    @property
    def listening(self) -> list[Address]:
        """Where we are dialled."""
        return self.carrier.listener.addresses

    @property
    def links(self) -> list[PeerId]:
        """With whom there is a connection now."""
        return list(self.carrier.pool.links)

    @property
    def relayed(self) -> dict[PeerId, PeerId]:
        """With whom there is a connection through a neighbour, and through whom."""
        return {name: link.via for name, link in self.carrier.pool.links.items() if link.via is not None}

    @property
    def relaying(self) -> list[tuple[PeerId, PeerId]]:
        """Between whom we relay now."""
        return self.carrier.relay.between

    def heard_at(self, peer: PeerId) -> float:
        """When anything last came on the connection with `peer`, on the event loop's clock; there is none: never."""
        link = self.carrier.pool.links.get(peer)
        return -math.inf if link is None else link.heard_at

    def doubt(self, peer: PeerId, *, gone: bool) -> None:
        """Somebody holds `peer` to be gone, or not any more: a connection with it that is silent is given up sooner."""
        (self.carrier.pool.doubted.add if gone else self.carrier.pool.doubted.discard)(peer)

    async def connect(self, peer: PeerId, *, wait_s: float) -> None:
        """Calls `peer`, without waiting for its turn; returns when there is a connection.

        To be called as well when somebody has heard where `peer` is: what waits for it is sent then, and who is reached
        through a neighbour is dialled itself.

        Raises:
            PeerError: there was none within `wait_s`, and we go on trying only if something is to be sent; or the
                transport was closed.
        """
        self.carrier.dialler.dial(peer)
        try:
            async with asyncio.timeout(wait_s):
                await self.carrier.connected(peer)
        except TimeoutError as error:
            trouble = self.carrier.dialler.trouble.get(peer, "no answer")
            raise PeerError(
                f"no connection with {peer} within {wait_s:g} s: {trouble}; check its address, and that it runs"
            ) from error

    def check(self) -> None:
        """Ends connections with whom the lists of our membership no longer let in.

        It happens by itself when something arrives, and every second.
        """
        self.carrier.pool.check()
