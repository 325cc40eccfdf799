"""What inference tells Prometheus: read from counters that are kept anyway, when somebody asks.

Names begin with ``fedmesh_inference_``. No label names a device, a peer or an example; their values are few, but for
the digest of the one model that runs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from fedmesh.events import Event, ModelProven, ModelSwapped, SwapRefused, SwapUndone
from fedmesh.inference.latency import BUCKETS_S
from fedmesh.inference.live import LiveModel

__all__ = ["InferenceCollector"]

Family = CounterMetricFamily | HistogramMetricFamily | InfoMetricFamily
_SWAPS = {ModelSwapped: "swapped", SwapRefused: "refused", ModelProven: "proven", SwapUndone: "rolled_back"}


class InferenceCollector(Collector):
    """For a registry's `register`.

    Args:
        live: the model.
        handoffs, requests, peers: examples handed off by result, requests by HTTP status, connections refused by code.
            Read, never written.
    """

    def __init__(
        self,
        live: LiveModel,
        *,
        handoffs: Mapping[str, int] | None = None,
        requests: Mapping[str, int] | None = None,
        peers: Mapping[str, int] | None = None,
    ) -> None:
        self._live = live
        self._swaps: Counter[str] = Counter(dict.fromkeys(_SWAPS.values(), 0))
        self._counted: dict[str, tuple[str, str, Mapping[str, int]]] = {
            "swaps": ("Models taken, refused, proven on requests, rolled back.", "result", self._swaps),
            "handoffs": ("Examples handed off to a bigger model, or that were to be.", "result", _given(handoffs)),
            "requests": ("Requests for predictions.", "status", _given(requests)),
            "refused_peers": ("Connections refused in the handshake or after it, or cut.", "code", _given(peers)),
        }

    def event(self, event: Event) -> None:
        """An `EventSink`: counts what happens to models."""
        result = _SWAPS.get(type(event))
        if result is not None:
            self._swaps[result] += 1

    def collect(self) -> Iterable[Family]:
        """All families, as they are now."""
        yield self._seconds()
        for name, (text, label, counts) in self._counted.items():
            family = CounterMetricFamily(f"fedmesh_inference_{name}", text, labels=[label])
            for value, count in sorted(dict(counts).items()):
                family.add_metric([value], count)
            yield family
        engine = self._live.current
        info = InfoMetricFamily("fedmesh_inference_model", "The model that answers.")
        if engine is not None:
            info.add_metric([], {"sha256": engine.sha256})
        yield info

    def _seconds(self) -> HistogramMetricFamily:
        observed = self._live.latency.read()
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        return HistogramMetricFamily(
            "fedmesh_inference_seconds",
            "Seconds that one call of the model took, a batch of a request.",
            buckets=list(zip(bounds, observed.cumulative, strict=True)),
            sum_value=observed.seconds,
        )


def _given(counts: Mapping[str, int] | None) -> Mapping[str, int]:
    """`counts` itself, which may be empty still."""
    return {} if counts is None else counts
