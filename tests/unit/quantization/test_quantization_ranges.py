import copy
import math

import pytest
import torch
from quantization_models import IMAGES, inputs, quantized, seeded, small_cnn
from torch import nn

from fedmesh.errors import ConfigError, DataError
from fedmesh.quantization import calibrate, load_ranges, prepare, ranges_of
from fedmesh.quantization.grids import ActivationGrid, power_of_two_at_least
from fedmesh.quantization.layers import Quantizer


def test_ranges_are_powers_of_two_with_even_zero_points_and_zero_after_relu():
    ranges = ranges_of(quantized(seeded(small_cnn), *IMAGES))
    assert list(ranges) == ["input", "_2"]
    assert all(math.frexp(scale)[0] == 0.5 and zero % 2 == 0 for scale, zero in ranges.values())
    assert 64 < ranges["input"][1] < 192  # normal inputs: both signs
    assert ranges["_2"][1] == 0


def test_ranges_go_out_and_in():
    one = quantized(seeded(small_cnn), *IMAGES)
    other = prepare(seeded(small_cnn), torch.zeros(1, *IMAGES))
    load_ranges(other, ranges_of(one))
    x = inputs(8, *IMAGES)
    assert ranges_of(other) == ranges_of(one)
    assert torch.equal(other(x), one(x))


def test_calibration_is_frozen_and_depends_on_its_data_alone():
    graph = quantized(seeded(small_cnn), *IMAGES)
    before = ranges_of(graph)
    graph.train()
    graph(100 * inputs(8, *IMAGES))
    assert ranges_of(graph) == before
    assert calibrate(graph, [inputs(64, *IMAGES, seed=7)]) == before
    assert calibrate(graph, iter(inputs(64, *IMAGES, seed=7).split(16))) == before
    assert calibrate(graph, [10 * inputs(64, *IMAGES, seed=7)]) != before
    assert not any(module._forward_pre_hooks for module in graph.modules())


def test_a_lone_outlier_does_not_set_the_range():
    graph = prepare(nn.Linear(1000, 2), torch.zeros(1, 1000))
    x = inputs(64, 1000).clamp(-1, 1)
    x[0, 0] = 3.9  # covering it would double the scale for 63999 others
    scale, zero_point = calibrate(graph, [x])["input"]
    assert scale < (3.9 + 1) / 255
    assert -zero_point * scale <= -1


def test_an_activation_that_is_always_zero_has_a_grid():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].bias.fill_(-1e6)
    graph = quantized(model, 4)
    assert torch.isfinite(graph(inputs(8, 4))).all()


@pytest.mark.parametrize(
    ("batches", "error", "says"),
    [
        ([], ConfigError, "no examples"),
        ([torch.zeros(0, *IMAGES)], ConfigError, "no examples"),
        ([torch.full((2, *IMAGES), math.nan)], DataError, "not finite"),
        ([torch.full((2, *IMAGES), math.inf)], DataError, "not finite"),
        ([torch.full((2, *IMAGES), 3e38)], DataError, "reaches 3e"),
    ],
)
def test_calibration_data_that_cannot_be_used_are_refused(batches, error, says):
    graph = prepare(small_cnn(), torch.zeros(1, *IMAGES))
    with pytest.raises(error, match=says):
        calibrate(graph, batches)
    assert all(module.enabled for module in graph.modules() if isinstance(module, Quantizer))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("input", (0.3, 128), "power of two"),
        ("input", (0.25, 127), "power of two"),
        ("input", (0.0, 128), "positive scale"),
        ("input", (-0.25, 128), "positive scale"),
        ("input", (math.nan, 128), "positive scale"),
        ("input", (math.inf, 128), "positive scale"),
        ("input", (2.0**-100, 128), "positive scale"),
        ("input", ("0.25", 128), "positive scale"),
        ("input", (0.25, 256), "zero point in"),
        ("input", (0.25, -2), "zero point in"),
        ("input", (0.25, 2.0), "zero point in"),
        ("input", (0.25, True), "zero point in"),
        ("_2", (0.25, 2), "ReLU"),
        ("other", (0.25, 0), "another model"),
    ],
)
def test_ranges_that_are_no_grid_of_the_model_are_refused(name, value, says):
    graph = quantized(seeded(small_cnn), *IMAGES)
    with pytest.raises(ConfigError, match=says):
        load_ranges(graph, {**ranges_of(graph), name: value})


def test_missing_ranges_are_named():
    graph = quantized(small_cnn(), *IMAGES)
    with pytest.raises(ConfigError, match=r"missing \['_2'\]"):
        load_ranges(graph, {"input": (0.25, 0)})


def test_a_moved_grid_moves_the_bias_grid_with_it():
    graph = quantized(seeded(small_cnn), *IMAGES)
    layer = graph.get_submodule("5")
    load_ranges(graph, {**ranges_of(graph), "_2": (0.5, 0)})
    _, bias, scale = layer.integers()
    assert torch.equal(bias * scale * 0.5, layer.quantized()[1])


@pytest.mark.parametrize("value", [1.0, 1.5, 0.75, 2.0**-20, 3e-5, 255 / 256])
def test_power_of_two_at_least(value):
    found = power_of_two_at_least(value)
    assert found / 2 < value <= found
    assert math.frexp(found)[0] == 0.5


def test_the_ends_of_a_grid():
    grid = ActivationGrid("a", "power-of-two", signed=True)
    grid.set(0.5, 100)
    assert (grid.low, grid.high) == (-50.0, 77.5)


def test_a_copy_has_grids_of_its_own():
    graph = quantized(seeded(small_cnn), *IMAGES)
    other = copy.deepcopy(graph)
    before = ranges_of(graph)
    load_ranges(other, {**before, "_2": (0.5, 0)})
    assert ranges_of(graph) == before
    assert other.get_submodule("5").input_grid.scale == 0.5
    assert graph.get_submodule("5").input_grid.scale == before["_2"][0]
