"""Running an exported model on a device: ONNX Runtime and numpy, never torch and never flwr.

Names are loaded when they are first used: what waits for its first model needs neither. `fedmesh.inference.serving` is
the HTTP endpoint (extra ``serve``), and is imported where one is wanted.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

_HOMES = {
    "confident": ("Confident", "Fallback"),
    "engine": ("Engine",),
    "evaluation": ("Evaluation", "Latency", "evaluate"),
    "health": ("Health", "HealthLimits", "Verdict"),
    "latency": ("Histogram",),
    "live": ("LiveModel",),
    "prediction": ("Prediction", "Predictor"),
    "streaming": ("stream", "windows"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
