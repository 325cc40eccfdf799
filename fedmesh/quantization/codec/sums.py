"""Weighted sums of packets: integers all the way, one multiplication at the end, never through float64."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedmesh.errors import DecodeError
from fedmesh.quantization.codec.packets import DeltaCodec, FloatCodec
from fedmesh.types import Arrays, Float32

__all__ = ["PacketSum", "Total", "dequantize_sum", "sum_packets"]

_LARGEST_WEIGHT = 1 << 31
_LARGEST_TOTAL_WEIGHT = 1 << 47  # times 16-bit codes: the sum stays inside int64

Total = NDArray[np.int64] | Float32
"""A sum of codes, or of values for a `FloatCodec`."""


@dataclass(slots=True, eq=False)
class PacketSum:
    """A weighted sum of packets of one codec. The order of the packets does not matter to an integer codec.

    Attributes:
        codec: that of the round.
        max_bytes: limit for one packet.
        total: sum of weight * codes, int64 [P]; of weight * values, float32 [P], for a `FloatCodec`.
        weight: sum of the weights.
    """

    codec: DeltaCodec | FloatCodec
    max_bytes: int
    total: Total = field(init=False, repr=False)
    weight: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        size = self.codec.layout.size
        self.total = np.zeros(size, np.int64) if isinstance(self.codec, DeltaCodec) else np.zeros(size, np.float32)

    def add(self, data: bytes, weight: int = 1) -> None:
        """Adds a packet, or nothing at all when it is refused.

        Raises:
            DecodeError: not a packet of this codec, or an impossible weight.
        """
        if not 0 < weight <= _LARGEST_WEIGHT or self.weight + weight > _LARGEST_TOTAL_WEIGHT:
            raise DecodeError(f"a weight of {weight} arrived, wanted 1 to {_LARGEST_WEIGHT}")
        if isinstance(self.codec, DeltaCodec):
            codes = self.codec.codes(data, max_bytes=self.max_bytes)
            self.total += codes if weight == 1 else np.multiply(codes, weight, dtype=np.int64)
        else:
            values = self.codec.decode_vector(data, max_bytes=self.max_bytes)
            self.total += values * np.float32(weight)
        self.weight += weight

    def mean(self) -> Float32:
        """The weighted mean as a flat float32 vector [P]: scale * total / weight, one rounding after the integers.

        Raises:
            DecodeError: nothing was added.
        """
        if not self.weight:
            raise DecodeError("there is no packet to average")
        mean = self.total.astype(np.float32)
        if isinstance(self.codec, DeltaCodec):
            mean *= self.codec.scale_vector
        mean /= np.float32(self.weight)
        return mean


def sum_packets(
    codec: DeltaCodec | FloatCodec, packets: Iterable[tuple[bytes, int]], *, max_bytes: int
) -> tuple[Total, int]:
    """The weighted sum of (packet, weight) pairs and the sum of the weights; see `PacketSum`.

    Raises:
        DecodeError: a packet is not one of this codec, or a weight is impossible.
    """
    result = PacketSum(codec, max_bytes)
    for data, weight in packets:
        result.add(data, weight)
    return result.total, result.weight


def dequantize_sum(total: Total, weight: int, codec: DeltaCodec | FloatCodec) -> Arrays:
    """The mean that a sum of packets stands for, as float32 arrays: scale * total / weight.

    Raises:
        DecodeError: `weight` is not positive or `total` is not of the codec's length.
    """
    result = PacketSum(codec, 0)
    if total.shape != result.total.shape or total.dtype != result.total.dtype:
        raise DecodeError(f"a {total.dtype} sum of shape {total.shape} for a codec of {codec.layout.size} values")
    result.total, result.weight = total, weight
    return codec.layout.unflatten(result.mean())
