"""The public parameters of example-level DP-SGD, as plain data."""

from dataclasses import dataclass

__all__ = ["DpSettings"]


@dataclass(frozen=True, slots=True)
class DpSettings:
    """Example-level DP-SGD: every number is public and the same on every device.

    Attributes:
        epsilon, delta: the device's budget over the whole task.
        clip: largest L2 norm of an example's gradient.
        noise_multiplier: standard deviation of the noise on the summed gradient, in units of `clip`.
        sample_rate: Poisson sampling rate of a step.
        steps: steps of a round.
        expected_batch: denominator of a step's mean gradient.
    """

    epsilon: float
    delta: float
    clip: float
    noise_multiplier: float
    sample_rate: float
    steps: int
    expected_batch: float
