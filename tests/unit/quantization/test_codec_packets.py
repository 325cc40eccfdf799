"""The delta codec's packet: its bytes, its numbers, and what it refuses."""

import numpy as np
import pytest

from fedmesh.errors import ConfigError, DecodeError, RoundError
from fedmesh.quantization.codec import HEADER_BYTES, DeltaCodec, FloatCodec
from fedmesh.quantization.codec.packets import MAGIC
from fedmesh.types import Layout

LAYOUT = Layout(("conv.weight", "conv.bias"), ((2, 3), (2,)))
LIMIT = 10_000


def arrays(values):
    return LAYOUT.unflatten(np.asarray(values, np.float32))


def codec(bits=8, ranges=(1.0, 0.5)):
    return DeltaCodec(LAYOUT, bits, np.array(ranges, np.float32))


# Golden bytes: a packet written by any version must stay readable. Only added to, never edited.
VALUES = [1.0, -1.0, 0.0, 2.0, -3.0, 0.0, 0.5, -0.5]
GOLDEN = {
    2: "464d4450010200000800000000000000c9d04c0e608beab62f6e92e7998bff134dd3",
    3: "464d4450010300000800000000000000c9d04c0e608beab6fd3d2296eb82ddd22b56ac",
    8: "464d4450010800000800000000000000c9d04c0e608beab67eb1a3cc204c55487f81007f81007f81",
    12: "464d4450010c00000800000000000000c9d04c0e608beab68e2e66dfcc751f2dff178000f07f010800ff1780",
    16: "464d4450011000000800000000000000c9d04c0e608beab6a4788314996a8a3fff7f01800000ff7f01800000ff7f0180",
}
GOLDEN_FLOAT = (
    "464d4450012000000800000000000000c9d04c0e608beab60000000000000000"
    "0000803f000080bf0000000000000040000040c0000000000000003f000000bf"
)


@pytest.mark.parametrize("bits", GOLDEN)
def test_golden_bytes(bits):
    assert codec(bits).encode(arrays(VALUES), np.random.default_rng(0)).hex() == GOLDEN[bits]
    decoded = codec(bits).decode(bytes.fromhex(GOLDEN[bits]), max_bytes=LIMIT)
    np.testing.assert_allclose(LAYOUT.flatten(decoded), [1, -1, 0, 1, -1, 0, 0.5, -0.5], rtol=1e-6)


def test_golden_bytes_of_a_float_packet():
    assert FloatCodec(LAYOUT).encode(arrays(VALUES), np.random.default_rng(0)).hex() == GOLDEN_FLOAT
    assert LAYOUT.flatten(FloatCodec(LAYOUT).decode(bytes.fromhex(GOLDEN_FLOAT), max_bytes=LIMIT)).tolist() == VALUES


def test_header_is_32_bytes():
    assert HEADER_BYTES == 32
    assert codec().encode(arrays(VALUES), np.random.default_rng(0))[:4] == MAGIC


@pytest.mark.parametrize("bits", range(2, 17))
def test_representable_values_survive_exactly(bits):
    some = codec(bits)
    decoded = some.decode(some.encode(arrays(VALUES), np.random.default_rng(0)), max_bytes=LIMIT)
    assert tuple(decoded) == LAYOUT.names
    np.testing.assert_allclose(LAYOUT.flatten(decoded), [1, -1, 0, 1, -1, 0, 0.5, -0.5], rtol=1e-6)
    assert all(a.dtype == np.float32 for a in decoded.values())


@pytest.mark.parametrize("bits", [2, 3, 5, 8, 11, 16])
def test_values_beyond_the_range_saturate(bits):
    some = codec(bits)
    codes = some.decode_integers(
        some.encode(arrays([1e30, -1e30] + [9.0] * 6), np.random.default_rng(0)), max_bytes=LIMIT
    )
    top = 2 ** (bits - 1) - 1
    assert codes.dtype == np.int32
    assert codes.tolist() == [top, -top] + [top] * 6


