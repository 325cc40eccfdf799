"""What a member puts into the sum of its group: it pays, trains and makes its input, in a way for each mode.

In both ways an update, what one training has changed, is in *at most one* sum, ever: it may be that a member does not
learn whether its input was in a sum, and then it trains anew. All that the members can work out together is therefore
the sum of the updates of each group, once each: what a member was before its update is known from the sums before.

* `PlainMixing`: trained weights. Without privacy, or with all the noise added on the device (mode ``local``).
* `SharedMixing`: the weights before the training, and behind them the clipped gradients with this device's share of the
  noise (mode ``shared``): the sum carries all of the noise.

The ledger is charged before the device looks at its data; a step that comes to nothing stays charged.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import BudgetError, ConfigError
from fedmesh.mesh.gossip.grid import Codes, Grid
from fedmesh.mesh.gossip.rules import PlainRule, Rule, SharedRule, step_seed
from fedmesh.privacy.noise import NoiseSource
from fedmesh.privacy.settings import DpSettings
from fedmesh.privacy.summed import SumSettings
from fedmesh.privacy.summing import encode_examples
from fedmesh.types import Float32, Ledger

__all__ = ["Gradients", "Mixing", "PlainMixing", "Prepared", "SharedMixing", "Train"]

Train = Callable[[int, Float32], Float32]
"""(step, weights [P]) -> weights after this device's local steps, with all the noise in them where there is privacy."""

Gradients = Callable[[int, Float32], Iterable[NDArray[Any]]]
"""(step, weights [P]) -> the gradient of each example there, rows [b, P] at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A member's input to one step.

    Attributes:
        vector: goes into the sum, int64 [length].
        left_out: the model if it is not in a sum for certain.
    """

    vector: NDArray[np.int64]
    left_out: Codes


class Mixing(Protocol):
    """One way.

    Attributes:
        rule: what all members know of it.
    """

    @property
    def rule(self) -> Rule:
        """What all members know of it."""
        ...

    def prepare(self, step: int, codes: Codes) -> Prepared | None:
        """Pays, trains and makes the input; None: this device cannot pay, and takes no part.

        Raises:
            LedgerError: what it paid cannot be written down.
        """
        ...


class PlainMixing:
    """Trained weights are averaged.

    Args:
        grid: of the run. size: weights, P.
        train: this device's training.
        rounding: the generator that weights are rounded by in a step, which is no privacy mechanism.
        dp: what `train` adds noise by; None: without privacy.
        ledger: pays for it. label: of its entries, ``task/step``.
        train_pays: there is no ledger here, since `train` charges one before it looks at the data.

    Raises:
        ConfigError: there is privacy, and nobody who pays.
    """

    def __init__(
        self,
        grid: Grid,
        size: int,
        train: Train,
        *,
        rounding: Callable[[int], np.random.Generator],
        dp: DpSettings | None = None,
        ledger: Ledger | None = None,
        label: str = "gossip",
        train_pays: bool = False,
    ) -> None:
        if (dp is None) != (ledger is None and not train_pays):
            raise ConfigError("gossip with noise on the device needs the device's ledger, and without noise none")
        self.rule = PlainRule(grid, size, dp)
        self._grid, self._train, self._rounding = grid, train, rounding
        self._dp, self._ledger, self._label = dp, ledger, label

    def prepare(self, step: int, codes: Codes) -> Prepared | None:
        """See `Mixing`. A device that cannot pay goes on averaging what it has: that costs nothing."""
        try:
            if self._dp is not None and self._ledger is not None:
                self._ledger.charge(self._dp.event(f"{self._label}/step-{step}"))
            weights = self._train(step, self._grid.weights(codes))
        except BudgetError:
            return Prepared(codes, codes)
        trained = self._grid.codes(weights, self._rounding(step))
        return Prepared(trained, trained)


class SharedMixing:
    """Weights are averaged, and moved by the mean of the group's clipped gradients, whose noise is shared out.

    Args:
        grid: of the run.
        settings: level ``example``; sized for the smallest group's smallest sum (`accounting.shared_settings`).
        gradients: this device's.
        noise: where its share of the noise comes from: given the step. `SystemNoise` but in simulations.
        ledger: pays. label: of its entries, ``task/step``.

    Raises:
        ConfigError: the settings are for another level.
    """

    def __init__(
        self,
        grid: Grid,
        settings: SumSettings,
        gradients: Gradients,
        *,
        noise: Callable[[int], NoiseSource],
        ledger: Ledger,
        label: str = "gossip",
    ) -> None:
        self.rule = SharedRule(grid, settings)
        self._grid, self._settings, self._gradients = grid, settings, gradients
        self._noise, self._ledger, self._label = noise, ledger, label

    def prepare(self, step: int, codes: Codes) -> Prepared | None:
        """See `Mixing`. A device that cannot pay stays away: without its noise it must not be counted."""
        settings = self._settings
        try:
            for event in settings.events(f"{self._label}/step-{step}"):
                self._ledger.charge(event)
        except BudgetError:
            return None
        weights = self._grid.weights(codes)
        encoded = encode_examples(
            settings,
            self._gradients(step, weights),
            clip=settings.clip,
            seed=step_seed(step),
            noise=self._noise(step),
        )
        return Prepared(np.concatenate([codes, encoded]), codes)
