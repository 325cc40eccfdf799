"""What a device gives to its neighbours: who is served next, and how much may wait.

A few pieces at a time are handed to the transport, which says when one has left: so what waits here can still be put in
order. Small files go first, they are what others need to begin; then who was given least. One neighbour has a few
places in the queue, and never all the places in the transport.
"""

from collections import Counter
from dataclasses import dataclass

from fedmesh.mesh.swarm.holdings import CHUNKS
from fedmesh.mesh.swarm.messages import Request
from fedmesh.mesh.swarm.settings import Settings

__all__ = ["Uploads"]

_MOST = 4
_SLOW_PIECES = 4
_LEAST_SLOW_S = 1.0


@dataclass(slots=True)
class _Leaving:
    peer: str
    since: float


class Uploads:
    """The queue.

    Attributes:
        given: bytes of pieces that were handed to the transport, by neighbour.
        piece_s: how long a piece takes to leave, by the last few; 0: none has left yet.
    """

    def __init__(self, settings: Settings) -> None:
        self.given: Counter[str] = Counter()
        self.piece_s = 0.0
        self._settings = settings
        self._waiting: dict[str, dict[int, Request]] = {}
        self._leaving: list[_Leaving] = []
        self._turn: Counter[str] = Counter()

    def ask(self, peer: str, request: Request) -> bool:
        """Whether a request has a place in the queue; one that is there already keeps it."""
        waiting = self._waiting.setdefault(peer, {})
        if request.number not in waiting and len(waiting) >= self._settings.queue:
            return False
        waiting[request.number] = request
        return True

    def cancel(self, peer: str, number: int) -> None:
        """The answer is not needed any more."""
        self._waiting.get(peer, {}).pop(number, None)

    def next(self, now: float) -> tuple[str, Request] | None:
        """Who is served now, and with what; None: nobody asks, or no place is free."""
        if len(self._leaving) >= _MOST * self._settings.uploads or self._fresh(now) >= self._settings.uploads:
            return None
        busy = Counter(item.peer for item in self._leaving)
        peers = [
            peer for peer, waiting in self._waiting.items() if waiting and busy[peer] < self._settings.uploads_each
        ]
        if not peers:
            return None
        _, _, peer, number = min(map(self._rank, peers))
        return peer, self._waiting[peer].pop(number)

    def _fresh(self, now: float) -> int:
        return sum(now < item.since + self.slow_s for item in self._leaving)

    @property
    def slow_s(self) -> float:
        """After how long a piece that has not left makes room for another: its receiver is slow, not this link."""
        return max(_LEAST_SLOW_S, _SLOW_PIECES * self.piece_s)

    def handed(self, peer: str, size: int, now: float) -> None:
        """A piece goes to the transport: `sent` is to follow."""
        self.given[peer] += size
        self._turn[peer] += size
        self._leaving.append(_Leaving(peer, now))

    def sent(self, peer: str, now: float) -> None:
        """The oldest piece for `peer` has left."""
        for item in self._leaving:
            if item.peer == peer:
                self._leaving.remove(item)
                took = now - item.since
                self.piece_s = took if not self.piece_s else 0.75 * self.piece_s + 0.25 * took
                return

    def gone(self, peer: str) -> None:
        """There is no link to it any more; a newcomer does not begin with more to its credit than others have left."""
        self._waiting.pop(peer, None)
        self._leaving = [item for item in self._leaving if item.peer != peer]
        self._turn.pop(peer, None)

    def came(self, peer: str) -> None:
        """A newcomer has been given as much as who was given least: it does not hold up the others."""
        self._turn[peer] = min(self._turn.values(), default=0)

    def stuck(self, now: float) -> list[str]:
        """For whom a piece has not left in time: what it asked for is forgotten."""
        late = {item.peer for item in self._leaving if now >= item.since + self._settings.send_s}
        for peer in late:
            self._waiting.pop(peer, None)
            self._leaving = [item for item in self._leaving if item.peer != peer]
        return sorted(late)

    def due(self, now: float) -> float:
        """When `stuck` or `next` is to be called."""
        times = [item.since + after_s for item in self._leaving for after_s in (self.slow_s, self._settings.send_s)]
        return min((at for at in times if at > now), default=float("inf"))

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits, and nothing leaves."""
        return not self._leaving and not any(self._waiting.values())

    def is_busy_for(self, peer: str) -> bool:
        """Whether something for it waits or is leaving."""
        return bool(self._waiting.get(peer)) or any(item.peer == peer for item in self._leaving)

    def _rank(self, peer: str) -> tuple[bool, int, str, int]:
        number, request = next(iter(self._waiting[peer].items()))
        return request.name.startswith(CHUNKS), self._turn[peer], peer, number
