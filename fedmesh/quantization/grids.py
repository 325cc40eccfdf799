"""Quantization grids: a scale and a zero point, plain numbers shared between a quantizer and the layers that read it.

With power-of-two scales and even zero points every product, sum and tie of the int8 arithmetic is exact in float32
while an accumulator stays below 2**24, so fake-quantized torch and integer ONNX Runtime compute the same bits. With
free scales they agree up to float32 rounding (Jacob et al. 2018 describe the scheme itself).
"""

import math
from dataclasses import dataclass
from typing import Literal

from fedmesh.errors import ConfigError

__all__ = ["LEVELS", "ActivationGrid", "Scales", "power_of_two_at_least"]

Scales = Literal["power-of-two", "free"]

LEVELS = 255
"""Highest value of an unsigned 8-bit activation."""

_SMALLEST_SCALE = 2.0**-40  # below it an input is dead; far from float32's denormals even as a product of two scales
_LARGEST_SCALE = 2.0**40


def power_of_two_at_least(value: float) -> float:
    """The smallest power of two that is not below `value` (> 0)."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


@dataclass(slots=True, eq=False)
class ActivationGrid:
    """The uint8 grid of one activation: ``real = scale * (level - zero_point)``, level in 0..255.

    One instance is shared by the quantizer that rounds onto it and by the layers whose bias lies on
    ``scale * weight_scale``: moving the grid moves the bias grid with it, nothing has to be linked again.

    Attributes:
        name: key in `ranges_of`.
        scales: ``power-of-two`` or ``free``.
        signed: False after a ReLU, where the zero point is 0.
        scale: None until calibrated.
    """

    name: str
    scales: Scales
    signed: bool
    scale: float | None = None
    zero_point: int = 0

    def set(self, scale: float, zero_point: int) -> None:
        """Freezes the grid.

        Raises:
            ConfigError: not a grid of this kind (an odd zero point or a free scale under power-of-two scales, ...).
        """
        where = f"the range of {self.name!r} (scale {scale!r}, zero point {zero_point!r})"
        if not (isinstance(scale, float) and _SMALLEST_SCALE <= scale <= _LARGEST_SCALE):
            raise ConfigError(f"{where} needs a finite positive scale: calibrate again on public data")
        if not (type(zero_point) is int and 0 <= zero_point <= LEVELS):
            raise ConfigError(f"{where} needs an integer zero point in 0..{LEVELS}: calibrate again on public data")
        if not self.signed and zero_point:
            raise ConfigError(f"{where} follows a ReLU, so its zero point is 0: the ranges are those of another model")
        if self.scales == "power-of-two" and (math.frexp(scale)[0] != 0.5 or zero_point % 2):
            raise ConfigError(f"{where} is no power of two with an even zero point: prepare with scales='free' for it")
        self.scale, self.zero_point = scale, zero_point

    @property
    def step(self) -> float:
        """The scale. Raises: ConfigError: not calibrated."""
        if self.scale is None:
            raise ConfigError(
                f"the activation range {self.name!r} is not set: call calibrate(model, batches) on public data, "
                "or load_ranges(model, ranges), or fake_quantization(model, False) for the float model"
            )
        return self.scale

    @property
    def low(self) -> float:
        """Smallest value on the grid."""
        return -self.zero_point * self.step

    @property
    def high(self) -> float:
        """Largest value on the grid."""
        return (LEVELS - self.zero_point) * self.step
