"""One file in chunks: which chunk is asked of whom next, rarest first (Legout and others 2006), from few at a time.

Near the end a chunk that takes long is asked of somebody else, and the first request is cancelled: nothing is asked of
two at once without a reason. It is told what came, and says what to ask; it sends nothing.
"""

import random
from collections.abc import Sequence

from fedmesh.mesh.swarm.neighbours import Asked, Neighbour
from fedmesh.mesh.swarm.settings import Settings
from fedmesh.registry.manifest import Blob

__all__ = ["Download"]

_LEAST_OVERDUE_S = 1.0


class Download:
    """Of `blob`; `mask` is what is here already.

    Attributes:
        missing: which chunks are not here: bit i is chunk i.
    """

    def __init__(self, blob: Blob, mask: int, settings: Settings, rng: random.Random) -> None:
        self.blob, self._settings, self._rng = blob, settings, rng
        self.missing = ((1 << len(blob.chunks)) - 1) & ~mask
        self._requested = 0
        self._typical_s = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether all is here."""
        return not self.missing

    def plan(self, neighbours: Sequence[Neighbour], now: float) -> list[tuple[Neighbour, int]]:
        """Whom to ask for which chunk now. What is returned counts as asked for."""
        planned: list[tuple[Neighbour, int]] = []
        under_way = {one.name: len(one.asked) for one in neighbours}
        masks = {one.name: one.masks.get(self.blob.sha256, 0) for one in neighbours}
        waiting = self._waiting(neighbours, now)
        while True:
            wanted = self.missing & ~self._requested
            able = [one for one in self._able(neighbours, under_way, waiting) if masks[one.name] & wanted]
            if not able:
                return planned
            index = self._rarest(wanted, [masks[one.name] for one in able], list(masks.values()))
            having = [one for one in able if masks[one.name] >> index & 1]
            self._rng.shuffle(having)
            chosen = min(having, key=lambda one: under_way[one.name])
            under_way[chosen.name] += 1
            self._requested |= 1 << index
            planned.append((chosen, index))

    def overdue(self, neighbours: Sequence[Neighbour], now: float) -> list[tuple[Neighbour, Asked, Neighbour]]:
        """What is asked of whom, for too long, and who is to be asked instead; nothing before the end is near."""
        if self.missing & ~self._requested or not self.missing:
            return []
        moved: list[tuple[Neighbour, Asked, Neighbour]] = []
        after_s = self.overdue_s
        idle = [one for one in neighbours if not one.asked]
        for slow in neighbours:
            for item in slow.asked.values():
                if item.index < 0 or now < item.at + after_s:
                    continue
                others = [one for one in idle if one.masks.get(self.blob.sha256, 0) >> item.index & 1]
                if others:
                    chosen = self._rng.choice(others)
                    idle.remove(chosen)
                    moved.append((slow, item, chosen))
        return moved

    @property
    def waiting_s(self) -> float:
        """After how long a neighbour no longer counts as one that gives."""
        return self._typical_s or _LEAST_OVERDUE_S

    @property
    def overdue_s(self) -> float:
        """After how long a chunk is asked of somebody else."""
        return max(_LEAST_OVERDUE_S, self._settings.overdue * self._typical_s)

    def came(self, index: int, took_s: float) -> None:
        """A chunk is here, and is the one."""
        self.missing &= ~(1 << index)
        self._requested &= ~(1 << index)
        self._typical_s = took_s if not self._typical_s else 0.8 * self._typical_s + 0.2 * took_s

    def failed(self, index: int) -> None:
        """What was asked for does not come."""
        self._requested &= ~(1 << index)

    def _waiting(self, neighbours: Sequence[Neighbour], now: float) -> set[str]:
        """At whom this device stands in a queue, by how long a chunk usually takes: they do not count as sources.

        A few only: a device with many slow neighbours does not ask them all.
        """
        since = {one.name: min(item.at for item in one.asked.values()) for one in neighbours if one.asked}
        slow = [name for name, at in since.items() if now >= at + self.waiting_s]
        return set(sorted(slow, key=since.__getitem__)[: self._settings.sources])

    def _able(self, neighbours: Sequence[Neighbour], under_way: dict[str, int], waiting: set[str]) -> list[Neighbour]:
        """Who can take one more request, such that not too many give at a time."""
        giving = sum(1 for name, count in under_way.items() if count and name not in waiting)
        able = [one for one in neighbours if under_way[one.name] < self._settings.pipeline]
        return able if giving < self._settings.sources else [one for one in able if under_way[one.name]]

    def _rarest(self, wanted: int, able: list[int], masks: list[int]) -> int:
        reachable = 0
        for mask in able:
            reachable |= mask
        reachable &= wanted
        rarest: list[int] = []
        fewest = len(masks) + 1
        for index in range(reachable.bit_length()):
            if not reachable >> index & 1:
                continue
            having = sum(mask >> index & 1 for mask in masks)
            if having < fewest:
                rarest, fewest = [index], having
            elif having == fewest:
                rarest.append(index)
        return self._rng.choice(rarest)
