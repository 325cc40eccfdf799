"""Packets of the rounds, sent again and again until they are answered: one that waits is not put behind itself."""

from collections import Counter
from collections.abc import Mapping

from fedmesh.events import EventSink, Notice, ignore
from fedmesh.peer.post import Post
from fedmesh.transport.channel import Channel
from fedmesh.types import PeerId

__all__ = ["Packets"]

_WORTH_S, _SLOWEST_BYTES_S = 120.0, 64 << 10
"""So long a packet is worth sending, and a long one as long as a slow link takes for it."""
_WAITING = 4
"""For one peer, of the longest: some masked inputs, or a slow link's share of a round."""


class Packets:
    """Of one channel. `max_bytes`: longest packet that the transport takes."""

    def __init__(self, channel: Channel, *, max_bytes: int, events: EventSink = ignore) -> None:
        self._post = Post(channel, expires_in_s=_WORTH_S)
        self._under_way: set[tuple[PeerId, bytes]] = set()
        self._bytes: Counter[PeerId] = Counter()
        self._counts: Counter[str] = Counter()
        self._max_bytes, self._events = max_bytes, events

    @property
    def counts(self) -> Mapping[str, int]:
        """What was lost, by reason."""
        return Counter(self._post.counts) + self._counts

    def send(self, to: PeerId, data: bytes) -> None:
        """Takes a packet on its way, unless the very same is under way."""
        key = (to, data)
        if key in self._under_way:
            return
        if len(data) > self._max_bytes:
            if not self._counts["too-long"]:  # the round cannot go on: said once, and counted
                self._events(Notice(f"a message of a run has {len(data)} bytes, a mesh carries {self._max_bytes}"))
            self._counts["too-long"] += 1
            return
        if self._bytes[to] + len(data) > _WAITING * self._max_bytes:
            self._counts["dropped"] += 1
            return
        self._under_way.add(key)
        self._bytes[to] += len(data)
        worth_s = _WORTH_S + len(data) / _SLOWEST_BYTES_S
        self._post.send(to, data, arrived=lambda: self._left(key), expires_in_s=worth_s)

    async def aclose(self) -> None:
        """Sends nothing any more."""
        await self._post.aclose()

    def _left(self, key: tuple[PeerId, bytes]) -> None:
        self._under_way.discard(key)
        self._bytes[key[0]] -= len(key[1])
        if self._bytes[key[0]] <= 0:
            del self._bytes[key[0]]