@pytest.mark.parametrize("bits", range(2, 17))
def test_packet_bytes_is_the_size_of_a_packet(bits):
    some = codec(bits)
    assert len(some.encode(arrays(VALUES), np.random.default_rng(0))) == some.packet_bytes == 32 + (8 * bits + 7) // 8


def test_rounding_is_unbiased():
    size = 200_000
    layout = Layout(("w",), ((size,),))
    some = DeltaCodec(layout, 4, [7.0])  # a scale of one
    for value in (0.25, -0.25, 3.9, -6.5):
        codes = some.quantize(np.full(size, value, np.float32), np.random.default_rng(7))
        assert set(np.unique(codes)) == {int(np.floor(value)), int(np.floor(value)) + 1}
        share = value - np.floor(value)
        six_sigma = 6 * np.sqrt(share * (1 - share) / size)
        assert abs(codes.mean() - value) < six_sigma


def test_rounding_follows_the_generator():
    values = arrays(np.linspace(-0.4, 0.4, 8))
    packets = [codec(4).encode(values, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4)]
    assert packets[0] == packets[1]
    assert len(set(packets[1:])) > 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [codec, lambda: FloatCodec(LAYOUT)])
def test_values_that_are_not_finite_are_refused(bad, make):
    with pytest.raises(RoundError, match=r"1 of 8 values .*learning_rate"):
        make().encode(arrays([0, 0, bad, 0, 0, 0, 0, 0]), np.random.default_rng(0))


def test_huge_but_finite_values_are_not_refused():
    codec().encode(arrays([3e38] * 8), np.random.default_rng(0))


@pytest.mark.parametrize("make", [codec, lambda: FloatCodec(LAYOUT)])
def test_arrays_of_another_model_are_refused(make):
    with pytest.raises(DecodeError, match="do not fit"):
        make().encode({"conv.weight": np.zeros((2, 3), np.float32)}, np.random.default_rng(0))
    for vector in (np.zeros(7, np.float32), np.zeros(8), np.zeros((8, 1), np.float32)):
        with pytest.raises(DecodeError, match="8 float32"):
            make().encode_vector(vector, np.random.default_rng(0))


@pytest.mark.parametrize("bits", [0, 1, 17, 32, 8.0, True, "8", None])
def test_impossible_widths_are_refused(bits):
    with pytest.raises(ConfigError, match=r"2 to 16 bits.*delta\.bits"):
        DeltaCodec(LAYOUT, bits, [1.0, 1.0])


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e-30, 1e30])
def test_impossible_ranges_are_refused(value):
    with pytest.raises(ConfigError, match=r"range of conv\.bias"):
        DeltaCodec(LAYOUT, 8, [1.0, value])


@pytest.mark.parametrize("ranges", [[], [1.0], [1.0, 1.0, 1.0], [[1.0, 1.0]], "ab", [1.0, None]])
def test_one_range_for_each_array_is_wanted(ranges):
    with pytest.raises(ConfigError, match="delta range"):
        DeltaCodec(LAYOUT, 8, ranges)


def test_the_codec_keeps_no_handle_on_the_callers_ranges():
    ranges = np.array([1.0, 0.5], np.float32)
    some = DeltaCodec(LAYOUT, 8, ranges)
    ranges[:] = 9
    assert some.ranges.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="read-only"):
        some.ranges[0] = 3


def test_empty_and_scalar_arrays():
    layout = Layout(("none", "one"), ((0, 3), ()))
    some = DeltaCodec(layout, 5, [1.0, 1.0])
    data = some.encode(
        {"none": np.zeros((0, 3), np.float32), "one": np.array(1.0, np.float32)}, np.random.default_rng(0)
    )
    decoded = some.decode(data, max_bytes=LIMIT)
    assert decoded["none"].shape == (0, 3)
    assert decoded["one"] == 1.0
    nothing = DeltaCodec(Layout((), ()), 8, [])
    assert nothing.decode(nothing.encode({}, np.random.default_rng(0)), max_bytes=LIMIT) == {}


