"""Metrics as digits that ride behind the codes in the secure sum: nothing of a device is sent in the clear.

A metric is a number in [0, 2^24), rounded to a multiple of 2^-16: 40 bits, written in digits of base 2^(value_bits - 1)
so that each digit is as small as a code and the ring that carries the codes carries it. Digits are summed with the
device's weight like everything else; the total is put together afterwards: no carry is lost.
``decode(sum of w_i encode(m_i), sum of w_i)`` is the weighted mean of the rounded metrics, as the nearest float.
A device that lies spoils the mean, as it can spoil the sum; a mean beyond [0, 2^24) says that one did.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import SecAggError

__all__ = ["MetricCodec"]

_FRACTION_BITS = 16
_METRIC_BITS = 40
_LIMIT = 1 << (_METRIC_BITS - _FRACTION_BITS)


@dataclass(frozen=True, slots=True)
class MetricCodec:
    """Metrics named `fields`, in values of `value_bits` bits (2 to 62)."""

    fields: Sequence[str]
    value_bits: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        if not 2 <= self.value_bits <= 62:
            raise SecAggError(f"metrics in values of {self.value_bits} bits: wanted 2 to 62", code="ring")

    @property
    def length(self) -> int:
        """Elements that all metrics take."""
        return len(self.fields) * self._digits

    def encode(self, metrics: Mapping[str, float]) -> NDArray[np.int64]:
        """The digits of the metrics named in `fields` (others stay behind), int64 [length], lowest digit first.

        Raises:
            SecAggError: ``input``: one is missing, not finite, negative or 2^24 and more.
        """
        base = 1 << self._digit_bits
        digits = []
        for field in self.fields:
            rest = _fixed_point(field, metrics.get(field))
            for _ in range(self._digits):
                rest, digit = divmod(rest, base)
                digits.append(digit)
        return np.array(digits, np.int64)

    def decode(self, total: NDArray[np.int64], weight: int) -> dict[str, float]:
        """The weighted means from the weighted sum of digits, int64 [length], and the sum of weights.

        Raises:
            SecAggError: ``input``: the length is wrong or the weight not positive.
        """
        if total.shape != (self.length,) or weight < 1:
            wanted = f"wanted {self.length} digits and a positive weight"
            raise SecAggError(f"metrics of shape {total.shape}, weight {weight}: {wanted}", code="input")
        rows = total.reshape(len(self.fields), self._digits)
        return {field: self._mean(row.tolist(), weight) for field, row in zip(self.fields, rows, strict=True)}

    @property
    def _digit_bits(self) -> int:
        return self.value_bits - 1

    @property
    def _digits(self) -> int:
        return -(-_METRIC_BITS // self._digit_bits)

    def _mean(self, digits: list[int], weight: int) -> float:
        total = sum(digit << (place * self._digit_bits) for place, digit in enumerate(digits))
        return float(Fraction(total, weight << _FRACTION_BITS))


def _fixed_point(field: str, value: float | None) -> int:
    if value is None or not math.isfinite(value) or not 0 <= value < _LIMIT:
        raise SecAggError(f"the metric {field!r} is {value}: wanted a number from 0 to {_LIMIT}", code="input")
    return min(round(Fraction(float(value)) * (1 << _FRACTION_BITS)), (1 << _METRIC_BITS) - 1)
