"""Federated SGD (McMahan et al. 2017), one mean gradient a round, with an average over its last iterates.

From a chosen round on, what a round results in (what is evaluated, exported and deployed) is the mean of the iterates
since then: Polyak and Ruppert's averaging of the suffix (Rakhlin et al. 2012), which takes most of the noise of private
gradients out of the weights and costs no privacy. The devices train on the iterate itself, never on the mean.

One gradient a round is the client's business (DP-SGD of one step, or a private sum of examples' gradients); the rule
takes whatever change the devices report.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.flower.arrays import vector_record
from fedmesh.types import Float32
from fedmesh_strategies.fedavg import FedAvg

__all__ = ["FedSgd", "build"]


@dataclass(frozen=True, slots=True, eq=False)
class _Tail:
    """The iterates since averaging began.

    Attributes:
        iterate: the last one, float32 [P].
        total: sum of all, float64 [P]; count: how many.
    """

    iterate: Float32
    total: NDArray[np.float64]
    count: int

    @property
    def mean(self) -> Float32:
        """What the round resulted in, float32 [P]."""
        mean: Float32 = (self.total / self.count).astype(np.float32)
        return mean

    def then(self, iterate: Float32) -> "_Tail":
        """With one more iterate."""
        return _Tail(iterate, self.total + iterate, self.count + 1)


class FedSgd(FedAvg):
    """FedSGD whose result is the mean of its last iterates.

    A round that fails leaves no trace: the arrays that the next round begins with tell whether the last one counted.
    Arrays of any other origin are the iterate of a new start.

    Args:
        average_from: the first round whose iterate is averaged, e.g. the middle of the run; None or 0: none is.
        settings: of `FedAvg`; `server_learning_rate` multiplies the devices' mean step.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(self, *, average_from: int | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        if average_from is not None and (type(average_from) is not int or average_from < 0):
            raise ConfigError(
                f"strategy.average_from is {average_from!r}, wanted the number of the first round to average, or 0"
            )
        self.average_from = average_from or 0
        self._number = 0
        self._before: _Tail | None = None
        """What the round under way starts from."""
        self._after: _Tail | None = None
        """What the last sum led to. Whether that round counted is known when the next one begins."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages with the iterate, where `arrays` are the mean; in all else, and in what it raises, as `FedAvg`."""
        given = self._flat(arrays)
        known = (tail for tail in (self._after, self._before) if tail is not None)
        self._before = next((tail for tail in known if tail.mean.tobytes() == given.tobytes()), None)
        self._after = None
        self._number = server_round
        iterate = given if self._before is None else self._before.iterate
        return super().configure_train(server_round, vector_record("model", iterate), config, grid)

    def apply_sum(self, total: NDArray[np.int64] | Float32, weight: int) -> ArrayRecord:
        """The mean of the iterates, the one that this sum leads to included; raises as `FedAvg.apply_sum`."""
        moved = super().apply_sum(total, weight)
        if not self.average_from or self._number < self.average_from:
            return moved
        iterate = self._flat(moved)
        alone = _Tail(iterate, iterate.astype(np.float64), 1)
        self._after = alone if self._before is None else self._before.then(iterate)
        return vector_record("model", self._after.mean)

    def snapshot(self) -> dict[str, Any]:
        """The iterates since averaging began, and `FedAvg`'s own state."""
        tails = {"before": self._before, "after": self._after}
        return super().snapshot() | {name: asdict(tail) for name, tail in tails.items() if tail is not None}

    def restore(self, state: Any) -> None:
        """Takes up what `snapshot` gave. Raises: ConfigError: it is of another rule or model."""
        rest = dict(state)
        try:
            tails = {name: _Tail(**rest.pop(name)) for name in ("before", "after") if name in rest}
        except TypeError as error:
            raise ConfigError(f"the state is not one of FedSgd's: {error}") from error
        for tail in tails.values():
            if tail.iterate.shape != tail.total.shape or tail.total.shape != (self.layout.size,) or tail.count < 1:
                raise ConfigError(
                    f"the state averages {tail.count} iterates of shape {tail.total.shape}; the model has "
                    f"{self.layout.size} weights: it is of another run"
                )
        super().restore(rest)
        self._before, self._after = tails.get("before"), tails.get("after")


def build(**settings: Any) -> FedSgd:
    """The strategy ``fedsgd`` from settings: see `FedSgd`.

    Raises:
        ConfigError: a setting is unknown, missing or out of range.
    """
    try:
        return FedSgd(**settings)
    except TypeError as error:
        raise ConfigError(f"the strategy 'fedsgd' does not take these settings: {error}") from error
