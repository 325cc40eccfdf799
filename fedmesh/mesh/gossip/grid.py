"""Models as integers: one public grid for all members and the whole run, so that averages are exact.

What is summed is the weights themselves, not changes of them: members do not start from the same model, so the mean of
their changes is not the change of their mean. An average of m integers is mostly no integer; `split` deals out the
remainder, a unit each, to so many of the m: their sum stays what it was, to the last unit, and no error feedback is
needed. (CHOCO-SGD, Koloskova et al. 2019, needs it because it exchanges *compressed* models; sums here are exact.)
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import ConfigError
from fedmesh.quantization.codec.rounding import require_finite, round_stochastically
from fedmesh.types import Float32

__all__ = ["Codes", "Grid", "split"]

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grid:
    """Weights are `unit` times a whole number of `bits` bits.

    Attributes:
        unit: a power of two, so that the weights of codes are exact in float32.
        bits: 2 to 16. 16 with 2^-12 reach to +-8. With 8, a step of training is mostly lost in rounding noise.

    Raises:
        ConfigError: a value is out of range.
    """

    unit: float
    bits: int = 16

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 2 <= self.bits <= 16:
            raise ConfigError(f"a grid of {self.bits} bits: wanted 2 to 16")
        if not 2.0**-40 <= self.unit <= 2.0**40 or math.frexp(self.unit)[0] != 0.5:
            raise ConfigError(f"the unit of a grid is {self.unit!r}: wanted a power of two, e.g. {2.0**-12}")

    @property
    def largest(self) -> int:
        """The largest code; weights beyond it are brought back to it."""
        return (1 << (self.bits - 1)) - 1

    def codes(self, weights: Float32, rng: np.random.Generator) -> Codes:
        """Codes int64 [P] of `weights` [P]: rounded at random without bias; weights that are on the grid stay.

        Raises:
            RoundError: a weight is not finite.
        """
        require_finite(weights)
        units = weights / np.float32(self.unit)
        return round_stochastically(units, self.largest, rng).astype(np.int64)

    def weights(self, codes: Codes) -> Float32:
        """The weights float32 [P] that `codes` stand for; exact."""
        return codes.astype(np.float32) * np.float32(self.unit)

    def kept(self, codes: NDArray[np.int64]) -> Codes:
        """`codes`, brought back into the range."""
        return np.clip(codes, -self.largest, self.largest)


def split(total: NDArray[np.int64], count: int, place: int, turn: int) -> Codes:
    """What the member at `place` of `count` takes of `total`: its `count`-th part, rounded down or up.

    The parts of all places add up to `total` exactly; two of them differ by one unit at most, and each lies between
    the least and the largest of the integers that were summed.

    Args:
        total: int64 [P]. count: members in the sum. place: 0 to count - 1.
        turn: any number, the same for all: who rounds up changes with it, and from one weight to the next.
    """
    whole, left = np.divmod(total, count)
    whole += (np.arange(total.size) + (place + turn)) % count < left
    return whole
