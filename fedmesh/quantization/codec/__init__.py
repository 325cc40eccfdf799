"""The delta codec: what a device sends, and how a server sums it. numpy alone.

Public state gives the ranges, `DeltaCodec` makes packets, `PacketSum` (or `sum_packets` and `dequantize_sum`) averages
them in integers. The packet is described byte by byte in docs/packet.md.
"""

from fedmesh.quantization.codec.feedback import ErrorFeedback
from fedmesh.quantization.codec.packets import HEADER_BYTES, DeltaCodec, FloatCodec
from fedmesh.quantization.codec.ranges import RangePolicy, constant_ranges, dp_ranges, public_ranges, relative_ranges
from fedmesh.quantization.codec.sums import PacketSum, dequantize_sum, sum_packets

__all__ = [
    "HEADER_BYTES",
    "DeltaCodec",
    "ErrorFeedback",
    "FloatCodec",
    "PacketSum",
    "RangePolicy",
    "constant_ranges",
    "dequantize_sum",
    "dp_ranges",
    "public_ranges",
    "relative_ranges",
    "sum_packets",
]
