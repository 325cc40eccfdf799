"""Running an exported model on a device: ONNX Runtime and numpy, never torch and never flwr.

Names are loaded when they are first used: what waits for its first model needs neither. `fedmesh.inference.serving` is
the HTTP endpoint (extra ``serve``), and is imported where one is wanted.
"""

from typing import TYPE_CHECKING, Any

from fedmesh.lazy import load

if TYPE_CHECKING:
    from fedmesh.inference.confident import Confident, Fallback
    from fedmesh.inference.engine import Engine
    from fedmesh.inference.evaluation import Evaluation, Latency, evaluate
    from fedmesh.inference.health import Health, HealthLimits, Verdict
    from fedmesh.inference.latency import Histogram
    from fedmesh.inference.live import LiveModel
    from fedmesh.inference.prediction import Prediction, Predictor
    from fedmesh.inference.streaming import stream, windows

__all__ = [
    "Confident",
    "Engine",
    "Evaluation",
    "Fallback",
    "Health",
    "HealthLimits",
    "Histogram",
    "Latency",
    "LiveModel",
    "Prediction",
    "Predictor",
    "Verdict",
    "evaluate",
    "stream",
    "windows",
]

_HOME = {
    "Confident": "confident",
    "Engine": "engine",
    "Evaluation": "evaluation",
    "Fallback": "confident",
    "Health": "health",
    "HealthLimits": "health",
    "Histogram": "latency",
    "Latency": "evaluation",
    "LiveModel": "live",
    "Prediction": "prediction",
    "Predictor": "prediction",
    "Verdict": "health",
    "evaluate": "evaluation",
    "stream": "streaming",
    "windows": "streaming",
}


def __getattr__(name: str) -> Any:
    return load(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
