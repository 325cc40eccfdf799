"""What a member of a mesh counts of it: members by what they are held to be, and links."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["MeshMetrics"]


class MeshMetrics(Collector):
    """``fedmesh_mesh_members{state}`` and ``fedmesh_mesh_links``, read at every scrape, from another thread.

    Args:
        registry: where they are exported.
        states: state -> how many members are that, this one included. links: how many connections there are.
    """

    def __init__(
        self, registry: CollectorRegistry, *, states: Callable[[], Mapping[str, int]], links: Callable[[], int]
    ) -> None:
        self._states, self._links = states, links
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Both."""
        members = GaugeMetricFamily(
            "fedmesh_mesh_members", "Members, by what this one holds them to be.", labels=("state",)
        )
        for state, count in sorted({"alive": 0, "suspect": 0, "dead": 0, "left": 0, **self._states()}.items()):
            members.add_metric((state,), count)
        yield members
        yield GaugeMetricFamily("fedmesh_mesh_links", "Connections with other members.", value=self._links())
