"""How good and how fast a model is, from its logits and its timings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import DataError
from fedmesh.types import Examples, Float32

__all__ = ["Classifier", "Evaluation", "Latency", "evaluate"]


class Classifier(Protocol):
    """What can be evaluated."""

    def run(self, x: NDArray[Any]) -> Float32:
        """Logits, float32 [N, classes]."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Of `count` examples: the share whose largest logit is the label's, and the mean cross-entropy in nats."""

    accuracy: float
    loss: float
    count: int


def evaluate(model: Classifier, examples: Examples) -> Evaluation:
    """Accuracy and loss of `model` on `examples`.

    Raises:
        DataError: no examples, or labels that the model has no logit for.
    """
    if not len(examples):
        raise DataError("there is no example to evaluate on")
    logits = model.run(examples.x).astype(np.float64)
    labels = examples.y
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}, the model has {logits.shape[1]} classes: "
            "use the data set that it was trained on"
        )
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_likelihood = shifted[np.arange(len(labels)), labels] - np.log(np.exp(shifted).sum(axis=1))
    correct = logits.argmax(axis=1) == labels
    return Evaluation(float(correct.mean()), float(-log_likelihood.mean()), len(labels))


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of latency in milliseconds; a percentile is a latency that was measured, never one in between."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, samples_ms: Sequence[float] | NDArray[np.float64]) -> Self:
        """The percentiles of `samples_ms`, one or more."""
        p50, p95, p99 = np.percentile(np.asarray(samples_ms, np.float64), [50, 95, 99], method="higher")
        return cls(float(p50), float(p95), float(p99))
