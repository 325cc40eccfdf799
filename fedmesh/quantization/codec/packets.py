"""The delta codec: float32 arrays <-> one contiguous packet of b-bit codes.

A code q stands for q * scale, where scale = range / (2^(b-1) - 1) is per tensor and comes from *public* state alone
(the model's weights, or the DP hyper-parameters): a scale taken from the delta itself would leak it. Larger values
saturate. Packets of one round share their scales, so a server sums integers and multiplies once.

A packet is 32 bytes of header (docs/packet.md), then the codes as `packing` lays them out. A packet of another model,
other scales, another width or length is refused; there is no signature here, that is the transport's part.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.quantization.codec.packing import MAX_BITS, MIN_BITS, largest_code, pack, packed_bytes, unpack
from fedmesh.quantization.codec.rounding import require_finite, round_stochastically
from fedmesh.types import Arrays, Float32, Layout

__all__ = ["HEADER_BYTES", "DeltaCodec", "FloatCodec", "require_length"]

MAGIC = b"FMDP"
VERSION = 1
FLOAT_BITS = 32
_HEADER = struct.Struct("<4sBBHQ8s8s")
HEADER_BYTES = _HEADER.size
_LARGEST_RANGE = 1e18  # so that an int64 sum times a scale stays below float32's 3.4e38
_SMALLEST_RANGE = 1e-18


@dataclass(frozen=True, slots=True)
class _Header:
    """What every packet of one codec begins with."""

    bits: int
    count: int
    layout: bytes
    scales: bytes

    def encode(self) -> bytes:
        return _HEADER.pack(MAGIC, VERSION, self.bits, 0, self.count, self.layout, self.scales)

    def check(self, data: bytes, *, max_bytes: int, body_bytes: int) -> memoryview:
        """The body of `data`. Raises: DecodeError naming the first field that differs."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise DecodeError(f"a packet is bytes, not {type(data).__name__}")
        view = memoryview(data).cast("B")
        if len(view) > max_bytes:
            raise DecodeError(f"a packet of {len(view)} bytes arrived, the limit is {max_bytes}")
        if len(view) < HEADER_BYTES:
            raise DecodeError(f"a packet of {len(view)} bytes is shorter than its header of {HEADER_BYTES}")
        got = _HEADER.unpack_from(view)
        wanted = (MAGIC, VERSION, self.bits, 0, self.count, self.layout, self.scales)
        names = ("magic", "version", "bits", "reserved", "count", "layout", "scales")
        for name, theirs, ours in zip(names, got, wanted, strict=True):
            if theirs != ours:
                raise DecodeError(f"the packet's {name} is {_show(theirs)}, this round's is {_show(ours)}")
        if len(view) != HEADER_BYTES + body_bytes:
            raise DecodeError(f"a packet of {len(view)} bytes arrived, this round's have {HEADER_BYTES + body_bytes}")
        return view[HEADER_BYTES:]


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


