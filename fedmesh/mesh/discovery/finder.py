"""Looks for members: seeds, those of the book, and who is nearby, one after the other, until it is closed.

It finds out who is where and tells it. Whether there is a connection, and who is alive, is for transport and membership
to say: they are asked (`here`), and told (`found`, `addresses_of`).
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from fedmesh.errors import ConfigError, IdentityError, PeerError
from fedmesh.events import EventSink, Notice, PeerFound, ignore
from fedmesh.mesh.discovery.addresses import Address, address_in, is_link_local, unusable
from fedmesh.mesh.discovery.book import Book
from fedmesh.mesh.discovery.candidates import Candidates, Here
from fedmesh.mesh.discovery.hints import Attempt, Hint, Source
from fedmesh.mesh.discovery.interfaces import Surroundings, own_addresses
from fedmesh.mesh.discovery.multicast_options import MulticastOptions
from fedmesh.mesh.discovery.resolving import Resolver
from fedmesh.mesh.discovery.settings import Settings
from fedmesh.types import PeerId

if TYPE_CHECKING:
    from fedmesh.mesh.discovery.multicast import Multicast

__all__ = ["Discovery", "Identify"]

Identify = Callable[[Address, PeerId], Awaitable[PeerId]]
"""Who is at an address (numeric), by the certificate; the name that is expected there, or empty.

