"""The histogram loses nothing under threads, and counts as Prometheus does."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from fedmesh.inference.latency import BUCKETS_S, Histogram


def test_bounds_are_inclusive_and_grow() -> None:
    histogram = Histogram()
    for bound in BUCKETS_S:
        histogram.observe(bound)
    histogram.observe(BUCKETS_S[-1] * 2)
    observed = histogram.read()
    assert observed.counts == (1,) * (len(BUCKETS_S) + 1)
    assert observed.cumulative == tuple(range(1, len(BUCKETS_S) + 2))
    assert observed.seconds == pytest.approx(sum(BUCKETS_S) + 20)
    assert list(BUCKETS_S) == sorted(set(BUCKETS_S))


def test_what_share_kept_which_bound() -> None:
    histogram = Histogram()
    assert histogram.read().at_most(0.5) == 0
    for _ in range(98):
        histogram.observe(0.002)
    histogram.observe(0.3)
    histogram.observe(99)
    observed = histogram.read()
    assert observed.at_most(0.5) == 0.0025
    assert observed.at_most(0.99) == 0.5
    assert observed.at_most(1) == float("inf")


def test_none_is_lost_under_threads() -> None:
    histogram = Histogram()

    def many(_: int) -> None:
        for _ in range(20_000):
            histogram.observe(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(many, range(8)))
    assert histogram.read().count == 160_000
    assert histogram.read().seconds == pytest.approx(160)
