"""A broker in memory, as bad as a test asks for, on the event loop's time or on a time that the test moves.

It loses, repeats, delays and reorders frames, cuts parties off and lets them crash; for one seed it does so in the same
way. Everything above the frames is what runs over MQTT.
"""

import asyncio
import heapq
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedmesh.identity.names import checked_id
from fedmesh.transport.courier import Courier
from fedmesh.transport.endpoint import Carried, Endpoint
from fedmesh.transport.limits import Limits
from fedmesh.transport.spool import Spool
from fedmesh.transport.timers import LoopTimers, Timers
from fedmesh.types import PeerId

__all__ = ["Faults", "ManualTimers", "MemoryBroker", "MemoryTransport"]

_RECONNECT_S = 1.0
_UNDER_WAY = 64
"""Frames of one party that are on their way; it has no room for more."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What a broker does to frames.

    Attributes:
        loss, duplication: probabilities, of each frame. delay_s: longest delay; frames overtake each other.
    """

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.0


class ManualTimers:
    """Time that stands still until `run` moves it: monotonic and Unix seconds in one."""

    def __init__(self, start_s: float = 1e9) -> None:
        self._now_s = start_s
        self._calls: list[tuple[float, int, _Call]] = []
        self._number = itertools.count()

    def now(self) -> float:
        """Seconds."""
        return self._now_s

    def call_at(self, when: float, call: Callable[[], None]) -> "_Call":
        """As `fedmesh.transport.timers.Timers`."""
        pending = _Call(call)
        heapq.heappush(self._calls, (when, next(self._number), pending))
        return pending

    async def run(self, seconds: float) -> None:
        """Moves the time, making every call when it is due; tasks get to run in between."""
        end = self._now_s + seconds
        await _settle()
        while self._calls and self._calls[0][0] <= end:
            when, _, pending = heapq.heappop(self._calls)
            self._now_s = max(self._now_s, when)
            pending.make()
            await _settle()
        self._now_s = end


class _Call:
    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self._call = None

    def make(self) -> None:
        if self._call is not None:
            self._call()


class MemoryTransport(Courier):
    """A party at a `MemoryBroker`."""

    name: PeerId

    def crash(self) -> None:
        """Ends it as `kill -9` would: nothing is said, nothing more is written. The spool can be opened again."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(self._link, _MemoryLink):
            self._link.gone = True
            self._link.broker.forget(self)
        if self._spool is not None:
            self._spool.close()


class MemoryBroker:
    """Carries frames between the parties that joined it.

    Args:
        chance: decides every fault. faults: may be set anew at any time.
        timers: a `ManualTimers`, or None for the event loop's time.
    """

    def __init__(
        self, *, chance: random.Random | None = None, faults: Faults | None = None, timers: ManualTimers | None = None
    ) -> None:
        self.chance = chance or random.Random(0)  # noqa: S311 - faults, no secrets
        self.faults = faults or Faults()
        self.carried = 0
        self.cut: set[PeerId] = set()
        """Parties whose frames are lost, both ways."""
        self._kept: dict[tuple[PeerId, str], bytes] = {}
        self._manual = timers
        self.timers: Timers = timers or LoopTimers()
        self._parties: dict[PeerId, MemoryTransport] = {}

    def join(
        self, name: PeerId, *, limits: Limits | None = None, spool: Spool | None = None, coordinator: bool = False
    ) -> MemoryTransport:
        """A transport for `name`, which may announce if it is a `coordinator`; whoever had the name is cut off."""
        wall = time.time if self._manual is None else self._manual.now
        endpoint = Endpoint(limits or Limits(), chance=self.chance, wall=wall, spool=spool)
        party = MemoryTransport(endpoint, self.timers, spool=spool, wall=wall)
        party.name = checked_id(name)
        self._parties[name] = party
        party.attach(_MemoryLink(self, party, announces=coordinator))
        for other in list(self._parties.values()):
            if other is not party:
                other.noticed(name, there=True)
                party.noticed(other.name, there=True)
        for who, what in self._kept:
            self._tell(party, who, what)
        return party

    def forget(self, party: MemoryTransport) -> None:
        """A party is gone: the others are told, as by a last will."""
        if self._parties.get(party.name) is party:
            del self._parties[party.name]
            for other in list(self._parties.values()):
                other.noticed(party.name, there=False)

    def announce(self, sender: MemoryTransport, what: str, data: bytes) -> None:
        """Takes an announcement, and tells everybody; who is cut off says or hears it when it no longer is."""

        def land() -> None:
            if self._parties.get(sender.name) is not sender:
                return
            if sender.name in self.cut:
                self.timers.call_at(self.timers.now() + _RECONNECT_S, land)
                return
            self._kept[sender.name, what] = data
            sender.announcement_settled(what, data)
            for party in list(self._parties.values()):
                self._tell(party, sender.name, what)

        self.timers.call_at(self.timers.now() + self.chance.random() * self.faults.delay_s, land)

    def _tell(self, party: MemoryTransport, who: PeerId, what: str) -> None:
        def land() -> None:
            if self._parties.get(party.name) is not party:
                return
            if party.name in self.cut:
                self.timers.call_at(self.timers.now() + _RECONNECT_S, land)
            else:
                party.heard(who, what, self._kept.get((who, what), b""))

        if party.name != who:
            self.timers.call_at(self.timers.now() + self.chance.random() * self.faults.delay_s, land)

    def inject(self, sender: PeerId, to: PeerId, data: bytes) -> None:
        """Delivers a frame of the test's own making, now."""
        if (party := self._parties.get(to)) is not None:
            party.arrived(sender, data)

    def carry(self, sender: MemoryTransport, frame: Carried, landed: Callable[[], None]) -> None:
        """Takes a frame, whatever becomes of it; calls `landed` when it is no longer under way."""
        self.carried += 1
        now, faults = self.timers.now(), self.faults
        delay_s = self.chance.random() * faults.delay_s
        lost = self.chance.random() < faults.loss or {sender.name, frame.peer} & self.cut

        def land() -> None:
            landed()
            if not lost:
                self.inject(sender.name, frame.peer, frame.data)

        self.timers.call_at(now + delay_s, land)
        if not lost and self.chance.random() < faults.duplication:
            again = self.chance.random() * faults.delay_s
            self.timers.call_at(now + again, lambda: self.inject(sender.name, frame.peer, frame.data))


class _MemoryLink:
    def __init__(self, broker: MemoryBroker, party: MemoryTransport, *, announces: bool) -> None:
        self.broker, self._party, self.announces = broker, party, announces
        self._under_way = 0
        self.gone = False

    def has_room(self) -> bool:
        return not self.gone and self._under_way < _UNDER_WAY

    def carry(self, frame: Carried) -> None:
        self._under_way += 1
        self.broker.carry(self._party, frame, self._landed)

    def announce(self, what: str, data: bytes) -> None:
        self.broker.announce(self._party, what, data)

    async def aclose(self) -> None:
        self.gone = True
        self.broker.forget(self._party)

    def _landed(self) -> None:
        self._under_way -= 1
        self._party.pump()


async def _settle() -> None:
    """Lets tasks that were woken run until they wait again; a few turns are enough for what the transport does."""
    for _ in range(10):
        await asyncio.sleep(0)