class DeltaCodec:
    """Integer packets of `bits` bits a weight.

    Laws: where ``|a| <= range``, ``decode(encode(a))`` differs from ``a`` by less than one scale, and equals it in the
    mean; the codes of packets with equal headers may be added.

    Attributes:
        layout: names and shapes of the model's arrays.
        bits: 2 to 16.
        ranges: float32 [tensors], in layout order: the largest magnitude that each tensor's values can take.
        scales: float32 [tensors]: what one step of a code is worth.

    Raises:
        ConfigError: `bits` or a range is impossible.
    """

    def __init__(self, layout: Layout, bits: int, ranges: ArrayLike) -> None:
        if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
            raise ConfigError(f"the delta codec has {MIN_BITS} to {MAX_BITS} bits, not {bits!r}: change delta.bits")
        self.layout = layout
        self.bits = bits
        self.ranges = _checked_ranges(ranges, layout)
        self.scales: Float32 = self.ranges / np.float32(largest_code(bits))
        digest = hashlib.sha256(bytes([bits]) + self.ranges.astype("<f4").tobytes()).digest()
        self._header = _Header(bits, layout.size, layout.digest[:8], digest[:8])

    @cached_property
    def scale_vector(self) -> Float32:
        """The scale of every value, float32 [P]."""
        return np.repeat(self.scales, self.layout.sizes)

    @property
    def packet_bytes(self) -> int:
        """Size of every packet of this codec."""
        return HEADER_BYTES + packed_bytes(self.layout.size, self.bits)

    def quantize(self, vector: Float32, rng: np.random.Generator) -> NDArray[np.int16]:
        """Codes int16 [P] for a flat float32 vector [P].

        Raises:
            RoundError: a value is not finite.
        """
        require_finite(vector)
        with np.errstate(over="ignore"):  # an overflow saturates like any other large value
            in_scales = vector / self.scale_vector
        return round_stochastically(in_scales, largest_code(self.bits), rng)

    def pack(self, codes: NDArray[np.signedinteger[Any]]) -> bytes:
        """The packet of codes [P] that `quantize` made."""
        return self._header.encode() + pack(codes, self.bits)

    def encode(self, arrays: Arrays, rng: np.random.Generator) -> bytes:
        """One packet; `rng` drives stochastic rounding.

        Raises:
            RoundError: a value is not finite.
            DecodeError: the arrays are not of this codec's layout.
        """
        return self.encode_vector(self.layout.flatten(arrays), rng)

    def encode_vector(self, vector: Float32, rng: np.random.Generator) -> bytes:
        """As `encode`, from a flat float32 vector [P]."""
        require_length(vector, self.layout)
        return self.pack(self.quantize(vector, rng))

    def decode(self, data: bytes, *, max_bytes: int) -> Arrays:
        """The arrays, float32.

        Raises:
            DecodeError: anything else than a packet of this codec.
        """
        return self.layout.unflatten(self.decode_vector(data, max_bytes=max_bytes))

    def decode_vector(self, data: bytes, *, max_bytes: int) -> Float32:
        """As `decode`, as a flat float32 vector [P]."""
        return self.dequantize(self.codes(data, max_bytes=max_bytes))

    def dequantize(self, codes: NDArray[np.signedinteger[Any]]) -> Float32:
        """The values that codes [P] stand for, float32 [P]."""
        return codes.astype(np.float32) * self.scale_vector

    def decode_integers(self, data: bytes, *, max_bytes: int) -> NDArray[np.int32]:
        """The codes as int32 [P]: what secure aggregation masks and a server sums.

        Raises:
            DecodeError: anything else than a packet of this codec.
        """
        return self.codes(data, max_bytes=max_bytes).astype(np.int32)

    def codes(self, data: bytes, *, max_bytes: int) -> NDArray[np.signedinteger[Any]]:
        """As `decode_integers`, in the narrowest type (int8 or int16), possibly a read-only view of `data`."""
        body = self._header.check(data, max_bytes=max_bytes, body_bytes=self.packet_bytes - HEADER_BYTES)
        return unpack(body, self.layout.size, self.bits)


@dataclass(frozen=True)
class FloatCodec:
    """Raw float32 packets, for federations without delta quantization: the same interface and header, 32 bits."""

    layout: Layout

    @cached_property
    def _header(self) -> _Header:
        return _Header(FLOAT_BITS, self.layout.size, self.layout.digest[:8], bytes(8))

    @property
    def packet_bytes(self) -> int:
        """Size of every packet of this codec."""
        return HEADER_BYTES + 4 * self.layout.size

    def encode(self, arrays: Arrays, rng: np.random.Generator) -> bytes:
        """One packet; `rng` is not used. Raises as `DeltaCodec.encode`."""
        return self.encode_vector(self.layout.flatten(arrays), rng)

    def encode_vector(self, vector: Float32, rng: np.random.Generator) -> bytes:  # noqa: ARG002 (the seam's argument)
        """As `encode`, from a flat float32 vector [P]."""
        require_length(vector, self.layout)
        require_finite(vector)
        return self._header.encode() + vector.astype("<f4", copy=False).tobytes()

    def decode(self, data: bytes, *, max_bytes: int) -> Arrays:
        """The arrays, float32. Raises: DecodeError for anything else than a packet of this codec."""
        return self.layout.unflatten(self.decode_vector(data, max_bytes=max_bytes))

    def decode_vector(self, data: bytes, *, max_bytes: int) -> Float32:
        """As `decode`, as a flat float32 vector [P]."""
        body = self._header.check(data, max_bytes=max_bytes, body_bytes=4 * self.layout.size)
        vector = np.frombuffer(body, "<f4").astype(np.float32)
        if not np.isfinite(vector).all():
            raise DecodeError("the packet holds values that are NaN or infinite")
        return vector


def _checked_ranges(ranges: ArrayLike, layout: Layout) -> Float32:
    try:
        checked = np.array(ranges, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the delta ranges are not numbers: {error}") from error
    if checked.shape != (len(layout.names),):
        raise ConfigError(f"{checked.shape} delta ranges were given for a model of {len(layout.names)} arrays")
    for name, value in zip(layout.names, checked.tolist(), strict=True):
        if not _SMALLEST_RANGE <= value <= _LARGEST_RANGE:  # refuses NaN as well
            bounds = f"{_SMALLEST_RANGE:g} to {_LARGEST_RANGE:g}"
            raise ConfigError(f"the delta range of {name} is {value!r}, wanted {bounds}")
    checked.flags.writeable = False
    return checked


def require_length(vector: Float32, layout: Layout) -> None:
    """Raises: DecodeError when `vector` is not a flat float32 vector of `layout`."""
    if vector.shape != (layout.size,) or vector.dtype != np.float32:
        raise DecodeError(f"a {vector.dtype} vector of shape {vector.shape} for a model of {layout.size} float32")
