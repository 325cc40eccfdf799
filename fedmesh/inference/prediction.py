"""What a model says of an example: a label, and how sure it is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fedmesh.errors import ConfigError, NotFiniteError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedmesh.types import Float32

__all__ = ["Handoff", "Prediction", "Predictor", "predictions", "softmax"]

Handoff = Literal["none", "answered", "failed"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One example's label.

    Attributes:
        label: the class with the largest logit, the first of equals.
        confidence: its softmax, 0 to 1. Not calibrated: a model may be sure and wrong.
        model: SHA-256 of the model that said so, hexadecimal.
        seconds: that the batch took in which the example ran.
        handoff: ``none``: the model asked was sure enough, or there is nobody to ask; ``answered``: a bigger model said
            so; ``failed``: the bigger one was wanted and did not answer, so this is the one that was not sure.
    """

    label: int
    confidence: float
    model: str
    seconds: float
    handoff: Handoff = "none"


class Predictor(Protocol):
    """What predicts: an engine, a live model, another node."""

    def predict(self, x: "NDArray[Any]") -> list[Prediction]:
        """One for each example of `x` [N, ...], in order."""
        ...


def softmax(logits: "Float32") -> "NDArray[np.float64]":
    """Along the last axis, in float64."""
    import numpy as np

    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def predictions(logits: "Float32", *, model: str, seconds: float) -> list[Prediction]:
    """The labels of `logits` [N, classes].

    Raises:
        NotFiniteError: a logit is not finite.
        ConfigError: they have another shape.
    """
    import numpy as np

    if logits.ndim != 2 or not logits.shape[1]:
        raise ConfigError(f"the model {model[:12]} gives {list(logits.shape)}; wanted logits [examples, classes]")
    if not np.isfinite(logits).all():
        raise NotFiniteError(f"the model {model[:12]} gives logits that are not finite: go back to the one before")
    labels = logits.argmax(axis=1)
    sure = softmax(logits)[np.arange(len(labels)), labels]
    return [
        Prediction(int(label), float(confidence), model, seconds)
        for label, confidence in zip(labels, sure, strict=True)
    ]
