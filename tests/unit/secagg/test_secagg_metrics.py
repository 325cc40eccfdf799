"""Metrics in the secure sum: their digits, and what is no metric."""

import math

import numpy as np
import pytest

from fedmesh.errors import SecAggError
from fedmesh.secagg.metrics import MetricCodec


def test_digits_by_hand():
    codec = MetricCodec(("examples", "loss"), 8)
    assert codec.length == 12
    digits = codec.encode({"loss": 1.5, "examples": 3.0, "accuracy": 0.5})
    assert digits.dtype == np.int64
    assert digits.tolist() == [0, 0, 3 << 2, 0, 0, 0, 0, 0, (3 << 15 >> 14) & 127, 0, 0, 0]
    assert codec.decode(digits, 1) == {"examples": 3.0, "loss": 1.5}


@pytest.mark.parametrize(("value_bits", "length"), [(2, 40), (4, 14), (8, 6), (11, 4), (16, 3), (41, 1), (62, 1)])
def test_digits_are_no_larger_than_codes(value_bits, length):
    codec = MetricCodec(("loss",), value_bits)
    digits = codec.encode({"loss": 2.0**24 - 2**-16})
    assert codec.length == len(digits) == length
    assert 0 <= digits.min() <= digits.max() <= 2 ** (value_bits - 1) - 1


def test_nothing_is_asked_for_and_nothing_is_sent():
    codec = MetricCodec((), 8)
    assert codec.length == 0
    assert codec.encode({"loss": 1.0}).shape == (0,)
    assert codec.decode(np.zeros(0, np.int64), 5) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -1e-300, 2.0**24, 1e300])
def test_what_is_no_metric_is_refused(value):
    with pytest.raises(SecAggError, match="the metric 'loss' is") as refusal:
        MetricCodec(("loss",), 8).encode({"loss": value})
    assert refusal.value.code == "input"


def test_a_missing_metric_is_refused():
    with pytest.raises(SecAggError, match="the metric 'loss' is None") as refusal:
        MetricCodec(("loss",), 8).encode({"examples": 4})
    assert refusal.value.code == "input"


@pytest.mark.parametrize("value", [-0.0, 2**-17, 2.0**24 - 2**-28, 7, np.float32(0.1)])
def test_the_edges_are_metrics(value):
    codec = MetricCodec(("loss",), 8)
    assert codec.decode(codec.encode({"loss": value}), 1)["loss"] == pytest.approx(float(value), abs=2**-16)


@pytest.mark.parametrize(("shape", "weight"), [((6,), 0), ((6,), -1), ((5,), 1), ((7,), 1), ((1, 6), 1), ((), 1)])
def test_a_total_of_another_form_is_refused(shape, weight):
    with pytest.raises(SecAggError, match="6 digits and a positive weight") as refusal:
        MetricCodec(("loss",), 8).decode(np.zeros(shape, np.int64), weight)
    assert refusal.value.code == "input"


@pytest.mark.parametrize("value_bits", [1, 0, -8, 63])
def test_values_have_2_to_62_bits(value_bits):
    with pytest.raises(SecAggError, match="2 to 62") as refusal:
        MetricCodec(("loss",), value_bits)
    assert refusal.value.code == "ring"
