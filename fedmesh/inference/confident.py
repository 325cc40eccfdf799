"""A model that knows when to ask a bigger one: below a threshold of confidence, an example is handed off.

Guarantees an answer of its own for every example: where the bigger model cannot be reached the small one's label is
given, marked ``failed`` and counted, and for a while nobody waits for the bigger one again. An example that is handed
off leaves this node: whoever sets a fallback decides that.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from fedmesh.errors import ConfigError, FedMeshError
from fedmesh.inference.prediction import Prediction, Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmesh.types import Float32

__all__ = ["Confident", "Fallback"]


class Fallback(Protocol):
    """A bigger model, elsewhere as a rule."""

    def predict(self, x: "Float32") -> Sequence[Prediction]:
        """One for each example of `x` [N, ...]. Raises: PeerError: it does not answer, or not with that."""
        ...


class Confident:
    """`model`, and `fallback` for the examples that it is not sure about.

    Args:
        threshold: an example whose confidence is below is handed off, 0 to 1; 0: none is.
        rest_s: after a failure the fallback is left alone that long.
        clock: monotonic seconds.

    Attributes:
        counts: examples that were ``answered`` by the fallback or ``failed`` there, and those ``spared`` it since it
            failed a moment ago (marked as failed too).
    """

    def __init__(
        self,
        model: Predictor,
        fallback: Fallback,
        *,
        threshold: float,
        rest_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"the threshold is {threshold}: a confidence is between 0 and 1")
        self._model, self._fallback, self._threshold = model, fallback, threshold
        self._rest_s, self._clock = rest_s, clock
        self._resting_until = float("-inf")
        self._lock = Lock()
        self.counts: Counter[str] = Counter()

    def predict(self, x: "NDArray[Any]") -> list[Prediction]:
        """One for each example of `x` [N, ...]. Raises: what `model` raises; never what the fallback does."""
        return self.settle(x, self._model.predict(x))

    def unsure(self, found: Sequence[Prediction]) -> list[int]:
        """Which of `found` are to be handed off."""
        return [index for index, one in enumerate(found) if one.confidence < self._threshold]

    def settle(self, x: "NDArray[Any]", found: Sequence[Prediction]) -> list[Prediction]:
        """`found` on `x`, those that are not sure replaced by what the fallback says of them."""
        unsure, settled = self.unsure(found), list(found)
        if unsure:
            import numpy as np

            asked = self._asked(np.ascontiguousarray(x[unsure], np.float32), [found[index] for index in unsure])
            for index, one in zip(unsure, asked, strict=True):
                settled[index] = one
        return settled

    def _asked(self, x: "Float32", found: list[Prediction]) -> list[Prediction]:
        if self._clock() < self._resting_until:
            return self._failed(found, "spared")
        try:
            answers = self._fallback.predict(x)
        except FedMeshError:  # counted, and said in the answer: the operator reads it in the metrics
            self._resting_until = self._clock() + self._rest_s
            return self._failed(found, "failed")
        self._count("answered", len(found))
        return [replace(answer, handoff="answered") for _, answer in zip(found, answers, strict=True)]

    def _failed(self, found: list[Prediction], reason: str) -> list[Prediction]:
        self._count(reason, len(found))
        return [replace(one, handoff="failed") for one in found]

    def _count(self, what: str, examples: int) -> None:
        with self._lock:
            self.counts[what] += examples
