"""Peers over TLS on loopback, each with an identity folder of its own."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from meshes import Mesh

from fedmesh.identity import Membership
from fedmesh.transport.limits import Limits
from fedmesh.transport.peers import Address, PeerOptions, PeerTransport
from fedmesh.types import PeerId

HOST = "127.0.0.1"
QUICK: dict[str, Any] = {"reconnect_s": 0.02, "reconnect_max_s": 0.2}


class PeerMesh:
    """Members of one authority, who find each other by `addresses`."""

    def __init__(self, folder: Path, *, limits: Limits | None = None) -> None:
        self.limits = limits or Limits(message_bytes=4 << 20, retry_s=0.5)
        self.mesh = Mesh(folder, begun=time.time() - 3_600)
        self.members: dict[PeerId, Membership] = {}
        self.addresses: dict[PeerId, list[Address]] = {}

    def member(self, name: PeerId) -> Membership:
        """Enrols it, the first time."""
        if name not in self.members:
            self.members[name] = self.mesh.enrol(name)
        return self.members[name]

    async def open(
        self, name: PeerId, *, listens: bool = True, spool: Path | None = None, clock: Any = time.time, **options: Any
    ) -> PeerTransport:
        """Its transport; the others find it from now on."""
        listen = ((HOST, 0),) if listens else ()
        transport = await PeerTransport.open(
            self.member(name),
            lambda peer: self.addresses.get(peer, ()),
            PeerOptions(**{"listen": listen, **QUICK, **options}),
            limits=self.limits,
            spool=spool,
            clock=clock,
        )
        if listens:
            self.addresses[name] = transport.listening
        return transport


def play(test: Callable[[Any], Awaitable[None]], *, within_s: float) -> None:
    """Runs ``test(entered)``; what ``await entered(opening)`` opened is closed behind it."""

    async def main() -> None:
        async with asyncio.timeout(within_s), contextlib.AsyncExitStack() as stack:

            async def entered(opening: Any) -> Any:
                return await stack.enter_async_context(await opening)

            await test(entered)

    asyncio.run(main())


def running(test: Callable[[Any], Awaitable[None]]) -> None:
    """Plays `test`, with time enough for a machine that stalls."""
    play(test, within_s=240)


async def until(condition: Callable[[], object]) -> None:
    """Returns when `condition` holds."""
    while not condition():
        await asyncio.sleep(0.005)
