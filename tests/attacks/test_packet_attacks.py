"""Hostile packets at the delta codec: DecodeError or a packet that encode could have written; nothing else."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh.errors import DecodeError
from fedmesh.quantization.codec import HEADER_BYTES, DeltaCodec, FloatCodec
from fedmesh.types import Layout

LAYOUT = Layout(("w", "b"), ((5, 3), (2,)))
CODECS = [*(DeltaCodec(LAYOUT, bits, [1.0, 0.5]) for bits in range(2, 17)), FloatCodec(LAYOUT)]
codecs = st.sampled_from(CODECS)


def a_packet(codec):
    vector = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    return codec.encode_vector(vector, np.random.default_rng(0))


def is_refused_or_canonical(codec, data):
    try:
        vector = codec.decode_vector(data, max_bytes=1000)
    except DecodeError:
        return
    assert np.isfinite(vector).all()
    if isinstance(codec, DeltaCodec):
        assert (np.abs(vector) <= np.repeat(codec.ranges, LAYOUT.sizes) * (1 + 1e-6)).all()
        assert codec.pack(codec.codes(data, max_bytes=1000)) == bytes(data)


@given(codecs, st.binary(max_size=120))
@settings(max_examples=500)
def test_noise(codec, data):
    is_refused_or_canonical(codec, data)


@given(codecs, st.binary(max_size=80))
@settings(max_examples=500)
def test_noise_after_a_valid_header(codec, body):
    is_refused_or_canonical(codec, a_packet(codec)[:HEADER_BYTES] + body)


@given(codecs, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
@settings(max_examples=500)
def test_altered_bytes(codec, changes):
    data = bytearray(a_packet(codec))
    for place, value in changes:
        data[place % len(data)] = value
    is_refused_or_canonical(codec, bytes(data))


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: str(getattr(c, "bits", "float")))
def test_every_truncation_and_any_header_bit_is_refused(codec):
    data = a_packet(codec)
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            codec.decode(data[:length], max_bytes=1000)
    for bit in range(HEADER_BYTES * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(DecodeError):
            codec.decode(bytes(flipped), max_bytes=1000)


def test_a_packet_that_announces_2_to_64_values_takes_no_memory():
    codec = CODECS[6]
    data = bytearray(a_packet(codec))
    data[8:16] = b"\xff" * 8
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="count"):
            codec.decode(bytes(data), max_bytes=1000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_an_error_does_not_quote_the_packet():
    codec = CODECS[6]
    data = a_packet(codec)
    with pytest.raises(DecodeError) as caught:
        codec.decode(data + b"secret", max_bytes=1000)
    assert "secret" not in str(caught.value)
    assert data[HEADER_BYTES:].hex() not in str(caught.value)
