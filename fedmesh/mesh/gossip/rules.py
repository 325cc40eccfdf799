"""How inputs are summed and what a sum makes of a member's model: what all members of a run know, and no data.

* `PlainRule`: trained weights are averaged.
* `SharedRule`: the weights before the training, and behind them the gradients, whose noise is shared out (`mixing`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.mesh.gossip.grid import Codes, Grid, split
from fedmesh.privacy.settings import DpSettings
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summed import SumSettings
from fedmesh.privacy.summing import mean_of
from fedmesh.secagg.ring import Ring
from fedmesh.types import Float32

__all__ = ["PlainRule", "Rule", "SharedRule", "step_seed"]


def step_seed(step: int) -> bytes:
    """Of the rotation of gradients: public, and alike for all, whose weights are not."""
    return rotation_seed(step, np.zeros(0, np.float32))


class Rule(Protocol):
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

    def mixed(self, total: NDArray[np.int64], count: int, place: int, step: int) -> Codes:
        """The model of the member at `place` of the `count` in a sum."""
        ...


@dataclass(frozen=True, slots=True)
class PlainRule:
    """See `Rule`.

    Attributes:
        grid: of the run. length: weights, P. dp: what devices add noise by; None: without privacy.
    """

    grid: Grid
    length: int
    dp: DpSettings | None = None

    @property
    def modular(self) -> bool:
        """Never: nothing is added to what is on the grid."""
        return False

    @property
    def fewest(self) -> int:
        """What secure aggregation insists on."""
        return 0

    @property
    def privacy(self) -> Mapping[str, Any] | None:
        """See `Rule`."""
        return None if self.dp is None else asdict(self.dp)

    def ring_bits(self, members: int) -> int:
        """See `Rule`."""
        return Ring.bits_for(members, 1, self.grid.bits)

    def mixed(self, total: NDArray[np.int64], count: int, place: int, step: int) -> Codes:
        """See `Rule`."""
        return self.grid.kept(split(total, count, place, step))


@dataclass(frozen=True, slots=True)
class SharedRule:
    """See `Rule`.

    Attributes:
        grid: of the run. settings: of the noise.

    Raises:
        ConfigError: the settings are for another level.
    """

    grid: Grid
    settings: SumSettings

    def __post_init__(self) -> None:
        """Checks the level."""
        if self.settings.mode != "shared":
            raise ConfigError(f"gossip has no noise of mode {self.settings.mode!r} in its sums: wanted 'shared'")

    @property
    def length(self) -> int:
        """See `Rule`: the weights, and behind them the gradients."""
        return self.settings.size + self.settings.length

    @property
    def modular(self) -> bool:
        """Always: noise may wrap around."""
        return True

    @property
    def fewest(self) -> int:
        """See `Rule`: what the noise was sized for."""
        return self.settings.smallest_sum

    @property
    def privacy(self) -> Mapping[str, Any] | None:
        """See `Rule`."""
        return asdict(self.settings)

    def ring_bits(self, members: int) -> int:
        """See `Rule`."""
        return max(Ring.bits_for(members, 1, self.grid.bits), self.settings.bits)

    def mixed(self, total: NDArray[np.int64], count: int, place: int, step: int) -> Codes:
        """See `Rule`. The move is rounded alike by all: their sum moves by `count` times it."""
        settings = self.settings
        own = split(total[: settings.size], count, place, step)
        units = np.rint(self._move(total[settings.size :], count, step).astype(np.float64) / self.grid.unit)
        return self.grid.kept(own + np.clip(units, -2 * self.grid.largest, 2 * self.grid.largest).astype(np.int64))

    def _move(self, total: NDArray[np.int64], count: int, step: int) -> Float32:
        return mean_of(self.settings, total, count, clip=self.settings.clip, seed=step_seed(step))
