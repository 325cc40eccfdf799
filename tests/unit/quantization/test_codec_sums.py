"""Sums of packets, public ranges and error feedback."""

import numpy as np
import pytest

from fedmesh.errors import ConfigError, DecodeError, RoundError
from fedmesh.quantization.codec import (
    DeltaCodec,
    ErrorFeedback,
    FloatCodec,
    PacketSum,
    dequantize_sum,
    dp_ranges,
    public_ranges,
    sum_packets,
)
from fedmesh.types import Layout

LAYOUT = Layout(("w", "b"), ((4, 3), (3,)))
LIMIT = 1000


def vectors(count, seed=0, scale=0.3):
    return (np.random.default_rng(seed).standard_normal((count, LAYOUT.size)) * scale).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 8, 13, 16])
def test_the_sum_is_the_sum_of_the_integers(bits):
    codec = DeltaCodec(LAYOUT, bits, [1.0, 0.5])
    packets = [codec.encode_vector(v, np.random.default_rng(i)) for i, v in enumerate(vectors(5))]
    weights = [3, 1, 250, 1, 7]
    total, weight = sum_packets(codec, zip(packets, weights, strict=True), max_bytes=LIMIT)
    slow = sum(
        w * codec.decode_integers(p, max_bytes=LIMIT).astype(object) for p, w in zip(packets, weights, strict=True)
    )
    assert total.dtype == np.int64
    assert total.tolist() == slow.tolist()
    assert weight == sum(weights)
    mean = dequantize_sum(total, weight, codec)
    wanted = np.array(slow / weight, np.float64) * codec.scale_vector
    np.testing.assert_allclose(LAYOUT.flatten(mean), wanted, rtol=3e-7)
    assert all(a.dtype == np.float32 for a in mean.values())


def test_the_order_of_arrival_does_not_matter():
    codec = DeltaCodec(LAYOUT, 8, [1.0, 1.0])
    packets = [(codec.encode_vector(v, np.random.default_rng(i)), i + 1) for i, v in enumerate(vectors(9))]
    forward, backward = (sum_packets(codec, order, max_bytes=LIMIT) for order in (packets, packets[::-1]))
    assert forward[0].tobytes() == backward[0].tobytes()


def test_large_sums_are_exact_where_float32_would_not_be():
    codec = DeltaCodec(Layout(("w",), ((1,),)), 16, [1.0])
    top = codec.encode_vector(np.ones(1, np.float32), np.random.default_rng(0))
    one = codec.pack(np.ones(1, np.int16))
    total, weight = sum_packets(codec, [(top, 2**31), (one, 1)], max_bytes=LIMIT)
    assert total.tolist() == [32767 * 2**31 + 1]
    assert weight == 2**31 + 1


def test_one_device_alone_is_its_own_mean():
    codec = DeltaCodec(LAYOUT, 8, [0.7, 0.3])
    packet = codec.encode_vector(vectors(1)[0], np.random.default_rng(0))
    mean = dequantize_sum(*sum_packets(codec, [(packet, 1)], max_bytes=LIMIT), codec)
    assert LAYOUT.flatten(mean).tobytes() == codec.decode_vector(packet, max_bytes=LIMIT).tobytes()


def test_a_refused_packet_leaves_the_sum_as_it_was():
    codec = DeltaCodec(LAYOUT, 8, [1.0, 1.0])
    good = codec.encode_vector(vectors(1)[0], np.random.default_rng(0))
    running = PacketSum(codec, LIMIT)
    running.add(good, 2)
    before = running.total.copy()
    for bad in (good[:-1], b"", good[:-1] + b"\x80"):
        with pytest.raises(DecodeError):
            running.add(bad)
    assert running.total.tolist() == before.tolist()
    assert running.weight == 2


@pytest.mark.parametrize("weight", [0, -1, 2**31 + 1, 2**70])
def test_impossible_weights_are_refused(weight):
    codec = DeltaCodec(LAYOUT, 8, [1.0, 1.0])
    good = codec.encode_vector(vectors(1)[0], np.random.default_rng(0))
    with pytest.raises(DecodeError, match="weight"):
        PacketSum(codec, LIMIT).add(good, weight)


def test_the_sum_of_weights_stays_inside_int64():
    running = PacketSum(DeltaCodec(LAYOUT, 16, [1.0, 1.0]), LIMIT)
    running.weight = 2**47
    with pytest.raises(DecodeError, match="weight"):
        running.add(b"", 1)


def test_nothing_has_no_mean():
    codec = DeltaCodec(LAYOUT, 8, [1.0, 1.0])
    with pytest.raises(DecodeError, match="no packet"):
        dequantize_sum(*sum_packets(codec, [], max_bytes=LIMIT), codec)


def test_a_sum_of_another_kind_is_refused():
    codec = DeltaCodec(LAYOUT, 8, [1.0, 1.0])
    for total in (np.zeros(3, np.int64), np.zeros(LAYOUT.size, np.float32)):
        with pytest.raises(DecodeError, match="sum of shape"):
            dequantize_sum(total, 1, codec)


def test_float_packets_are_averaged_in_float32():
    codec = FloatCodec(LAYOUT)
    some = vectors(3)
    packets = [(codec.encode_vector(v, np.random.default_rng(0)), w) for v, w in zip(some, (1, 2, 5), strict=True)]
    total, weight = sum_packets(codec, packets, max_bytes=LIMIT)
    assert total.dtype == np.float32
    mean = LAYOUT.flatten(dequantize_sum(total, weight, codec))
    np.testing.assert_allclose(mean, np.average(some, axis=0, weights=(1, 2, 5)), rtol=1e-5, atol=1e-7)


