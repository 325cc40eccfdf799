"""What was refused, by part and reason, read from the counters that the parts keep when it is scraped."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from threading import Lock

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from fedmesh.observability.bounded import BoundedLabel

__all__ = ["Refusals"]

Counts = Callable[[], Mapping[str, int]]


class Refusals(Collector):
    """``fedmesh_refused_total{part, reason}``.

    Reasons are those of a part's own code (`fedmesh.errors` codes, ``counts`` of a transport); at most 64 of a part
    are told apart. Counts go up only: a part that begins anew, as after a reconnection, is a restart to Prometheus.
    """

    def __init__(self) -> None:
        self._watched: list[tuple[str, Counts]] = []
        self._labels: dict[str, BoundedLabel] = {}
        self._own: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()

    def watch(self, part: str, counts: Counts) -> None:
        """Reads `counts` of `part` at every scrape, from another thread; several of one part are added up."""
        with self._lock:
            self._labels.setdefault(part, BoundedLabel(64))
            self._watched.append((part, counts))

    def count(self, part: str, reason: str) -> None:
        """One more, of a part that keeps no counts."""
        with self._lock:
            label = self._labels.setdefault(part, BoundedLabel(64))(reason)
            self._own[part, label] += 1

    def collect(self) -> Iterator[Metric]:
        """One family; the sums as they stand."""
        with self._lock:
            watched, sums = list(self._watched), self._own.copy()
        for part, counts in watched:
            for reason, count in dict(counts()).items():
                sums[part, self._labels[part](reason)] += count
        family = CounterMetricFamily(
            "fedmesh_refused", "What was refused, or out of the ordinary.", labels=("part", "reason")
        )
        for labels, count in sorted(sums.items()):
            family.add_metric(labels, count)
        yield family
