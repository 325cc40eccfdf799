"""The models of this node, from its neighbours: a swarm, and the fleet's installer, which says what may run.

All that blocks (verifying, writing, probing) is done in one thread, one step after the other; messages go on meanwhile.
"""

import asyncio
import logging
import platform
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event as Flag
from typing import TypeVar

from fedmesh.errors import ConfigError, FedMeshError, MismatchError
from fedmesh.events import Event, EventSink, ignore
from fedmesh.fleet.probing import Interrupted, probe_apart
from fedmesh.identity import Membership
from fedmesh.mesh.swarm import Delivery, Held, Outgoing, Settings, Swarm, SwarmSource
from fedmesh.peer.exchange import Exchange
from fedmesh.registry import Slots
from fedmesh.registry.install import Installer, Probe
from fedmesh.transport.channel import Channel

__all__ = ["SWARM", "Models"]

SWARM = "swarm"
"""The folder with chunks and targets, in the registry's."""
_LOOK_S = 600.0
"""So often something may have to be done though nothing was announced: a rollout that reaches us at its hour."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Models:
    """Of one node. `open` makes one, `run` runs it, `aclose` ends it.

    Args:
        channel: for the swarm alone. folder: of the registry.
        trusted_root: see `Installer`.
        probe: what a model has to stand; None: as in a fleet, in a process of its own.
        changed: called when another version runs.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        membership: Membership,
        channel: Channel,
        *,
        folder: Path,
        trusted_root: Path,
        probe: Probe | None = None,
        changed: Callable[[], None] = lambda: None,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.time,
        events: EventSink = ignore,
    ) -> None:
        self._membership, self._folder, self._root = membership, folder, trusted_root
        self._changed, self._clock, self._events = changed, clock, events
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(1, "models")
        self._ending = Flag()
        self._probe: Probe = probe or (lambda path, _manifest: probe_apart(path, stopped=self._ending.is_set))
        self._wanted = asyncio.Event()
        self._version = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SWARM).mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot use the registry's folder {folder}: {error.strerror}") from error
        chance = random.SystemRandom()
        self._held = Held(folder / SWARM, slots=Slots(folder / "slots").files)
        self._source = SwarmSource(self._held)
        self._installer = self._opened()
        self._version = self._installer.slots.state.running.version
        swarm = Swarm(self._held, rng=chance, settings=settings)
        self._delivery = Delivery(
            swarm, self._held, self._source, installer=self._installer, rng=chance, settings=settings
        )
        self.exchange = Exchange(swarm, channel, after=self._advanced, due=lambda: self._delivery.due)

    @property
    def version(self) -> int:
        """Of the model that runs; 0: none does."""
        return self._version

    @property
    def refused(self) -> Mapping[str, int]:
        """What was refused of models, by code of `REGISTRY_CODES`."""
        return self._installer.refused

    @property
    def current(self) -> Path | None:
        """The file of the model that runs."""
        return self._installer.current

    async def run(self) -> None:
        """For ever."""
        await self._blocking(self._tried_again)
        self._noticed()
        looking = asyncio.create_task(self._look())
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                while self._delivery.is_due:
                    self._source.begin()
                    error = await self._blocking(self._update)
                    self._noticed()
                    self.exchange.carry(self._delivery.updated(error, self.exchange.now))
        finally:
            looking.cancel()

    async def aclose(self) -> None:
        """Ends what is under way: a probe is given up, and made anew by the next start."""
        self._ending.set()
        await self.exchange.aclose()
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        self._installer.close()

    def _advanced(self, now: float) -> list[Outgoing]:
        outgoing = self._delivery.advance(now)
        if self._delivery.is_due:
            self._wanted.set()
        return outgoing

    def _noticed(self) -> None:
        version = self._installer.slots.state.running.version
        if version != self._version:
            self._version = version
            self._changed()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._delivery.look()
            self.exchange.carry([])

    async def _blocking(self, step: Callable[[], _T]) -> _T:
        return await self._loop.run_in_executor(self._pool, step)

    # In the thread, but for `_opened`.

    def _opened(self) -> Installer:
        machine = platform.machine().lower()
        return Installer(
            self._folder,
            source=self._source,
            probe=self._probe,
            trusted_root=self._root,
            keeps_chunks=False,
            device=self._membership.name.id,
            tags={machine, {"aarch64": "arm64", "amd64": "x86_64"}.get(machine, machine)},
            clock=lambda: self._membership.now(self._clock()),
            events=self._happened,
        )

    def _update(self) -> FedMeshError | None:
        try:
            self._installer.update()
        except FedMeshError as error:
            if self._source.wanted is None:
                _log.info("what neighbours have of models is not taken: %s", error)
            return error
        except Interrupted:
            return ConfigError("this node ends")
        except Exception as error:  # noqa: BLE001 - whatever was sent, the node goes on with what it has
            _log.exception("what was delivered could not be dealt with")
            return ConfigError(f"what was delivered could not be dealt with: {error}")
        return None

    def _tried_again(self) -> None:
        """What was on trial when the last process ended: its probe decides."""
        installer = self._installer
        if installer.slots.state.running.state == "trying" and (path := installer.current) is not None:
            try:
                probe_apart(path, stopped=self._ending.is_set)
            except MismatchError as error:
                installer.rollback(f"its probe failed: {error}")
            except Interrupted:
                return
            else:
                installer.commit()

    def _happened(self, event: Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events, event)