class TestPublicRanges:
    def test_a_share_of_each_tensors_magnitude(self):
        ranges = public_ranges({"a": np.array([1.0, -2.0], np.float32), "b": np.array([[3.0]], np.float32)}, 0.25)
        assert ranges.dtype == np.float32
        assert ranges.tolist() == [0.5, 0.75]

    def test_a_bias_that_starts_at_zero_can_move(self):
        weights = {"w": np.full(3, 2.0, np.float32), "v": np.full(3, 4.0, np.float32), "b": np.zeros(3, np.float32)}
        assert public_ranges(weights, 0.5)[2] == np.float32(0.1)

    def test_an_all_zero_or_empty_model_still_gives_positive_ranges(self):
        assert (public_ranges({"w": np.zeros(3, np.float32), "e": np.zeros((0, 2), np.float32)}, 0.25) > 0).all()
        assert public_ranges({}, 0.25).shape == (0,)

    @pytest.mark.parametrize("fraction", [0.0, -1.0, np.inf, np.nan])
    def test_impossible_fractions(self, fraction):
        with pytest.raises(ConfigError, match=r"delta\.range_fraction"):
            public_ranges({"w": np.ones(1, np.float32)}, fraction)

    def test_a_model_that_is_not_finite(self):
        with pytest.raises(ConfigError, match="b holds NaN"):
            public_ranges({"a": np.ones(1, np.float32), "b": np.array([np.nan], np.float32)}, 0.25)


SETTINGS = {"learning_rate": 0.5, "clip": 1.0, "noise_multiplier": 1.2, "expected_batch": 32.0, "steps": 4}


class TestDpRanges:
    def test_positive_float32_in_layout_order(self):
        ranges = dp_ranges(LAYOUT, **SETTINGS)
        assert ranges.dtype == np.float32
        assert ranges.shape == (2,)
        assert (ranges > 0).all()

    def test_a_tiny_tensor_gets_the_worst_case(self):
        ranges = dp_ranges(Layout(("b",), ((1,),)), **SETTINGS)
        noise = 6 * 0.5 * 1.2 * 2 / 32
        np.testing.assert_allclose(ranges, [0.5 * 4 + noise], rtol=1e-6)

    def test_noise_alone_hardly_saturates(self):
        size = 100_000
        ranges = dp_ranges(Layout(("w",), ((size,),)), **SETTINGS)
        deviation = 0.5 * 1.2 * 2 / 32
        noise = np.random.default_rng(0).normal(0, deviation, size)
        assert (np.abs(noise) < ranges[0]).all()
        assert ranges[0] < 9 * deviation  # else the grid would be coarse for nothing

    def test_they_depend_on_public_numbers_alone(self):
        once, again = dp_ranges(LAYOUT, **SETTINGS), dp_ranges(LAYOUT, **SETTINGS)
        assert once.tobytes() == again.tobytes()

    @pytest.mark.parametrize("name", ["learning_rate", "clip", "expected_batch", "steps"])
    @pytest.mark.parametrize("value", [0, -1, np.inf, np.nan])
    def test_impossible_settings(self, name, value):
        with pytest.raises(ConfigError, match=name):
            dp_ranges(LAYOUT, **{**SETTINGS, name: value})

    @pytest.mark.parametrize("value", [-0.1, np.inf, np.nan])
    def test_impossible_noise(self, value):
        with pytest.raises(ConfigError, match="noise_multiplier"):
            dp_ranges(LAYOUT, **{**SETTINGS, "noise_multiplier": value})


class TestErrorFeedback:
    def test_what_is_lost_is_sent_later(self):
        codec = DeltaCodec(LAYOUT, 2, [1.0, 1.0])
        feedback, sent = ErrorFeedback(), np.zeros(LAYOUT.size, np.float32)
        deltas = vectors(50, scale=0.2)
        for i, delta in enumerate(deltas):
            sent += codec.decode_vector(feedback.encode_vector(codec, delta, np.random.default_rng(i)), max_bytes=LIMIT)
        np.testing.assert_allclose(sent + feedback.residual, deltas.sum(axis=0), atol=1e-4)
        assert np.abs(feedback.residual).max() <= 1.0

    def test_arrays_and_vectors_agree(self):
        codec, delta = DeltaCodec(LAYOUT, 4, [1.0, 1.0]), vectors(1)[0]
        first, second = ErrorFeedback(), ErrorFeedback()
        one = first.encode_vector(codec, delta, np.random.default_rng(3))
        other = second.encode(codec, LAYOUT.unflatten(delta), np.random.default_rng(3))
        assert one == other == codec.encode_vector(delta, np.random.default_rng(3))
        assert first.residual.tobytes() == second.residual.tobytes()

    def test_a_diverged_delta_leaves_the_residual(self):
        codec = DeltaCodec(LAYOUT, 4, [1.0, 1.0])
        feedback = ErrorFeedback(np.full(LAYOUT.size, 0.5, np.float32))
        with pytest.raises(RoundError):
            feedback.encode_vector(codec, np.full(LAYOUT.size, np.nan, np.float32), np.random.default_rng(0))
        assert (feedback.residual == 0.5).all()

    def test_a_residual_of_another_model_is_refused(self):
        codec = DeltaCodec(LAYOUT, 4, [1.0, 1.0])
        with pytest.raises(DecodeError):
            ErrorFeedback(np.zeros(3, np.float32)).encode_vector(codec, vectors(1)[0], np.random.default_rng(0))
        with pytest.raises(DecodeError):
            ErrorFeedback().encode_vector(codec, np.zeros(3, np.float32), np.random.default_rng(0))
