"""Laws of the arithmetic below secure aggregation: rings, masks, metrics and shares."""

import math
from contextlib import suppress
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh.errors import SecAggError
from fedmesh.secagg.masks import add_masks, expand
from fedmesh.secagg.metrics import MetricCodec
from fedmesh.secagg.ring import Ring
from fedmesh.secagg.shamir import PRIME, combine, split

RINGS = st.builds(Ring, st.integers(2, 62))
SEEDS = st.binary(min_size=32, max_size=32)
INT64 = st.integers(-(2**63), 2**63 - 1)


def int64(values):
    return np.array(values, np.int64)


@given(RINGS, st.lists(INT64, max_size=20))
def test_centre_inverts_lift_mod_the_ring(ring, values):
    centred = ring.centre(ring.lift(int64(values))).tolist()
    half = 1 << (ring.bits - 1)
    assert all(-half <= c < half and (c - v) % (2 * half) == 0 for c, v in zip(centred, values, strict=True))


@given(RINGS, st.lists(INT64, max_size=20))
def test_what_is_packed_is_unpacked(ring, values):
    elements = ring.lift(int64(values))
    assert np.array_equal(ring.unpack(ring.pack(elements), len(values)), elements)
    noisy = elements + ring.dtype.type((1 << ring.bits) % (1 << 8 * ring.dtype.itemsize))
    assert ring.pack(noisy) == ring.pack(elements)


@settings(deadline=None)
@given(st.data(), st.integers(2, 12), st.integers(1, 300), st.integers(2, 16))
def test_extreme_weighted_sums_are_exact(draw, members, weight_cap, value_bits):
    """Masks cancel; the sum over the ring is the sum of integers, at the largest values and weights too."""
    ring = Ring(Ring.bits_for(members, weight_cap, value_bits))
    largest = 2 ** (value_bits - 1)
    value = st.integers(-largest, largest) | st.sampled_from([-largest, largest])
    vectors = [draw.draw(st.lists(value, min_size=3, max_size=3)) for _ in range(members)]
    weights = [draw.draw(st.integers(1, weight_cap) | st.just(weight_cap)) for _ in range(members)]
    total = np.zeros(4, ring.dtype)
    for member, (vector, weight) in enumerate(zip(vectors, weights, strict=True)):
        share = ring.lift(int64([weight * v for v in vector] + [weight]))
        seeds = {other: bytes([*sorted((member, other))]) * 16 for other in range(members) if other != member}
        add_masks(share, (s for o, s in seeds.items() if o > member), (s for o, s in seeds.items() if o < member))
        total += ring.unpack(ring.pack(share), 4)
    wanted = [sum(w * v[place] for w, v in zip(weights, vectors, strict=True)) for place in range(3)]
    assert ring.centre(total).tolist() == [*wanted, sum(weights)]


@given(
    st.lists(SEEDS, max_size=5), st.lists(SEEDS, max_size=5), st.integers(0, 40), st.sampled_from(["u2", "u4", "u8"])
)
def test_masks_add_up_and_cancel_in_any_order(plus, minus, count, dtype):
    vector = np.zeros(count, dtype)
    add_masks(vector, plus, minus)
    wanted = sum((expand(seed, count, dtype) for seed in plus), np.zeros(count, dtype))
    wanted = wanted - sum((expand(seed, count, dtype) for seed in minus), np.zeros(count, dtype))
    assert np.array_equal(vector, wanted)
    add_masks(vector, minus, plus)
    assert not vector.any()


@given(SEEDS, st.integers(0, 40), st.integers(0, 40))
def test_a_longer_mask_begins_with_the_shorter(seed, count, more):
    assert np.array_equal(expand(seed, count + more, np.uint32)[:count], expand(seed, count, np.uint32))


METRICS = st.floats(0, 2**24, exclude_max=True) | st.sampled_from([0.0, 2.0**24 - 2**-29, 2**-17, 1.0])


@given(st.lists(st.tuples(METRICS, METRICS, st.integers(1, 255)), min_size=1, max_size=20), st.integers(2, 62))
def test_metrics_are_the_weighted_means_of_the_rounded_metrics(devices, value_bits):
    value_bits = min(value_bits, 45)  # 20 devices of weight 255 within int64
    codec = MetricCodec(("a", "b"), value_bits)
    total, weight = np.zeros(codec.length, np.int64), sum(w for _, _, w in devices)
    for a, b, w in devices:
        total += w * codec.encode({"a": a, "b": b})
    means = codec.decode(total, weight)
    for place, name in enumerate(("a", "b")):
        exact = sum(device[2] * _rounded(device[place]) for device in devices) / weight
        assert means[name] == float(exact)
        plain = math.fsum(device[2] * device[place] for device in devices) / weight
        assert abs(means[name] - plain) <= 2**-16 + 1e-9 * plain


def _rounded(value):
    return Fraction(min(round(Fraction(value) * 2**16), 2**40 - 1), 2**16)


@settings(deadline=None)
@given(st.data(), st.binary(min_size=32, max_size=32), st.integers(1, 20))
def test_any_threshold_of_shares_gives_the_secret(draw, secret, holders):
    threshold = draw.draw(st.integers(1, holders))
    shares = split(secret, threshold, holders)
    chosen = draw.draw(st.permutations(range(1, holders + 1)))[:threshold]
    assert combine({holder: shares[holder - 1] for holder in chosen}, threshold) == secret


ELEMENTS = st.integers(0, PRIME).map(lambda number: number.to_bytes(33, "big"))
HOLDERS = st.integers(-1, 70_000) | st.integers(1, 5)


@settings(deadline=None)
@given(st.dictionaries(HOLDERS, ELEMENTS | st.binary(max_size=34), max_size=6), st.integers(-1, 6))
def test_any_shares_give_a_secret_or_a_refusal(shares, threshold):
    with suppress(SecAggError):
        assert len(combine(shares, threshold)) == 32
