"""Announcing this peer on its links by multicast DNS, and hearing others: hints, with nothing trusted in them.

zeroconf speaks RFC 6762 and 6763; it is loaded with this module alone. What is added here: interfaces that come and go
(and none at all), a name drawn by lot, bounds of what a liar on the link can make us keep or do, and no announcement
that outlives a crash by more than 19 minutes in the caches of others.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from zeroconf import Error, IPVersion, NonUniqueNameException, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, Notice
from fedmesh.mesh.discovery.hints import Hint, Source
from fedmesh.mesh.discovery.interfaces import Surroundings
from fedmesh.mesh.discovery.multicast_guards import MAX_HOSTS, Info, Meter, is_crowded
from fedmesh.mesh.discovery.multicast_options import MulticastOptions
from fedmesh.mesh.discovery.records import SERVICE, instance_in, properties_of, refusal, usable

__all__ = ["Multicast"]

_TTL_S = 1125
"""The least that zeroconf takes for a pointer. A crash leaves it behind: RFC 6762 would have 75 minutes."""
_RESOLVE_MS = 3_000.0
_ANNOUNCED = 16
_FAREWELL_S = 2.0


@dataclass(slots=True)
class _Session:
    """What there is of zeroconf, from one opening to the next."""

    zeroconf: AsyncZeroconf
    browser: AsyncServiceBrowser
    info: AsyncServiceInfo | None = None
    again_at: float = 0.0


class Multicast:
    """Announces and listens from `start` to `aclose`.

    Args:
        mesh: its name. port: where we are dialled; 0: nowhere, we only listen to others.
        around: tells our addresses; called every `options.interfaces_s`.
        offer: takes a hint. withdraw: is told the key of one that says goodbye.
        clock: seconds that only go forward. rng: for names and choices, see `Candidates`.
        counts: gets what was refused, by reason. events: told when it cannot announce or listen.
    """

    def __init__(
        self,
        mesh: str,
        port: int,
        *,
        around: Callable[[], Surroundings],
        offer: Callable[[Hint], object],
        withdraw: Callable[[str], None],
        clock: Callable[[], float],
        rng: random.Random,
        counts: Counter[str],
        events: EventSink,
        options: MulticastOptions,
    ) -> None:
        self.instance = options.instance or f"{rng.getrandbits(64):016x}"
        self._mesh, self._port, self._around, self._options = mesh, port, around, options
        self._offer, self._withdraw = offer, withdraw
        self._clock, self._rng, self._counts, self._events = clock, rng, counts, events
        self._session: _Session | None = None
        self._surroundings = Surroundings(())
        self._indexes: dict[tuple[str, str], int] = {}
        self._trouble = ""
        self._wanted: dict[str, None] = {}
        self._resolving: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins; where there is no network yet it goes on trying."""
        self._tending = asyncio.get_running_loop().create_task(self._tend(), name="discovery-multicast")

    async def aclose(self) -> None:
        """Says goodbye to the link, within two seconds."""
        tasks = [task for task in (self._tending, self._sweeping, *self._resolving) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end()

    @property
    def is_announced(self) -> bool:
        """Whether our name is out."""
        return self._session is not None and self._session.info is not None

    async def _tend(self) -> None:
        while True:
            try:
                await self._look()
                self._trouble = ""
            except (OSError, RuntimeError, Error, ConfigError) as error:
                self._counts["multicast_failed"] += 1
                trouble = str(error) or type(error).__name__
                if trouble != self._trouble:
                    self._events(Notice(f"nothing is announced or heard on the network, it is tried again: {trouble}"))
                self._trouble = trouble
                await self._end()
            await asyncio.sleep(self._options.interfaces_s * self._rng.uniform(0.9, 1.1))

    async def _look(self) -> None:
        """Brings zeroconf in line with the interfaces that there are now."""
        around = self._surroundings = self._around()
        indexes = {(own.ip, own.interface): own.index for own in around.own}
        if any(self._indexes.get(which, index) != index for which, index in indexes.items()):
            await self._end()  # an interface was made anew: its groups are gone with the old one
        self._indexes = indexes
        choice = _choice(around)
        if not choice:
            await self._end()
            return
        if self._session is None:
            self._session = self._open(choice)
        else:
            await self._session.zeroconf.async_update_interfaces(choice)
        if self._port:
            await self._announce(self._session, around)
        self._hear_again(self._session)

    def _open(self, choice: list[str | int]) -> _Session:
        opened = AsyncZeroconf(interfaces=choice)
        opened.zeroconf.async_add_listener(Meter(self._full), None)
        return _Session(opened, AsyncServiceBrowser(opened.zeroconf, SERVICE, handlers=[self._changed]))

    def _full(self) -> None:
        """Empties zeroconf's memory, and browses anew."""
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="discovery-sweep")

    async def _sweep(self) -> None:
        session = self._session
        if session is None or session.zeroconf.zeroconf.done:
            return
        zc = session.zeroconf.zeroconf
        self._counts["swept"] += 1
        for name in zc.cache.names():
            zc.cache.async_remove_records(zc.cache.entries_with_name(name))
        await session.browser.async_cancel()
        session.browser = AsyncServiceBrowser(zc, SERVICE, handlers=[self._changed])

    async def _end(self) -> None:
        """Closes what is open; whoever is cancelled meanwhile leaves it to be closed."""
        session, self._session = self._session, None
        if session is not None:
            self._ending = asyncio.get_running_loop().create_task(self._close(session), name="discovery-farewell")
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _close(self, session: _Session) -> None:
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await session.browser.async_cancel()
                await session.zeroconf.async_close()
        except (TimeoutError, OSError, RuntimeError, Error):
            self._counts["farewell_failed"] += 1
            session.zeroconf.zeroconf.close()

    async def _announce(self, session: _Session, around: Surroundings) -> None:
        info = self._service(around)
        if session.info is None:
            try:
                await session.zeroconf.async_register_service(info)
            except NonUniqueNameException:
                self._counts["conflict"] += 1  # by chance never: somebody answers for every name that he hears of
                self.instance = f"{self._rng.getrandbits(64):016x}"
                return
            session.info = info
        elif session.info.parsed_addresses() != info.parsed_addresses():
            session.info = info
            await session.zeroconf.async_update_service(info)

    def _service(self, around: Surroundings) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE,
            f"{self.instance}.{SERVICE}",
            self._port,
            properties=properties_of(self._mesh),
            server=f"{self.instance}.local.",  # not the machine's name: it would tell who this is
            parsed_addresses=list(dict.fromkeys(own.ip for own in around.own))[:_ANNOUNCED],
            host_ttl=_TTL_S,
            other_ttl=_TTL_S,
        )

    def _hear_again(self, session: _Session) -> None:
        """Offers what zeroconf still has: somebody who could not be reached for a while is found again by that."""
        if self._clock() < session.again_at:
            return
        session.again_at = self._clock() + self._options.again_s
        records = session.zeroconf.zeroconf.cache.entries_with_name(SERVICE)
        for record in self._rng.sample(records, min(len(records), self._options.services)):
            if alias := getattr(record, "alias", ""):
                self._heard(session, alias, ask=False)

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """As zeroconf calls its handlers."""
        del service_type
        session = self._session
        if session is None or session.zeroconf.zeroconf is not zeroconf:
            return
        if state_change is ServiceStateChange.Removed:
            self._withdraw(instance_in(name))
        else:
            self._heard(session, name)

    def _heard(self, session: _Session, name: str, *, ask: bool = True) -> None:
        instance = instance_in(name)
        if not instance:
            self._counts["name"] += 1
        if not instance or instance == self.instance:
            return
        zc, info = session.zeroconf.zeroconf, Info(SERVICE, name)
        if is_crowded(zc, zc.cache.entries_with_name(name)):
            self._counts["oversize"] += 1
        elif info.load_from_cache(zc):
            self._take(instance, info)  # as every peer announces itself: all in one packet
        elif ask:
            self._ask(name)

    def _ask(self, name: str) -> None:
        if name not in self._wanted and len(self._wanted) >= self._options.services:
            self._counts["full"] += 1
            del self._wanted[self._rng.choice(list(self._wanted))]
        self._wanted[name] = None
        if len(self._resolving) < self._options.resolutions:
            task = asyncio.get_running_loop().create_task(self._resolve(), name="discovery-resolve")
            self._resolving.add(task)
            task.add_done_callback(self._resolving.discard)

    async def _resolve(self) -> None:
        """Asks for what is wanted, one after the other."""
        while self._wanted and (session := self._session) is not None:
            name = self._rng.choice(list(self._wanted))
            del self._wanted[name]
            zc, info = session.zeroconf.zeroconf, Info(SERVICE, name)
            try:
                crowded = is_crowded(zc, zc.cache.entries_with_name(name))
                answered = not crowded and await info.async_request(zc, _RESOLVE_MS)
            except (Error, OSError, RuntimeError):  # it was closed meanwhile
                answered = False
            if answered:
                self._take(instance_in(name), info)
            else:
                self._counts["unresolved"] += 1

    def _take(self, instance: str, info: AsyncServiceInfo) -> None:
        options = self._options
        if why := refusal(info.text or b"", info.port, self._mesh):
            self._counts[why] += 1
            return
        around = self._surroundings
        addresses, refused = usable(
            [str(ip) for ip in info.ip_addresses_by_version(IPVersion.All)[:MAX_HOSTS]],
            info.port or 0,
            around,
            at_most=options.addresses,
            loopback=options.loopback,
            off_link=options.off_link,
        )
        self._counts.update(refused)
        others = tuple(address for address in addresses if not around.is_own(address, [self._port]))
        if others:
            self._offer(Hint(Source.NEARBY, others, self._clock(), instance))


def _choice(around: Surroundings) -> list[str | int]:
    """The interfaces as zeroconf wants them: by address for IPv4, by number for IPv6 (and never that of loopback)."""
    addresses = [own.ip for own in around.own if ":" not in own.ip]
    indexes = {own.index for own in around.own if ":" in own.ip and not own.is_loopback and own.index}
    return [*dict.fromkeys(addresses), *sorted(indexes)]