Raises IdentityError: it is nobody of ours, or another. PeerError: nobody answers.
"""

_AT_ONCE = 2
"""Attempts of one source that are under way: who answers slowly, or never, takes no turn of another source."""
_KNOWN = 64
_IDLE_S = 30.0
_SAVE_S = 60.0
_DIALLED = 8


class Discovery:
    """Looks from `start` to `aclose`; what its methods are told is taken into account at once.

    Args:
        identify: tells who is at an address (`fedmesh.mesh.discovery.identify`).
        found: told a member and the address where it just was.
        here: who is alive as far as the membership knows, without ourselves.
        seeds: name -> addresses, of the configuration.
        book: where members were.
        port: where we are dialled, to be announced; 0: nowhere.
        mesh: its name, for the announcement.
        multicast: how to announce and listen on our links; None: not at all, and zeroconf is not loaded.
        loopback: whether members on this machine are looked for where they say they are, at 127.0.0.1; as
            `MulticastOptions.loopback`, without multicast.
        around: tells our own addresses.
        rng: for all choices; leave it out but in tests, so that nobody foresees them.
        clock: seconds that only go forward.
        events: told who was found, and what is wrong.

    Attributes:
        counts: what was refused or failed, by reason, and attempts as ``tried_SOURCE``.
        book: as given.
    """

    def __init__(
        self,
        identify: Identify,
        *,
        found: Callable[[PeerId, Address], None],
        here: Callable[[], Here],
        seeds: Mapping[PeerId, Collection[Address]],
        book: Book,
        port: int,
        mesh: str,
        multicast: MulticastOptions | None = None,
        loopback: bool = False,
        settings: Settings | None = None,
        around: Callable[[], Surroundings] | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        events: EventSink = ignore,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.book = book
        self._identify, self._found, self._here, self._seeds = identify, found, here, seeds
        self._port, self._mesh, self._options = port, mesh, multicast
        options = multicast or MulticastOptions(loopback=loopback)
        self._loopback = options.loopback
        self._around = around or (lambda: Surroundings(own_addresses(options.interfaces, loopback=options.loopback)))
        self._rng, self._clock, self._events = rng or random.SystemRandom(), clock, events
        self._candidates = Candidates(seeds=seeds, known=self._known, rng=self._rng, settings=settings)
        self._resolver = Resolver()
        self._awake = asyncio.Event()
        self._multicast: Multicast | None = None
        self._running: Counter[Source] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._saved_at = -math.inf

    @property
    def nearby(self) -> int:
        """Announcements nearby that have not expired."""
        return self._candidates.nearby

    def start(self) -> None:
        """Begins to look."""
        if self._options is not None:
            from fedmesh.mesh.discovery.multicast import Multicast

            self._multicast = Multicast(
                self._mesh,
                self._port,
                around=self._around,
                offer=self._offered,
                withdraw=self._candidates.withdraw,
                clock=self._clock,
                rng=self._rng,
                counts=self.counts,
                events=self._events,
                options=self._options,
            )
            self._multicast.start()
        self._looking = asyncio.get_running_loop().create_task(self._look(), name="discovery")
        self._looking.add_done_callback(_tell)

    async def aclose(self) -> None:
        """Ends it, says goodbye on the link, and keeps the book."""
        tasks = [task for task in (self._looking, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._multicast is not None:
            await self._multicast.aclose()
        if self._saving is not None:
            await self._saving  # and not cancelled: it would be neither written nor to be written
        await self._save()

    def wake(self) -> None:
        """Somebody came or went: whom to look for may be others now."""
        self._awake.set()

    def told(self, name: PeerId, addresses: Iterable[str]) -> None:
        """`name` says in a signed statement that it is there; what cannot be an address of it is counted."""
        said = []
        for text in addresses:
            try:
                address = address_in(text)
            except ConfigError:
                self.counts["malformed"] += 1
                continue
            why = unusable(address, loopback=self._loopback)
            if why and why not in {"host", "scope"}:  # names are resolved, and links are those that we have
                self.counts[why] += 1
            else:
                said.append(address)
        self.book.told(name, said)

    def forget(self, name: PeerId) -> None:
        """`name` is not on the roster any more."""
        self.book.forget(name)

    def addresses_of(self, name: PeerId) -> list[Address]:
        """Where to dial a member, eight at most: where it was last, what it says, and the configured ones always."""
        seeds = list(self._seeds.get(name, ()))[:_DIALLED]
        known = self._dialled(name, self.book.addresses(name))
        first = [address for address in dict.fromkeys(known) if address not in seeds][: max(1, _DIALLED - len(seeds))]
        return [*first, *seeds][:_DIALLED]

    def own(self, *, at_most: int = 4) -> list[str]:
        """What to say of ourselves in our statements. Raises: ConfigError: the system does not tell."""
        return self._around().announceable(self._port, at_most=at_most) if self._port else []

    def _known(self, without: Collection[str]) -> list[tuple[str, Address]]:
        known = self.book.best(without)[:_KNOWN]
        return [(name, each) for name, address in known for each in self._dialled(name, [address])]

    def _dialled(self, name: PeerId, addresses: Iterable[Address]) -> list[Address]:
        """As they have to be dialled: what is only said may have the scopes of another machine."""
        said = {address for address in self.book.said(name) if is_link_local(address)}
        around = self._around() if said else Surroundings(())
        return [each for address in addresses for each in (around.localized(address) if address in said else [address])]

    def _offered(self, hint: Hint) -> None:
        if self._candidates.offer(hint):
            self._awake.set()

    async def _look(self) -> None:
        while True:
            now, here = self._clock(), self._here()
            free = [source for source in Source if self._running[source] < _AT_ONCE]
            attempt = self._candidates.next(now, here, free)
            if attempt is not None:
                self._begin(attempt)
                continue
            due = self._candidates.due(now, here, free)
            await self._rest(_IDLE_S if due is None else min(_IDLE_S, max(0.05, due - now)))
            if self.book.is_changed and self._clock() - self._saved_at >= _SAVE_S and self._is_saved:
                self._saving = asyncio.get_running_loop().create_task(self._save(), name="discovery-book")

    @property
    def _is_saved(self) -> bool:
        return self._saving is None or self._saving.done()

    async def _rest(self, seconds: float) -> None:
        self._awake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        except TimeoutError:
            pass

    def _begin(self, attempt: Attempt) -> None:
        self.counts[f"tried_{attempt.source}"] += 1
        task = asyncio.get_running_loop().create_task(self._try(attempt), name="discovery-attempt")
        self._running[attempt.source] += 1
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._over(attempt, done))

    def _over(self, attempt: Attempt, task: "asyncio.Task[None]") -> None:
        self._running[attempt.source] -= 1
        self._tasks.discard(task)
        self._awake.set()
        _tell(task)

    async def _try(self, attempt: Attempt) -> None:
        why = "unresolved"
        try:
            for address in await self._resolver.resolve(attempt.address):
                try:
                    name = await self._identify(address, attempt.name)
                except IdentityError:
                    why = "refused"
                except PeerError:
                    why = "refused" if why == "refused" else "unreached"
                else:
                    self._met(attempt, name, address)
                    return
        except PeerError:
            pass  # nobody knows the host
        except ConfigError as error:  # our certificate cannot be read
            why = "certificate"
            self._events(Notice(str(error)))
        self.counts[why] += 1
        self._candidates.failed(attempt, self._clock())

    def _met(self, attempt: Attempt, name: PeerId, address: Address) -> None:
        self._candidates.reached(attempt, name, self._clock())
        if attempt.source is not Source.SEED:  # what a name means today is for the resolver to say again
            self.book.succeeded(name, address)
        self._events(PeerFound(name, str(attempt.source)))
        self._found(name, address)

    async def _save(self) -> None:
        self._saved_at = self._clock()
        if not self.book.is_changed:
            return
        try:
            await asyncio.to_thread(self.book.write, self.book.taken())
        except ConfigError as error:
            self.counts["storage"] += 1
            self._events(Notice(str(error)))


def _tell(task: "asyncio.Task[None]") -> None:
    """What we were given to call has failed: it is not to be lost."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": f"{task.get_name()} failed", "exception": error})