class TestRefusedPackets:
    def refuse(self, data, match, some=None, limit=LIMIT):
        with pytest.raises(DecodeError, match=match):
            (some or codec()).decode(data, max_bytes=limit)

    def packet(self, some=None):
        return (some or codec()).encode(arrays(VALUES), np.random.default_rng(0))

    def test_not_bytes(self):
        for data in (None, "text", 3, [1, 2]):
            self.refuse(data, "a packet is bytes")

    def test_longer_than_the_limit(self):
        self.refuse(self.packet(), "40 bytes arrived, the limit is 39", limit=39)

    @pytest.mark.parametrize("length", [0, 1, 31])
    def test_shorter_than_a_header(self, length):
        self.refuse(self.packet()[:length], "shorter than its header")

    def test_truncated_or_continued(self):
        self.refuse(self.packet()[:-1], "39 bytes arrived, this round's have 40")
        self.refuse(self.packet() + b"\0", "41 bytes arrived, this round's have 40")

    @pytest.mark.parametrize(
        ("offset", "field"),
        [(0, "magic"), (4, "version"), (5, "bits"), (6, "reserved"), (8, "count"), (16, "layout"), (24, "scales")],
    )
    def test_every_header_field_is_checked(self, offset, field):
        data = bytearray(self.packet())
        data[offset] ^= 1
        self.refuse(bytes(data), f"packet's {field}")

    def test_other_model_of_equal_size(self):
        other = DeltaCodec(Layout(("fc.weight", "fc.bias"), ((2, 3), (2,))), 8, [1.0, 0.5])
        self.refuse(self.packet(), "layout", some=other)

    def test_other_scales(self):
        self.refuse(self.packet(), "scales", some=codec(ranges=(1.0, 0.25)))

    @pytest.mark.parametrize("bits", [2, 3, 7, 8, 9, 15, 16])
    def test_the_code_that_has_no_opposite(self, bits):
        some = codec(bits)
        data = some.pack(np.array([-(2 ** (bits - 1))] + [0] * 7, np.int32))
        self.refuse(data, f"a code of -{2 ** (bits - 1)} arrived", some=some)

    def test_bits_after_the_last_code(self):
        layout = Layout(("w",), ((3,),))
        some = DeltaCodec(layout, 5, [1.0])
        data = bytearray(some.encode_vector(np.zeros(3, np.float32), np.random.default_rng(0)))
        data[-1] |= 0x80
        self.refuse(bytes(data), "unused bits", some=some)

    def test_a_float_packet_is_not_an_integer_packet(self):
        data = FloatCodec(LAYOUT).encode(arrays(VALUES), np.random.default_rng(0))
        self.refuse(data, "bits is 32, this round's is 8")
        self.refuse(self.packet(), "bits is 8, this round's is 32", some=FloatCodec(LAYOUT))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_float_packets_that_are_not_finite(self, bad):
        data = FloatCodec(LAYOUT).encode(arrays(VALUES), np.random.default_rng(0))
        self.refuse(data[:-4] + np.array(bad, "<f4").tobytes(), "NaN or infinite", some=FloatCodec(LAYOUT))


def test_float_codec_is_lossless():
    values = np.random.default_rng(1).standard_normal(8).astype(np.float32)
    some = FloatCodec(LAYOUT)
    data = some.encode(arrays(values), np.random.default_rng(0))
    assert len(data) == some.packet_bytes == 64
    assert LAYOUT.flatten(some.decode(data, max_bytes=LIMIT)).tobytes() == values.tobytes()


def test_codecs_show_no_weights():
    for some in (FloatCodec(LAYOUT), codec()):
        assert "array(" not in repr(some)
