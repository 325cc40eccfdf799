"""Peers that announce themselves and listen on loopback, and what they have heard."""

import asyncio
import contextlib
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from lying_records import Liar, announcement, text

from fedmesh.mesh.discovery import Hint, MulticastOptions, Surroundings, own_addresses
from fedmesh.mesh.discovery.multicast import Multicast


class Listener:
    """A peer that listens on loopback; parallel tests are there, too, so each has a mesh and names of its own."""

    def __init__(self, mesh: str = "", port: int = 0, **options: Any) -> None:
        self.mesh = mesh or f"home-{secrets.token_hex(4)}"
        self.hints: list[Hint] = []
        self.withdrawn: list[str] = []
        self.counts: Counter[str] = Counter()
        self.told: list[object] = []
        self.liar = Liar()
        loopback = own_addresses(["lo"], loopback=True)
        self.around = Surroundings(tuple(own for own in loopback if own.ip == "127.0.0.1"))
        self.multicast = Multicast(
            self.mesh,
            port,
            around=lambda: self.around,
            offer=self.hints.append,
            withdraw=self.withdrawn.append,
            clock=time.monotonic,
            rng=random.Random(),
            counts=self.counts,
            events=self.told.append,
            options=MulticastOptions(**{"loopback": True, "interfaces_s": 0.2, "services": 16, **options}),
        )
        self.multicast.start()

    async def until(self, wanted: Callable[[], object], *, wait_s: float = 60.0) -> None:
        async with asyncio.timeout(wait_s):
            while not wanted():
                await asyncio.sleep(0.01)

    async def truth(self) -> Hint:
        """An honest announcement still arrives; whatever was sent before it has been handled then."""
        name = secrets.token_hex(8)
        self.liar.say(announcement(name, txt=text(self.mesh)))
        async with asyncio.timeout(60):
            while True:
                for hint in self.hints:
                    if hint.key == name:
                        return hint
                await asyncio.sleep(0.02)
                self.liar.say(announcement(name, txt=text(self.mesh)))


@contextlib.asynccontextmanager
async def listening(mesh: str = "", port: int = 0, **options: Any) -> AsyncIterator[Listener]:
    listener = Listener(mesh, port, **options)
    try:
        await listener.until(lambda: listener.multicast._session)
        yield listener
    finally:
        await listener.multicast.aclose()
        listener.liar.close()
