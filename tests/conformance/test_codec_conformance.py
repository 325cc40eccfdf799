"""One suite for every implementation of the `Codec` protocol."""

import numpy as np
import pytest

from fedmesh.errors import DecodeError, RoundError
from fedmesh.quantization.codec import DeltaCodec, FloatCodec
from fedmesh.types import Codec, Layout

LAYOUT = Layout(("conv", "bias", "scale"), ((3, 2, 2), (3,), ()))


def implementations():
    yield pytest.param(FloatCodec(LAYOUT), id="float32")
    for bits in range(2, 17):
        yield pytest.param(DeltaCodec(LAYOUT, bits, [1.0, 0.5, 2.0]), id=f"{bits} bits")


@pytest.fixture(params=implementations())
def codec(request) -> Codec:
    return request.param


def arrays(seed=0):
    values = np.random.default_rng(seed).uniform(-0.5, 0.5, LAYOUT.size).astype(np.float32)
    return LAYOUT.unflatten(values)


def test_names_shapes_and_types_survive(codec):
    data = codec.encode(arrays(), np.random.default_rng(0))
    assert isinstance(data, bytes)
    decoded = codec.decode(data, max_bytes=len(data))
    assert Layout.of(decoded) == LAYOUT
    assert all(a.dtype == np.float32 for a in decoded.values())


def test_a_decoded_packet_is_a_fixed_point(codec):
    """What was representable stays what it is: nothing drifts when an update is passed on."""
    once = codec.decode(codec.encode(arrays(), np.random.default_rng(0)), max_bytes=1000)
    twice = codec.decode(codec.encode(once, np.random.default_rng(1)), max_bytes=1000)
    for name in once:
        np.testing.assert_allclose(twice[name], once[name], rtol=1e-6)


def test_equal_generators_give_equal_packets(codec):
    first, second = (codec.encode(arrays(), np.random.default_rng(3)) for _ in range(2))
    assert first == second


def test_encoding_changes_nothing_of_its_argument(codec):
    given = arrays()
    before = LAYOUT.flatten(given).tobytes()
    codec.encode(given, np.random.default_rng(0))
    assert LAYOUT.flatten(given).tobytes() == before


def test_decoding_reads_any_buffer(codec):
    data = codec.encode(arrays(), np.random.default_rng(0))
    wanted = LAYOUT.flatten(codec.decode(data, max_bytes=1000)).tobytes()
    for other in (bytearray(data), memoryview(data)):
        assert LAYOUT.flatten(codec.decode(other, max_bytes=1000)).tobytes() == wanted


def test_the_limit_comes_first(codec):
    data = codec.encode(arrays(), np.random.default_rng(0))
    with pytest.raises(DecodeError, match="the limit is"):
        codec.decode(data, max_bytes=len(data) - 1)


def test_damage_is_a_decode_error(codec):
    data = codec.encode(arrays(), np.random.default_rng(0))
    for broken in (b"", data[:-1], data + b"\0", bytes(len(data)), data[1:] + data[:1]):
        with pytest.raises(DecodeError):
            codec.decode(broken, max_bytes=1000)


def test_another_model_is_refused_both_ways(codec):
    other = {"conv": np.zeros((3, 2, 2), np.float32)}
    with pytest.raises(DecodeError):
        codec.encode(other, np.random.default_rng(0))
    foreign = FloatCodec(Layout.of(other)).encode(other, np.random.default_rng(0))
    with pytest.raises(DecodeError):
        codec.decode(foreign, max_bytes=1000)


def test_what_is_not_finite_never_leaves(codec):
    values = LAYOUT.flatten(arrays())
    values[3] = np.nan
    with pytest.raises(RoundError):
        codec.encode(LAYOUT.unflatten(values), np.random.default_rng(0))
