"""Whom a device is linked with, what they said, what is under way to them, and who is not to be asked for a while.

A ban outlives the link: who comes again under the same certificate is the same neighbour.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from fedmesh.mesh.swarm.settings import Settings
from fedmesh.registry.pointer import Pointer

__all__ = ["Asked", "Neighbour", "Neighbours"]

_MAX_BLOBS = 4
_MAX_BANS = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """A request under way: `index` is the chunk's, -1 for a file that is none."""

    number: int
    name: str
    offset: int
    length: int
    index: int
    at: float


@dataclass(slots=True)
class Neighbour:
    """One at the other end of a link.

    Attributes:
        pointer: what it announced; None: nothing yet.
        masks: file -> the chunks of it that it says it has; few files.
        wants: file -> until when it wants to hear what is here; told: what it heard last, and when.
        asked: requests under way by number.
        answered: when it last gave something that was asked for; took_s: how long a chunk takes, by the last few.
    """

    name: str
    pointer: Pointer | None = None
    masks: "OrderedDict[bytes, int]" = field(default_factory=OrderedDict)
    wants: dict[bytes, float] = field(default_factory=dict)
    told: dict[bytes, tuple[int, bool, float]] = field(default_factory=dict)
    asked: dict[int, Asked] = field(default_factory=dict)
    answered: float = 0.0
    took_s: float = 0.0
    strikes: int = 0
    misses: int = 0
    tokens: float = 0.0
    tokens_at: float = 0.0

    def says(self, blob: bytes, mask: int, until: float | None) -> None:
        """It has these chunks of a file, and wants to hear of more until then. The oldest of many is forgotten."""
        self.masks[blob] = mask
        self.masks.move_to_end(blob)
        if until is None:
            self.wants.pop(blob, None)
        else:
            self.wants[blob] = until
        while len(self.masks) > _MAX_BLOBS:
            gone, _ = self.masks.popitem(last=False)
            self.wants.pop(gone, None)
            self.told.pop(gone, None)


class Neighbours:
    """All of them, by name; `now` is seconds on a clock that only goes forward.

    Attributes:
        counts: what was refused, by reason.
    """

    def __init__(self, settings: Settings) -> None:
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._linked: dict[str, Neighbour] = {}
        self._banned: OrderedDict[str, float] = OrderedDict()
        self._snubbed: OrderedDict[str, float] = OrderedDict()

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self._linked.values())

    def get(self, name: str) -> Neighbour | None:
        """One that there is a link to."""
        return self._linked.get(name)

    def add(self, name: str, now: float) -> Neighbour | None:
        """A link came up; None: there are too many."""
        if name in self._linked:
            return self._linked[name]
        if len(self._linked) >= self._settings.neighbours:
            self.counts["full"] += 1
            return None
        made = Neighbour(name, answered=now, tokens=self._settings.burst, tokens_at=now)
        self._linked[name] = made
        return made

    def remove(self, name: str) -> Neighbour | None:
        """A link is gone."""
        return self._linked.pop(name, None)

    def admits(self, neighbour: Neighbour, now: float) -> bool:
        """Whether one more message of it is read; pieces that were asked for are not counted here."""
        earned = (now - neighbour.tokens_at) * self._settings.messages_s
        neighbour.tokens = min(self._settings.burst, neighbour.tokens + earned)
        neighbour.tokens_at = now
        if neighbour.tokens < 1:
            return False
        neighbour.tokens -= 1
        return True

    def ban(self, neighbour: Neighbour, reason: str, now: float) -> None:
        """It lied, which is proved: nothing is heard of it for a while."""
        self.counts[reason] += 1
        _remember(self._banned, neighbour.name, now + self._settings.ban_s)
        neighbour.pointer = None
        neighbour.masks.clear()
        neighbour.wants.clear()

    def is_banned(self, name: str, now: float) -> bool:
        """Whether nothing is heard of it."""
        return self._banned.get(name, now) > now

    def strike(self, neighbour: Neighbour, now: float) -> None:
        """A request to it was not answered in time; after a few nothing is asked of it for a while."""
        self.counts["timeout"] += 1
        neighbour.strikes += 1
        if neighbour.strikes >= self._settings.strikes:
            self.snub(neighbour, now)

    def missed(self, neighbour: Neighbour, now: float) -> None:
        """It does not have a chunk that it said it had: once or twice that is what it threw away meanwhile."""
        self.counts["missed"] += 1
        neighbour.misses += 1
        if neighbour.misses >= self._settings.misses:
            self.snub(neighbour, now)

    def snub(self, neighbour: Neighbour, now: float) -> None:
        """Nothing is asked of it for a while."""
        self.counts["snubbed"] += 1
        neighbour.strikes = neighbour.misses = 0
        _remember(self._snubbed, neighbour.name, now + self._settings.snub_s)

    def askable(self, now: float) -> list[Neighbour]:
        """Who may be asked for something."""
        return [one for one in self._linked.values() if self.may_ask(one.name, now)]

    def may_ask(self, name: str, now: float) -> bool:
        """Whether this one may."""
        return not self.is_banned(name, now) and self._snubbed.get(name, now) <= now

    def next_pardon(self, now: float) -> float:
        """When the next of those who are linked may be asked again; infinite: all may."""
        times = [kept[name] for kept in (self._banned, self._snubbed) for name in self._linked if name in kept]
        return min((at for at in times if at > now), default=float("inf"))


def _remember(kept: "OrderedDict[str, float]", name: str, until: float) -> None:
    kept[name] = until
    kept.move_to_end(name)
    while len(kept) > _MAX_BANS:
        kept.popitem(last=False)
