"""Metrics are those of the counters, in a registry that is given, without a label for a device."""

from collections import Counter
from pathlib import Path

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from served_models import FEATURES, write_constant

from fedmesh.events import RoundStarted, SwapRefused
from fedmesh.inference import LiveModel
from fedmesh.inference.metrics import InferenceCollector


def test_what_is_exported(tmp_path: Path) -> None:
    digest = write_constant(tmp_path / "m.onnx", 1)
    live, requests = LiveModel(), Counter[str]()
    collector = InferenceCollector(live, requests=requests)
    live.events = collector.event
    registry = CollectorRegistry()
    registry.register(collector)
    assert "sha256" not in generate_latest(registry).decode()
    live.swap(tmp_path / "m.onnx")
    for _ in range(3):
        live.predict(np.zeros((2, FEATURES), np.float32))
    requests["200"] += 3  # counted later than the collector was made
    collector.event(SwapRefused("m", "bad"))
    collector.event(RoundStarted(1))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("fedmesh_inference_seconds_count") == 3
    assert value("fedmesh_inference_seconds_bucket", le="+Inf") == 3
    assert value("fedmesh_inference_seconds_bucket", le="10.0") == 3
    assert value("fedmesh_inference_seconds_sum") == live.latency.read().seconds
    assert value("fedmesh_inference_requests_total", status="200") == 3
    assert value("fedmesh_inference_swaps_total", result="swapped") == 1
    assert value("fedmesh_inference_swaps_total", result="refused") == 1
    assert value("fedmesh_inference_swaps_total", result="rolled_back") == 0
    assert value("fedmesh_inference_model_info", sha256=digest) == 1


def test_names_and_labels() -> None:
    families = list(InferenceCollector(LiveModel()).collect())
    assert {family.name for family in families} == {
        "fedmesh_inference_seconds",
        "fedmesh_inference_swaps",
        "fedmesh_inference_handoffs",
        "fedmesh_inference_requests",
        "fedmesh_inference_refused_peers",
        "fedmesh_inference_model",
    }
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels <= {"le", "result", "status", "code", "sha256"}
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("fedmesh_inference")]
