"""The work that all contenders are given."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Setting:
    """`devices` with int8 vectors of `length`, of whom `dropouts` are lost after they have shared their keys.

    `neighbours`: others that a device masks with; `threshold`: shares that reconstruct; `ring_bits`: of the modulus.
    """

    devices: int
    dropouts: int
    neighbours: int
    threshold: int
    ring_bits: int
    length: int

    def vector(self, place: int) -> NDArray[np.int64]:
        """The input of the device at `place`, from 1: values of the int8 grid."""
        return np.random.default_rng(place).integers(-127, 128, self.length)

    def dropped(self) -> frozenset[int]:
        """Places of the devices that drop out, spread evenly."""
        return frozenset(1 + i * self.devices // self.dropouts for i in range(self.dropouts))

    def surviving(self) -> list[int]:
        """Places of the others."""
        return sorted(frozenset(range(1, self.devices + 1)) - self.dropped())
