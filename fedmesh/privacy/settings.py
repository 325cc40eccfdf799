"""The public parameters of example-level DP-SGD, as plain data."""

import math
from dataclasses import dataclass
from typing import Literal

from fedmesh.errors import ConfigError
from fedmesh.types import PrivacyEvent

__all__ = ["Budget", "DpSettings", "Level", "Mode"]

Level = Literal["example", "client"]
"""Whom a promise is made to: one example of a device, or the device with all that it holds."""

Mode = Literal["local", "shared", "client", "central"]
"""Who adds the noise, and whom it protects: the four trust models."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that may be spent, and on whose behalf; budgets of two levels are never added."""

    level: Level
    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class DpSettings:
    """Example-level DP-SGD: every number is public and the same on every device.

    Attributes:
        epsilon, delta: the device's budget over the whole task.
        clip: largest L2 norm of an example's gradient.
        noise_multiplier: standard deviation of the noise on the summed gradient, in units of `clip`.
        sample_rate: Poisson sampling rate of a step, in (0, 1].
        steps: steps of a round.
        expected_batch: denominator of a step's mean gradient; never a device's own count, which would be data.

    Raises:
        ConfigError: a value is out of range; without noise there is no promise, so a multiplier of 0 is refused too.
    """

    epsilon: float
    delta: float
    clip: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    expected_batch: float

    def __post_init__(self) -> None:
        for name in ("epsilon", "clip", "noise_multiplier", "expected_batch"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"differential privacy: {name} is {value}, it must be a finite number above 0")
        if not 0 < self.delta < 1:
            raise ConfigError(f"differential privacy: delta is {self.delta}, it must be between 0 and 1, e.g. 1e-5")
        if not 0 < self.sample_rate <= 1:
            raise ConfigError(f"differential privacy: sample_rate is {self.sample_rate}, it must be in (0, 1]")
        if self.steps < 1:
            raise ConfigError(f"differential privacy: steps is {self.steps}, a round needs at least 1")

    def event(self, label: str = "") -> PrivacyEvent:
        """What one round costs: `steps` Poisson-subsampled Gaussian mechanisms. `label` names it in a ledger."""
        parameters = {"noise_multiplier": float(self.noise_multiplier), "sample_rate": float(self.sample_rate)}
        return PrivacyEvent("sampled_gaussian", parameters, self.steps, label)
