"""Running an exported model on a device: ONNX Runtime and numpy, never torch and never flwr.

`fedmesh.inference.serving` is the HTTP endpoint (extra ``serve``), and is imported where one is wanted.
"""

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
