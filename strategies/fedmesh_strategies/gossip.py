"""Gossip averaging (D-PSGD style): every member has a model of its own, and averages it with ever other members.

There is no aggregator, so that none of Flower's hooks is here: `needs` says so, and whoever wants an aggregator refuses
this strategy. What is here are the settings of the groups; the averaging is `fedmesh.mesh.gossip`.
"""

import math
from typing import Any

import numpy as np

from fedmesh.errors import ConfigError
from fedmesh.mesh.gossip import Grid
from fedmesh.types import Float32

__all__ = ["Gossip"]

_REACH = 4.0  # the grid reaches to so many times the largest weight of the public start,
_LEAST = 8.0  # and at least to this


class Gossip:
    """The settings.

    Args:
        group: members of a group, at least; the groups of a step have this many to twice as many less one.
        grid_bits: of a weight while it is averaged.
        unit: of the grid, a power of two; 0: from the largest weight of the public start.
        settings: of the scenario, as for any strategy; `weighting` is ``uniform``, and `fraction` and `quorum` are 1.

    Raises:
        ConfigError: a setting is out of range, or means nothing here.
    """

    needs = "groups"

    def __init__(self, *, group: int = 6, grid_bits: int = 16, unit: float = 0.0, **settings: Any) -> None:
        if type(group) is not int or not 4 <= group <= 128:
            raise ConfigError(f"strategy.options.group is {group!r}: wanted a whole number from 4 to 128")
        if type(grid_bits) is not int or not 8 <= grid_bits <= 16:
            raise ConfigError(f"strategy.options.grid_bits is {grid_bits!r}: wanted 8 to 16, best 16")
        if type(unit) not in {int, float} or unit < 0:
            raise ConfigError(f"strategy.options.unit is {unit!r}: wanted a power of two, or 0")
        if unit:
            Grid(float(unit), grid_bits)
        _check_meaningless(settings)
        self.group, self.grid_bits, self.unit = group, grid_bits, float(unit)

    def options(self, weights: Float32) -> dict[str, int | float]:
        """The settings with nothing left open, for a run that begins with these weights, float32 [P]."""
        unit = self.unit or self._unit(float(np.abs(weights).max(initial=0.0)))
        return {"group": self.group, "grid_bits": self.grid_bits, "unit": unit}

    def _unit(self, largest: float) -> float:
        reach = max(_LEAST, _REACH * largest)
        return 2.0 ** math.ceil(math.log2(reach / ((1 << (self.grid_bits - 1)) - 1)))


def _check_meaningless(settings: dict[str, Any]) -> None:
    known = {"layout", "ranges", "codec", "bits", "fraction", "quorum", "weighting", "seed", "summed", "noise_seed"}
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(f"strategy.options has {', '.join(unknown)}: gossip has group, grid_bits and unit")
    for name, wanted in (("weighting", "uniform"), ("fraction", 1.0), ("quorum", 1)):
        if settings.get(name, wanted) != wanted:
            raise ConfigError(
                f"strategy.{name} is {settings[name]!r}, and gossip averages whole groups, all members alike: leave it "
                f"at {wanted!r}; strategy.options.group says how large groups are"
            )
