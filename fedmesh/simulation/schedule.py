"""Which messages run together, and in which order: a function of the messages alone, never of the workers.

Nodes that cost more come first (longest processing time first, Graham 1969), so that no worker begins the longest when
the others are done. A node's messages run one after another, in the order in which they came.
"""

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fedmesh.flower.envelope import Envelope

__all__ = ["Bundle", "Schedule"]

_CORES = 4
_SMALLEST_GROUP = 4

Item = tuple[int, Envelope]
"""Node id and folded message."""


@dataclass(slots=True, eq=False)
class Bundle:
    """Messages that are run together, to different nodes; more than one only for an app that trains cohorts.

    Attributes:
        items: the messages.
        deaths: how many workers have died of it.
    """

    items: list[Item]
    deaths: int = 0

    @property
    def nodes(self) -> set[int]:
        """Ids of its nodes."""
        return {node_id for node_id, _ in self.items}


class Schedule:
    """Messages on their way to a worker.

    Args:
        cost: relative cost of a node, e.g. its number of examples.
    """

    def __init__(self, cost: Callable[[int], float]) -> None:
        self._cost = cost
        self._queue: list[Item] = []
        self._waiting: deque[Bundle] = deque()
        self._busy: set[int] = set()

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._queue or self._waiting)

    def add(self, item: Item) -> None:
        """A message that was submitted."""
        self._queue.append(item)

    def group(self, cohort_size: int) -> None:
        """Makes bundles of even size, at most `cohort_size` nodes each, of all messages added so far."""
        for wave in _waves(self._queue):
            self._waiting.extend(self._grouped(wave, cohort_size))
        self._queue = []

    def next(self) -> Bundle | None:
        """The first bundle none of whose nodes has an earlier message: a node's state is in one place at a time."""
        blocked = set(self._busy)
        for position, bundle in enumerate(self._waiting):
            nodes = bundle.nodes
            if blocked.isdisjoint(nodes):
                del self._waiting[position]
                self._busy |= nodes
                return bundle
            blocked |= nodes
        return None

    def done(self, bundle: Bundle) -> None:
        """A bundle that `next` gave is over."""
        self._busy -= bundle.nodes

    def again(self, bundle: Bundle) -> None:
        """A bundle that `next` gave has to be run again, before all others."""
        self.done(bundle)
        self._waiting.appendleft(bundle)

    def clear(self) -> None:
        """Forgets everything."""
        self._queue.clear()
        self._waiting.clear()
        self._busy.clear()

    def _grouped(self, wave: Sequence[Item], size: int) -> Iterable[Bundle]:
        items = sorted(wave, key=lambda item: -self._cost(item[0]))
        # Few devices are spread over a few cores, not trained all at once: over a number that all machines agree on.
        groups = (
            max(math.ceil(len(items) / size), min(_CORES, len(items) // _SMALLEST_GROUP)) if size > 1 else len(items)
        )
        ends = [round(len(items) * group / groups) for group in range(groups + 1)]
        return [Bundle(items[start:end]) for start, end in itertools.pairwise(ends)]


def _waves(queue: Iterable[Item]) -> list[list[Item]]:
    """The queue in parts that hold each node once."""
    waves: list[list[Item]] = []
    seen: Counter[int] = Counter()
    for item in queue:
        if seen[item[0]] == len(waves):
            waves.append([])
        waves[seen[item[0]]].append(item)
        seen[item[0]] += 1
    return waves
