"""How far one clipped and rounded vector can move a sum of integers, and how fine the grid can be for a ring.

Kairouz et al. 2021 (arXiv 2102.06387): Theorem 1 for the norms, section 4.4 for the grid.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from fedmesh.errors import ConfigError

__all__ = ["MAX_NORM", "Sensitivity", "granularity", "sensitivity"]

MAX_NORM = float(1 << 31)
"""Norms stay below: their squares must fit 64 bits with room to spare."""

_LOG_INVERSE_BETA = 0.5
"""beta = exp(-1/2): the probability of a rounding that has to be repeated is at most this."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Largest norms of what one device, or one example, puts into a sum, in steps of the grid.

    Attributes:
        l2: Delta2, enforced by `fedmesh.privacy.conditional_rounding`.
        l1: Delta1, which follows: integers are no larger than their squares.
    """

    l2: float
    l1: float

    @property
    def square_limit(self) -> int:
        """The largest sum of squares of integers whose L2 norm is at most `l2`, exactly."""
        return math.floor(Fraction(self.l2) ** 2)


def sensitivity(clip: float, gamma: float, d: int) -> Sensitivity:
    """The norms after clipping and conditional rounding with beta = exp(-1/2).

    Args:
        clip: largest L2 norm before rounding, above 0.
        gamma: step of the grid, above 0, in the unit of `clip`.
        d: coordinates after padding.

    Raises:
        ConfigError: a value is not a positive number, or the grid is too fine for 64-bit integers.
    """
    _require_positive(clip=clip, gamma=gamma, d=d)
    norm, root = clip / gamma, math.sqrt(d)
    if norm + root >= MAX_NORM:
        raise ConfigError(f"the clip is {norm:.3g} steps of gamma {gamma:.3g}, at most 2^31 fit: raise gamma")
    likely = norm**2 + d / 4 + math.sqrt(2 * _LOG_INVERSE_BETA) * (norm + root / 2)
    l2 = min(norm + root, math.sqrt(likely))
    return Sensitivity(l2, l2 * min(root, l2))


def granularity(
    *, clip: float, members: int, dimension: int, sigma_local: float, bits: int, spread: float = 4.0, rho: float = 1.0
) -> float:
    """gamma, the finest grid on which a sum still fits the ring but for `spread` standard deviations.

    Args:
        clip: largest norm of a vector.
        members: vectors in the sum.
        dimension: coordinates after padding.
        sigma_local: standard deviation of one member's noise, in the unit of `clip`; 0: none.
        bits: of the ring.
        spread: K of the paper.
        rho: how far a rotated vector may be from flat; 1: as flat as random signs make it.

    Returns:
        In the unit of `clip`.

    Raises:
        ConfigError: a value is out of range, or rounding errors alone overflow so small a ring.
    """
    _require_positive(clip=clip, members=members, dimension=dimension, bits=bits, spread=spread, rho=rho)
    if not (math.isfinite(sigma_local) and sigma_local >= 0):
        raise ConfigError(f"discrete noise: sigma_local is {sigma_local}, it must be a finite number, 0 or more")
    room = 4.0**bits / (4 * spread**2) - members / 4
    if room <= 0:
        raise ConfigError(f"a ring of {bits} bits is too small for {members} members: raise the ring's bits")
    return math.sqrt((rho * (clip * members) ** 2 / dimension + members * sigma_local**2) / room)


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"discrete noise: {name} is {value}, it must be a finite number above 0")
