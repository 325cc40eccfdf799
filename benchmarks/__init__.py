"""Measurements, each a module: `python -m benchmarks.NAME`."""

import fedmesh  # noqa: F401 - first, because it turns ONNX Runtime's telemetry off
