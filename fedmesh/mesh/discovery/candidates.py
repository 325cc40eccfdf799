"""Whom to try next, of seeds, members known from before, and what is nearby. Sans-IO: clock and chance are arguments.

Guaranteed, whatever is announced nearby: each source has a budget of its own, so a flood of hints takes nothing from
seeds and known members; an address is never tried more often than its pace allows, whoever names it, under however many
keys; and sources that name the same one take turns, so that each learns in the end what it is worth.
"""

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fedmesh.mesh.discovery.addresses import Address
from fedmesh.mesh.discovery.hints import Attempt, Hint, Source
from fedmesh.mesh.discovery.nearby_hints import NearbyHints
from fedmesh.mesh.discovery.pace import Budget, Pace
from fedmesh.mesh.discovery.settings import Settings

__all__ = ["Candidates", "Here"]

_MAX_SEEDS = 64


@dataclass(frozen=True, slots=True)
class Here:
    """Members that are alive as far as the membership knows: nobody has to look for them.

    Attributes:
        names: theirs, our own not among them. addresses: that they say they have.
        absent: who is not here, and whom the membership tries itself.
    """

    names: Collection[str] = field(default=frozenset())
    addresses: Collection[Address] = field(default=frozenset())
    absent: Collection[str] = field(default=frozenset())


class Candidates:
    """What could be tried.

    Args:
        seeds: name -> addresses, of the configuration; the first 64 names.
        known: name and address of members from before, the best first, without those of the names that it is given;
            asked anew each time. Whoever is here may conceal them.
        rng: for all choices; `random.SystemRandom()` but in tests, so that nobody foresees who is tried.
    """

    def __init__(
        self,
        *,
        seeds: Mapping[str, Collection[Address]],
        known: Callable[[Collection[str]], Iterable[tuple[str, Address]]],
        rng: random.Random,
        settings: Settings | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._known, self._rng = known, rng
        self._seeds = [(name, address) for name, hints in list(seeds.items())[:_MAX_SEEDS] for address in hints]
        self._nearby = NearbyHints(self._settings, rng)
        self._pace = Pace(self._settings, rng)
        self._budgets = {source: Budget(self._settings) for source in Source}
        self._served = list(Source)
        self._busy: dict[tuple[Source, str], float] = {}

    @property
    def nearby(self) -> int:
        """Hints nearby that have not expired."""
        return len(self._nearby)

    def offer(self, hint: Hint) -> bool:
        """Somebody nearby was heard; False if it is not taken up."""
        return self._nearby.offer(hint)

    def withdraw(self, key: str) -> None:
        """Somebody nearby is said to have gone."""
        self._nearby.withdraw(key)

    def next(self, now: float, here: Here, sources: Collection[Source] = tuple(Source)) -> Attempt | None:
        """What is to be tried now, of `sources`; None: nothing before `due`."""
        if self._pace.room_at(now) > now:
            return None
        for source in self._served:
            if (
                source in sources
                and self._budgets[source].ready_at(now) <= now
                and (attempt := self._pick(source, now, here))
            ):
                self._served.remove(source)
                self._served.append(source)
                self._budgets[source].take(now)
                self._pace.began(attempt.address, now)
                self._busy = {key: over for key, over in self._busy.items() if over > now}
                self._busy[attempt.source, attempt.key or attempt.name] = now + self._settings.gap_s
                return attempt
        return None

    def due(self, now: float, here: Here, sources: Collection[Source] = tuple(Source)) -> float | None:
        """When `next` may have something; None: not before something new is heard or somebody goes away."""
        times = []
        for source in sources:
            free = [self._free_at(attempt) for group in self._groups(source, here) for attempt in group]
            if free:
                times.append(max(min(free), self._budgets[source].ready_at(now)))
        return max(self._pace.room_at(now), min(times)) if times else None

    def reached(self, attempt: Attempt, name: str, now: float) -> None:
        """`name` was there, by its certificate: while it is being connected, none of its addresses is tried."""
        self._busy[attempt.source, attempt.key or attempt.name] = now + self._settings.gap_s
        self._pace.reached(attempt.address, now)
        self._nearby.reached(attempt.key, attempt.address, name)

    def failed(self, attempt: Attempt, now: float) -> None:
        """Nobody answered, or nobody of this mesh, or another than was wanted."""
        self._busy.pop((attempt.source, attempt.key or attempt.name), None)
        self._pace.failed(attempt.address, now)
        self._nearby.failed(attempt.key, attempt.address, now)

    def _free_at(self, attempt: Attempt) -> float:
        """When it may be made: not while another address of the same party is being tried."""
        busy = self._busy.get((attempt.source, attempt.key or attempt.name), 0.0)
        return max(busy, self._pace.free_at(attempt.address))

    def _pick(self, source: Source, now: float, here: Here) -> Attempt | None:
        """One by lot of a source whose hints nobody vouches for, else the one that failed least."""
        free = [[each for each in group if self._free_at(each) <= now] for group in self._groups(source, here)]
        free = [group for group in free if group]
        if not free:
            return None
        if source is Source.NEARBY:
            return self._rng.choice(free)[0]
        if source is Source.SEED:
            self._rng.shuffle(free)
        return min((group[0] for group in free), key=lambda attempt: self._pace.failures(attempt.address))

    def _groups(self, source: Source, here: Here) -> list[list[Attempt]]:
        """What a source has to try; a group has one ticket, however many addresses it names."""
        match source:
            case Source.NEARBY:
                return [
                    [Attempt(source, address, "", key) for address, name in addresses]
                    for key, addresses in self._nearby.live()
                    if not any(name in here.names or address in here.addresses for address, name in addresses)
                ]
            case Source.SEED:
                named: Iterable[tuple[str, Address]] = self._seeds
            case Source.KNOWN:
                named = self._known({*here.names, *here.absent})
        return [[Attempt(source, address, name, "")] for name, address in named if name not in here.names]
