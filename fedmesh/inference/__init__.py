"""Running an exported model on a device: ONNX Runtime and numpy, never torch."""

from fedmesh.inference.engine import Engine
from fedmesh.inference.evaluation import Evaluation, Latency, evaluate

__all__ = ["Engine", "Evaluation", "Latency", "evaluate"]
