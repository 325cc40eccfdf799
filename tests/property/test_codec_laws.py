"""Laws of packing, rounding and summing, over arbitrary codes and shapes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh.errors import DecodeError
from fedmesh.quantization.codec import DeltaCodec, PacketSum
from fedmesh.quantization.codec.packing import largest_code, pack, packed_bytes, unpack
from fedmesh.types import Layout

BITS = st.integers(2, 16)


@st.composite
def some_codes(draw):
    bits = draw(BITS)
    top = largest_code(bits)
    return bits, np.array(draw(st.lists(st.integers(-top, top), max_size=40)), np.int32)


def slow_pack(codes, bits):
    """The definition: one big integer, value i at bit i * b."""
    stream = 0
    for place, code in enumerate(codes.tolist()):
        stream |= (code & ((1 << bits) - 1)) << (place * bits)
    return stream.to_bytes(packed_bytes(len(codes), bits), "little")


@given(some_codes())
def test_packing_is_its_slow_twin(case):
    bits, codes = case
    assert pack(codes, bits) == slow_pack(codes, bits)


@given(some_codes())
def test_unpack_inverts_pack(case):
    bits, codes = case
    assert unpack(pack(codes, bits), len(codes), bits).tolist() == codes.tolist()


@given(BITS, st.binary(max_size=40), st.integers(0, 60))
def test_unpack_accepts_exactly_what_pack_writes(bits, body, count):
    try:
        codes = unpack(body, count, bits)
    except DecodeError:
        return
    assert np.abs(codes.astype(int)).max(initial=0) <= largest_code(bits)
    assert pack(codes, bits) == body


layouts = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=4).map(
    lambda shapes: Layout(tuple(f"p{i}" for i in range(len(shapes))), tuple(shapes))
)
ranges = st.floats(2**-30, 2**30, width=32)


@given(layouts, BITS, st.data())
@settings(max_examples=60)
def test_decode_of_encode_is_within_one_scale(layout, bits, data):
    limits = np.array([data.draw(ranges) for _ in layout.names], np.float32)
    codec = DeltaCodec(layout, bits, limits)
    shares = data.draw(st.lists(st.floats(-1, 1, width=32), min_size=layout.size, max_size=layout.size))
    vector = np.array(shares, np.float32) * np.repeat(limits, layout.sizes)
    packet = codec.encode_vector(vector, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert len(packet) == codec.packet_bytes
    error = np.abs(codec.decode_vector(packet, max_bytes=len(packet)).astype(np.float64) - vector)
    assert (error <= codec.scale_vector * 1.0001 + np.abs(vector) * 2**-22).all()
    with pytest.raises(DecodeError):
        codec.decode(packet, max_bytes=len(packet) - 1)


@given(layouts, BITS, st.permutations(range(5)), st.lists(st.integers(1, 2**31), min_size=5, max_size=5))
@settings(max_examples=40)
def test_a_sum_does_not_depend_on_the_order(layout, bits, order, weights):
    codec = DeltaCodec(layout, bits, np.ones(len(layout.names), np.float32))
    rng = np.random.default_rng(5)
    packets = [codec.encode_vector(rng.standard_normal(layout.size).astype(np.float32), rng) for _ in weights]
    sums = [PacketSum(codec, 10_000) for _ in range(2)]
    for place, other in enumerate(order):
        sums[0].add(packets[place], weights[place])
        sums[1].add(packets[other], weights[other])
    assert sums[0].total.tolist() == sums[1].total.tolist()
    assert sums[0].mean().tobytes() == sums[1].mean().tobytes()
    exact = sum(
        w * codec.decode_integers(p, max_bytes=10_000).astype(object) for p, w in zip(packets, weights, strict=True)
    )
    assert sums[0].total.tolist() == exact.tolist()


@given(BITS, st.floats(-1, 1, width=32))
@settings(max_examples=30)
def test_rounding_is_unbiased_for_any_value(bits, share):
    size = 20_000
    codec = DeltaCodec(Layout(("w",), ((size,),)), bits, [1.0])
    codes = codec.quantize(np.full(size, share, np.float32), np.random.default_rng(11))
    exact = np.float32(share) / codec.scales[0]
    assert abs(codes.mean() - exact) < 6 * 0.5 / np.sqrt(size) + 1e-9
    assert set(np.unique(codes)) <= {int(np.floor(exact)), int(np.ceil(exact))}
