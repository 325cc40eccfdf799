"""What this node publishes: the versions of a repository beside it, given to the mesh as somebody signs them."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from fedmesh.errors import ConfigError, FedMeshError
from fedmesh.events import EventSink, Notice, ignore
from fedmesh.mesh.swarm import Published, Settings, Swarm
from fedmesh.peer.exchange import Exchange
from fedmesh.registry.repository import Repository
from fedmesh.transport.channel import Channel

__all__ = ["Publishing"]

LOOK_S = 0.2
_REFRESH_S = 3600.0


class Publishing:
    """Of one node.

    Args:
        channel: for the swarm alone. folder: of the repository; others publish into it.
        changed: called when another version is rolled out.
        look_s: so often it is looked at.

    Raises:
        ConfigError: there is no repository, or it is damaged.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        folder: Path,
        changed: Callable[[], None] = lambda: None,
        settings: Settings | None = None,
        look_s: float = LOOK_S,
        events: EventSink = ignore,
    ) -> None:
        self._repository = Repository.open(folder)
        self._timestamp = folder / "public" / "metadata" / "timestamp.json"
        self._changed, self._look_s, self._events = changed, look_s, events
        self._seen = self._stamp()
        self._published = Published(
            self._repository.read,
            self._repository.pointer,
            lambda: [version.manifest for version in self._repository.versions() if not version.missing],
        )
        self._version = self._rolled_out()
        self._trouble: dict[str, str] = {}
        swarm = Swarm(self._published, rng=random.SystemRandom(), settings=settings, origin=True)
        self.exchange = Exchange(swarm, channel)

    @property
    def version(self) -> int:
        """That is rolled out; 0: none is."""
        return self._version

    async def run(self) -> None:
        """For ever: tells of what is new, and signs anew what is about to expire, where the keys are here."""
        refresh_at = time.monotonic()
        while True:
            if time.monotonic() >= refresh_at:
                refresh_at = time.monotonic() + _REFRESH_S
                await self._tried("signatures", self._repository.refresh)
            stamp = self._stamp()
            if stamp != self._seen and await self._tried("repository", self._looked):
                self._seen = stamp
                self.exchange.changed()
                self._changed()
            await asyncio.sleep(self._look_s)

    async def aclose(self) -> None:
        """Nothing is told any more."""
        await self.exchange.aclose()

    async def _tried(self, what: str, step: Callable[[], object]) -> bool:
        try:
            await asyncio.to_thread(step)
        except (FedMeshError, OSError) as error:
            if self._trouble.get(what) != str(error):
                self._events(Notice(f"what is published is as it was: {error}"))
            self._trouble[what] = str(error)
            return False
        self._trouble.pop(what, None)
        return True

    def _looked(self) -> None:
        self._published.refresh()
        self._version = self._rolled_out()

    def _rolled_out(self) -> int:
        rollout = self._repository.rollout
        return 0 if rollout is None else rollout.version

    def _stamp(self) -> tuple[int, int]:
        try:
            found = self._timestamp.stat()
        except OSError as error:
            raise ConfigError(f"cannot read {self._timestamp}: {error.strerror}") from error
        return found.st_mtime_ns, found.st_ino
