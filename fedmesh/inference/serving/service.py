"""What an endpoint does with a request, whatever the web framework: admits, decodes, predicts, hands off.

Models run in a few threads of their own, and hand-offs in others, so that a bigger node that is slow does not hold up
what is answered here. All of it is asked from one event loop.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fedmesh.errors import ConfigError, DataError, RequestError
from fedmesh.inference.confident import Confident
from fedmesh.inference.live import LiveModel
from fedmesh.inference.prediction import Prediction
from fedmesh.inference.serving.limits import Limits

if TYPE_CHECKING:
    from fedmesh.types import Float32

__all__ = ["Check", "Service"]

Check = Callable[[], str]
"""Why a node is not ready; empty: in this respect it is."""

_HAND_OFFS = 4


class Service:
    """One endpoint's state.

    Args:
        live: the model.
        limits: bounds.
        confident: `live` with a bigger model behind it.
        checks: for ``/readyz`` beside ``model``, by name; asked in the event loop, so they must be quick.
        workers: requests that run at a time.

    Attributes:
        counts: requests for predictions by HTTP status.
    """

    def __init__(
        self,
        live: LiveModel,
        *,
        limits: Limits | None = None,
        confident: Confident | None = None,
        checks: Mapping[str, Check] | None = None,
        workers: int | None = None,
    ) -> None:
        self.live, self.limits, self.confident = live, limits or Limits(), confident
        self.checks: dict[str, Check] = {"model": self._no_model, **(checks or {})}
        self.counts: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1), "fedmesh-predict")
        self._far = ThreadPoolExecutor(_HAND_OFFS, "fedmesh-handoff")
        self._admitted = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Around all that is done for one request. Raises: RequestError: 503, there are too many, or no model."""
        if self._no_model():
            raise _later("a request before there is a model", "one when /readyz says that there is")
        if self._admitted >= self.limits.at_once:
            raise _later(f"a request while {self._admitted} others run", f"at most {self.limits.at_once} at once")
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def predict(self, content_type: str, body: bytes, *, hand_off: bool = True) -> list[Prediction]:
        """One prediction for each example in `body`; `hand_off`: whether a bigger model may be asked.

        Raises:
            RequestError: 400, 413, 415: the body; 500: the model fails on it.
        """
        loop = asyncio.get_running_loop()
        x, found = await loop.run_in_executor(self._pool, self._predicted, content_type, body)
        if hand_off and self.confident is not None and self.confident.unsure(found):
            return await loop.run_in_executor(self._far, self.confident.settle, x, found)
        return found

    def readiness(self) -> dict[str, str]:
        """By name of the check why it fails, or an empty text."""
        return {name: check() for name, check in self.checks.items()}

    def close(self) -> None:
        """Waits for what runs."""
        self._pool.shutdown()
        self._far.shutdown()

    def _predicted(self, content_type: str, body: bytes) -> "tuple[Float32, list[Prediction]]":
        from fedmesh.inference.serving.bodies import decode

        engine = self.live.current
        assert engine is not None  # `admitted` saw one, and a model is never taken away
        x = decode(content_type, body, engine.input_shape[1:], self.limits)
        try:
            return x, self.live.predict(x)
        except DataError as error:
            raise RequestError(400, got=str(error), wanted="examples that the model takes", do="check them") from error
        except ConfigError as error:
            raise RequestError(
                500, got="a model that fails on these examples", wanted="a label for each", do="see this node's log"
            ) from error

    def _no_model(self) -> str:
        return "" if self.live.current is not None else "no model is loaded"


def _later(got: str, wanted: str) -> RequestError:
    return RequestError(503, got=got, wanted=wanted, do="come again in a second")


def told(error: RequestError) -> dict[str, Any]:
    """What the other end is told."""
    return {"got": error.got, "wanted": error.wanted, "do": error.do}
