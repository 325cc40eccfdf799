"""How an origin gives each chunk away once, and leaves the rest to those who have it.

Super-seeding (Hoffman, BitTorrent BEP 16): a neighbour is told of a few chunks that nobody else has, of others when it
has these. Who gets nothing from anybody for a while is told of everything: it has no neighbour to ask but this one. So
are all as soon as all chunks are out: the last ones come sooner with one more who gives.
"""

import random
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_

__all__ = ["Seeding"]


class Seeding:
    """Of one file of `count` chunks, by who has all of them.

    Args:
        reveal: chunks at a time that a neighbour is told of.
    """

    def __init__(self, count: int, reveal: int, rng: random.Random) -> None:
        self._all, self._count, self._reveal, self._rng = (1 << count) - 1, count, reveal, rng
        self._shown: dict[str, int] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._open: set[str] = set()
        self._is_out = False

    def update(
        self, masks: Mapping[str, int], now: float, *, patience_s: float, waits: Callable[[str], bool]
    ) -> dict[str, int]:
        """What each neighbour is to be told of.

        Args:
            masks: what the neighbours have who fetch the file or have it.
            patience_s: who gets nothing for so long is told of everything.
            waits: whether a neighbour waits for something from here: then it is not its neighbours who fail it.
        """
        for name in [name for name in self._shown if name not in masks]:
            self._forget(name)
        for name in [name for name in self._seen if masks[name] == self._all]:
            del self._seen[name]
        lacking = sorted(name for name, mask in masks.items() if mask != self._all)
        self._rng.shuffle(lacking)
        for name in lacking:
            self._shown.setdefault(name, 0)
            mask, since = self._seen.get(name, (-1, now))
            if mask != masks[name] or waits(name):
                self._seen[name] = masks[name], now
            elif now >= since + patience_s:
                self._open.add(name)
        out = 0
        for name, mask in masks.items():
            out |= mask | self._shown.get(name, 0)
        for _ in range(self._reveal):
            for name in lacking:
                if (self._shown[name] & ~masks[name]).bit_count() < self._reveal and (free := self._all & ~out):
                    chosen = 1 << self._rng.choice(_bits(free))
                    self._shown[name] |= chosen
                    out |= chosen
        self._is_out = self._is_out or reduce(or_, (masks[name] for name in lacking), 0) == self._all
        everything = set(masks) if self._is_out else self._open | (set(lacking) if len(masks) == 1 else set())
        return {name: self._all if name in everything else self._shown.get(name, 0) for name in masks}

    def next_look(self, patience_s: float) -> float:
        """When somebody's patience may be at its end."""
        times = [since for name, (_, since) in self._seen.items() if name not in self._open]
        return min(times, default=float("inf")) + patience_s

    def _forget(self, name: str) -> None:
        self._shown.pop(name, None)
        self._seen.pop(name, None)
        self._open.discard(name)


def _bits(mask: int) -> list[int]:
    """The numbers of the bits that are set."""
    return [index for index in range(mask.bit_length()) if mask >> index & 1]
