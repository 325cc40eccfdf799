"""What a member puts into the sum of its group, and what it makes of the sum: one way for each mode of privacy.

In both ways an update, what one training has changed, is in *at most one* sum, ever: it may be that a member does not
learn whether its input was in a sum, and then it trains anew. All that the members can work out together is therefore
the sum of the updates of each group, once each: what a member was before its update is known from the sums before.

* `PlainMixing`: trained weights. Without privacy, or with all the noise added on the device (mode ``local``).
* `SharedMixing`: the weights before the training, and behind them the clipped gradients with this device's share of the
  noise (mode ``shared``): the sum carries all of the noise.

The ledger is charged before the device looks at its data; a step that comes to nothing stays charged.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import BudgetError, ConfigError
from fedmesh.mesh.gossip.grid import Codes, Grid, split
from fedmesh.privacy.noise import NoiseSource
from fedmesh.privacy.settings import DpSettings
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summed import SumSettings
from fedmesh.privacy.summing import encode_examples, mean_of
from fedmesh.secagg.ring import Ring
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
        left_out: the model if it is not in a sum for certain; kept: if nobody can say.
    """

    vector: NDArray[np.int64]
    left_out: Codes
    kept: Codes


class Mixing(Protocol):
    """One way."""

    @property
    def length(self) -> int:
        """Of a vector."""
        ...

    @property
    def modular(self) -> bool:
        """Whether sums may wrap around the ring, as noise does."""
        ...

    @property
    def fewest(self) -> int:
        """Inputs that a sum needs, beyond what secure aggregation insists on."""
        ...

    @property
    def privacy(self) -> Mapping[str, Any] | None:
        """The public facts about the noise that a session has to name; None: there is none."""
        ...

    def ring_bits(self, members: int) -> int:
        """Of the ring that holds a sum of so many."""
        ...

    def prepare(self, step: int, codes: Codes) -> Prepared | None:
        """Pays, trains and makes the input; None: this device cannot pay, and takes no part.

        Raises:
            LedgerError: what it paid cannot be written down.
        """
        ...

    def mixed(self, total: NDArray[np.int64], count: int, place: int, step: int) -> Codes:
        """The model of the member at `place` of the `count` in a sum."""
        ...


class PlainMixing:
    """Trained weights are averaged.

    Args:
        grid: of the run. size: weights, P.
        train: this device's training.
        rng: of the rounding, which is no privacy mechanism.
        dp: what `train` adds noise by; None: without privacy.
        ledger: pays for it. label: of its entries, ``task/step``.

    Raises:
        ConfigError: there is privacy without a ledger.
    """

    modular = False
    fewest = 0

    def __init__(
        self,
        grid: Grid,
        size: int,
        train: Train,
        *,
        rng: np.random.Generator,
        dp: DpSettings | None = None,
        ledger: Ledger | None = None,
        label: str = "gossip",
    ) -> None:
        if (dp is None) != (ledger is None):
            raise ConfigError("gossip with noise on the device needs the device's ledger, and without noise none")
        self._grid, self.length = grid, size
        self._train, self._rng = train, rng
        self._dp, self._ledger, self._label = dp, ledger, label

    @property
    def privacy(self) -> Mapping[str, Any] | None:
        """See `Mixing`."""
        return None if self._dp is None else asdict(self._dp)

    def ring_bits(self, members: int) -> int:
        """See `Mixing`."""
        return Ring.bits_for(members, 1, self._grid.bits)

    def prepare(self, step: int, codes: Codes) -> Prepared | None:
        """See `Mixing`. A device that cannot pay goes on averaging what it has: that costs nothing."""
        if self._dp is not None and self._ledger is not None:
            try:
                self._ledger.charge(self._dp.event(f"{self._label}/step-{step}"))
            except BudgetError:
                return Prepared(codes, codes, codes)
        trained = self._grid.codes(self._train(step, self._grid.weights(codes)), self._rng)
        return Prepared(trained, trained, codes)

    def mixed(self, total: NDArray[np.int64], count: int, place: int, step: int) -> Codes:
        """See `Mixing`."""
        return self._grid.kept(split(total, count, place, step))


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

    modular = True

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
        if settings.mode != "shared":
            raise ConfigError(f"gossip has no noise of mode {settings.mode!r} in its sums: wanted 'shared'")
        self._grid, self._settings, self._gradients = grid, settings, gradients
        self._noise, self._ledger, self._label = noise, ledger, label

    @property
    def length(self) -> int:
        """See `Mixing`: the weights, and behind them the gradients."""
        return self._settings.size + self._settings.length

    @property
    def fewest(self) -> int:
        """See `Mixing`: what the noise was sized for."""
        return self._settings.smallest_sum

    @property
    def privacy(self) -> Mapping[str, Any] | None:
        """See `Mixing`."""
        return asdict(self._settings)

    def ring_bits(self, members: int) -> int:
        """See `Mixing`."""
        return max(Ring.bits_for(members, 1, self._grid.bits), self._settings.bits)

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
            seed=self._seed(step),
            noise=self._noise(step),
        )
        return Prepared(np.concatenate([codes, encoded]), codes, codes)

    def mixed(self, total: NDArray[np.int64], count: int, place: int, step: int) -> Codes:
        """See `Mixing`. The move is rounded alike by all: their sum moves by `count` times it."""
        settings = self._settings
        own = split(total[: settings.size], count, place, step)
        move = mean_of(settings, total[settings.size :], count, clip=settings.clip, seed=self._seed(step))
        units = np.rint(move.astype(np.float64) / self._grid.unit)
        return self._grid.kept(own + np.clip(units, -2 * self._grid.largest, 2 * self._grid.largest).astype(np.int64))

    def _seed(self, step: int) -> bytes:
        """Of the rotation: public, and alike for all, whose weights are not."""
        return rotation_seed(step, np.zeros(0, np.float32))
