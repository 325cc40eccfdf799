"""A neighbour's favour: what two members say to each other who cannot reach each other, carried between them.

What is carried is TLS from one of them to the other: nobody here can read it, alter it or speak for one of them; what
is altered, repeated or left out ends their connection. All that a relay can do is not to carry, and to know who speaks
with whom, when and how much.

Bounded: circuits in all and of one peer, how often one may ask, bytes a second; each holds a window at most, each way.
One hop: both have a connection with us that is not relayed itself. Our own frames go first: a piece is passed on when
little waits to be written on that connection, and when the limit of our own bytes leaves something over.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping

from fedmesh.identity import Membership
from fedmesh.transport.bucket import Bucket
from fedmesh.transport.peer_circuits import Circuit, Circuits
from fedmesh.transport.peer_link import PeerLink
from fedmesh.transport.peer_options import PeerOptions
from fedmesh.transport.peer_wire import Kind
from fedmesh.types import PeerId

__all__ = ["Relay"]

_QUIET_BYTES = 64 << 10
"""With more of our own unwritten on a connection, what we carry for others waits."""
_PAUSE_S = 0.02
_CALLS = 32
_CALLS_S = 10.0
"""One peer may ask `_CALLS` times in so many seconds."""


class _Way:
    """One direction: from a circuit to another one. As `User` of the first."""

    def __init__(self, carried: "_Carried", source: Circuit, sink: Circuit) -> None:
        self.carried, self.source, self.sink = carried, source, sink
        self.waiting: deque[bytes] = deque()
        source.user = self

    @property
    def has_something(self) -> bool:
        """Whether a piece waits, and may be sent as far as the other end goes."""
        return bool(self.waiting) and self.sink.credit >= len(self.waiting[0])

    @property
    def is_quiet(self) -> bool:
        """Whether little else is to be written there."""
        return self.sink.link.unwritten < _QUIET_BYTES

    def move(self) -> int:
        """Passes a piece on; returns its bytes."""
        data = self.waiting.popleft()
        self.sink.send(data)
        self.source.taken(len(data))
        return len(data)

    def arrived(self, data: bytes) -> None:
        """As `User`."""
        if data and not self.sink.is_over:
            self.waiting.append(data)
            self.carried.wake()

    def may_send(self) -> None:
        """As `User`: there is room for what comes the other way."""
        self.carried.wake()

    def ended(self, code: str) -> None:
        """As `User`."""
        self.carried.half_over(self, code)


class _Carried:
    """One circuit from end to end: two streams, and a way from each to the other."""

    def __init__(self, caller: Circuit, called: Circuit, *, wake: Callable[[], None], now: float) -> None:
        self.ways = _Way(self, caller, called), _Way(self, called, caller)
        self.names = caller.link.name, called.link.name
        self.used_at, self.wake = now, wake
        self.ending: str | None = None

    @property
    def is_through(self) -> bool:
        """Whether one end is gone, and the other has what it had said before."""
        return self.ending is not None and not any(way.waiting for way in self.ways)

    def half_over(self, way: _Way, code: str) -> None:
        """The source of this way is gone: what it has said is still passed on."""
        self.ending = code
        for each in self.ways:
            if each is not way or way.sink.is_over:
                each.waiting.clear()
        self.wake()

    def end(self, code: str) -> None:
        """Nothing is passed on any more."""
        for way in self.ways:
            way.waiting.clear()
            way.source.end(code)


class Relay:
    """Of one party.

    Args:
        circuits: where those with whom we are asked to connect somebody are begun.
        links: with whom there is a connection.
        own_wait_s: sends what we have to say ourselves, and returns for how long nothing else may be sent.
        took: told how many bytes were sent for others. count: told what was refused or done, by reason.

    Attributes:
        carried_bytes: so far, of all circuits.
    """

    def __init__(
        self,
        membership: Membership,
        options: PeerOptions,
        circuits: Circuits,
        links: Mapping[PeerId, PeerLink],
        *,
        own_wait_s: Callable[[], float],
        took: Callable[[int], None],
        count: Callable[[str], None],
    ) -> None:
        self.carried_bytes = 0
        self._membership, self._options, self._circuits, self._links = membership, options, circuits, links
        self._own_wait_s, self._took, self._count = own_wait_s, took, count
        self._loop = asyncio.get_running_loop()
        self._bucket = Bucket(options.relay_bytes_per_s, self._loop.time())
        self._carried: list[_Carried] = []
        self._ways: deque[_Way] = deque()  # those that moved last are last
        self._calls: Counter[PeerId] = Counter()
        self._calls_since = self._loop.time()
        self._turn: asyncio.TimerHandle | None = None

    @property
    def between(self) -> list[tuple[PeerId, PeerId]]:
        """Who speaks with whom through us."""
        return [carried.names for carried in self._carried]

    def asked(self, circuit: Circuit, to: PeerId) -> None:
        """The neighbour at the other end of `circuit` wants to speak with `to`."""
        caller = circuit.link.name
        code = self._refusal(caller, to)
        if code:
            self._count(f"relay_{code}")
            circuit.end(code)
            return
        called = self._circuits.begin(self._links[to], Kind.CALLED)
        carried = _Carried(circuit, called, wake=self.wake, now=self._loop.time())
        self._carried.append(carried)
        self._ways.extend(carried.ways)
        self._count("relayed")

    def tick(self) -> None:
        """Ends what nobody uses, and between whom nothing is carried any more."""
        now = self._loop.time()
        if now - self._calls_since >= _CALLS_S:
            self._calls.clear()
            self._calls_since = now
        for carried in list(self._carried):
            if not all(map(self._is_member, carried.names)):
                self._end(carried, "roster")
            elif now - carried.used_at > self._options.idle_s:
                self._end(carried, "idle")

    def close(self) -> None:
        """Nothing is carried any more."""
        for carried in list(self._carried):
            self._end(carried, "closed")
        if self._turn is not None:
            self._turn.cancel()

    def wake(self) -> None:
        """There may be something to pass on."""
        if self._turn is None:
            self._turn = self._loop.call_later(0, self._turned)

    def _end(self, carried: _Carried, code: str) -> None:
        self._carried.remove(carried)
        self._ways = deque(way for way in self._ways if way.carried is not carried)
        carried.end(code)

    def _refusal(self, caller: PeerId, to: PeerId) -> str:
        self._calls[caller] += 1
        if not self._options.relay:
            return "off"
        if self._calls[caller] > _CALLS:
            return "often"
        if not (self._is_member(caller) and self._is_member(to)):
            return "roster"
        link = self._links.get(to)
        if link is None or link.via is not None or to == caller:
            return "unlinked"
        each = Counter(name for names in self.between for name in names)
        most = self._options.circuits_each
        if len(self._carried) >= self._options.circuits or each[caller] >= most or each[to] >= most:
            return "full"
        return ""

    def _is_member(self, name: PeerId) -> bool:
        row = self._membership.roster.enrolled.get(name)
        return row is not None and not self._membership.revocations.revoked(row.serial)

    def _turned(self) -> None:
        """A piece of one way; then it is the others' turn."""
        self._turn = None
        for carried in [each for each in self._carried if each.is_through]:
            self._end(carried, carried.ending or "closed")
        waiting = [way for way in self._ways if way.has_something]
        if not waiting:
            return
        wait_s = max(self._own_wait_s(), self._bucket.wait_s(self._loop.time()))
        way = next((way for way in waiting if way.is_quiet), None)
        if wait_s or way is None:
            self._turn = self._loop.call_later(wait_s or _PAUSE_S, self._turned)
            return
        size = way.move()
        self._ways.remove(way)
        self._ways.append(way)
        way.carried.used_at = self._loop.time()
        self.carried_bytes += size
        self._bucket.take(size)
        self._took(size)
        self.wake()
