"""Clipping without per-example gradients, against gradients taken one example at a time."""

import math
from typing import Any

import pytest
import torch
from example_models import MODELS
from small_cnn import images, micro_batches
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedmesh.privacy.clipping import add_parts
from fedmesh.privacy.example_model import ExampleModel, summed_cross_entropy
from fedmesh.privacy.ghost import factors, in_blocks, law, pays, weight_order
from fedmesh.privacy.layer_parts import Call, _Ghost, _Made, _Seen, layer_parts, row_size
from fedmesh.quantization import calibrate, prepare
from fedmesh.quantization.layers import QuantizedConv1d, QuantizedConv2d, QuantizedLinear

CLIP = 0.4


def clipped_sum(model: nn.Module, x: Tensor, y: Tensor, clip: float = CLIP) -> Tensor:
    examples = ExampleModel(model, summed_cross_entropy, 1 << 27)
    total = torch.zeros(examples.size)
    with examples.resident():
        examples.add_clipped(total, x, y, clip)
    examples.close()
    return total


def twin(model: nn.Module, x: Tensor, y: Tensor, clip: float = CLIP) -> Tensor:
    """The slow way, in float64; examples that are not finite count as zero."""
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for row in micro_batches(model.train(), x, y).double():
        if torch.isfinite(row).all():
            total += row * min(1.0, clip / float(row.norm()))
    return total


@pytest.mark.parametrize("clip", [1e-3, CLIP, 1e3])
@pytest.mark.parametrize("name", MODELS)
def test_the_clipped_sum_equals_its_slow_twin(name: str, clip: float) -> None:
    model = MODELS[name]()
    x, y = images(11)
    wanted = twin(model, x, y, clip)
    got = clipped_sum(model, x, y, clip).double()
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.norm()))


@pytest.mark.parametrize("scales", ["power-of-two", "free"])
def test_the_clipped_sum_of_a_quantized_model_equals_its_slow_twin(scales: str) -> None:
    """Layers at many and at few positions, with their weights and inputs rounded."""
    x, y = images(9)
    model = prepare(MODELS["pyramid"]().eval(), x[:1], scales=scales)
    calibrate(model, [torch.randn(64, 1, 8, 8)])
    kinds = {type(module) for module in model.modules()}
    assert {QuantizedConv2d, QuantizedLinear} <= kinds
    torch.testing.assert_close(clipped_sum(model, x, y).double(), twin(model, x, y), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("name", MODELS)
def test_examples_that_are_not_finite_count_as_zero(name: str, value: float) -> None:
    x, y = images(8)
    model = MODELS[name]()
    x[2], x[5, 0, 0, :3] = value, value
    keep = torch.tensor([i for i in range(8) if i not in {2, 5}])
    wanted, got = twin(model, x[keep], y[keep]), clipped_sum(model, x, y)
    assert torch.isfinite(got).all()
    rest = got.double() - wanted
    allowed = 2 * CLIP if math.isfinite(value) else 0.0  # a number that is only huge may still add up to the clip
    assert float(rest.norm()) <= allowed * (1 + 1e-5) + 1e-5


def test_what_no_position_covers_does_not_matter() -> None:
    """The stride leaves the last row and column out: infinite there, the example is as good as any."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3, stride=4), nn.Flatten(), nn.Linear(12, 5))
    x, y = images(4)
    wanted = clipped_sum(model, x, y)
    x[1, :, 7], x[2, :, :, 7] = float("inf"), float("nan")
    assert torch.equal(clipped_sum(model, x, y), wanted)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(20, 7), (20,)),
    "sequence": (nn.Linear(12, 9), (3, 12)),
    "two axes": (nn.Linear(12, 9), (2, 3, 12)),
    "conv1d": (nn.Conv1d(4, 6, 5, stride=2, padding=3, dilation=2), (4, 31)),
    "conv1d pixels": (nn.Conv1d(20, 6, 1), (20, 9)),
    "conv2d": (nn.Conv2d(8, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(1, 2)), (8, 7, 9)),
    "thin": (nn.Conv2d(1, 6, 3, padding=1), (1, 9, 6)),
    "one position": (nn.Conv2d(9, 6, 3), (9, 3, 3)),
    "grouped": (nn.Conv2d(8, 12, 3, groups=4, padding=1), (8, 5, 6)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6, stride=2), (6, 7, 7)),
    "depthwise1d": (nn.Conv1d(6, 6, 3, groups=6), (6, 12)),
}


def call_of(name: str, count: int = 5) -> tuple[Any, Call, Tensor]:
    """The layer, one call of it, and its weight's gradients one example at a time, [B, *weight]."""
    layer, shape = LAYERS[name]
    x = torch.randn(count, *shape)
    output = layer(x)
    backprops = torch.randn_like(output)
    rows = [torch.autograd.grad(layer(x[i : i + 1]), layer.weight, backprops[i : i + 1])[0] for i in range(count)]
    return layer, Call(layer, [x], backprops), torch.stack(rows)


@pytest.mark.parametrize("name", LAYERS)
def test_factors_are_those_of_the_gradient(name: str) -> None:
    layer, call, rows = call_of(name)
    made = factors(layer, call.activations[0], call.backprops, torch.float64)
    products = torch.stack([weight_order(layer, one) for one in made.products()])
    torch.testing.assert_close(products, rows.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.norms(), products.flatten(1).norm(dim=1), rtol=1e-5, atol=0)
    assert (made.norms() >= products.flatten(1).norm(dim=1)).all()
    weights = torch.rand(5, dtype=torch.float64)
    summed = weight_order(layer, made.weighted_sum(weights))
    torch.testing.assert_close(summed, torch.einsum("b,b...->...", weights, products))


@pytest.mark.parametrize("way", [_Ghost, _Made])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_both_ways_give_the_same_norms_and_sums(name: str, calls: int, way: Any) -> None:
    layer, _, _ = call_of(name)
    made = [call_of(name) for _ in range(calls)]
    rows = torch.stack([one[2] for one in made]).sum(0)
    total = torch.ones_like(layer.weight)
    part = way(_Seen(layer, [one[1] for one in made]), total)
    torch.testing.assert_close(part.norms()[0], rows.flatten(1).norm(dim=1), rtol=2e-5, atol=0)
    part.clear(torch.tensor([False, True, False, False, True]))
    weights = torch.rand(5)
    part.add(weights)
    rows[[1, 4]] = 0
    torch.testing.assert_close(total.detach(), 1 + torch.einsum("b,b...->...", weights, rows), rtol=1e-4, atol=1e-4)


def test_parts_that_cancel_are_clipped_all_the_same() -> None:
    """At two positions the same backprops with opposite signs on inputs that differ in their last bit.

    The gradient is tiny, its two parts are huge, and the sum keeps their rounding: more than the clip, were it not
    counted with the norm.
    """
    layer = nn.Linear(64, 64)
    big = torch.randn(1, 1, 64) * 1e9
    x = torch.cat([big, torch.nextafter(big, big + torch.inf)], dim=1)
    up = torch.randn(1, 1, 64)
    call = Call(layer, [x], torch.cat([up, -up], dim=1))
    alone = torch.zeros_like(layer.weight)
    part = _Ghost(_Seen(layer, [call]), alone)
    (norm,) = part.norms()
    part.add((0.5 / (norm + 1e-6)).clamp(max=1.0))
    assert float(alone.double().norm()) <= 0.5
    crowd = torch.randn(15, 2, 64) * 1e9
    call = Call(layer, [torch.cat([x, crowd])], torch.cat([call.backprops, torch.zeros(15, 2, 64)]))
    total = torch.zeros_like(layer.weight)
    part = _Ghost(_Seen(layer, [call]), total)
    part.add((0.5 / (part.norms()[0] + 1e-6)).clamp(max=1.0))
    assert float(total.double().norm()) <= 0.5


@pytest.mark.parametrize(("value", "backprop"), [(1e19, 3e-22), (1e-22, 1.5e19), (1e19, 1e-18)])
def test_a_tiny_side_of_a_huge_one_is_clipped_all_the_same(value: float, backprop: float) -> None:
    """In float32 the squares of one side vanish, or keep a digit or two, and the gradient is longer than the clip."""
    layer = nn.Linear(1, 8, bias=False)
    total = torch.zeros_like(layer.weight)
    call = Call(layer, [torch.full((1, 1), value)], torch.full((1, 8), backprop))
    with torch.no_grad():
        add_parts(layer_parts([call], {layer.weight: total}, lambda call: {}), 1e-3)
    assert 0.99e-3 < float(total.double().norm()) <= 1e-3


class Largest(TorchDispatchMode):
    """Remembers the most numbers of any tensor that an operation made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numbers = max(self.numbers, out.untyped_storage().nbytes() // out.element_size())
        return out


def test_wide_layers_make_no_gradient_for_each_example() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 128, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 300),
        nn.ReLU(),
        nn.Linear(300, 5),
    )
    x, y = images(40)
    size = sum(p.numel() for p in model.parameters())
    with Largest() as largest:
        clipped_sum(model, x, y)
    assert largest.numbers < 3 * size  # 40 gradients of the second convolution alone are 19 times all parameters


def test_memory_is_planned_without_the_gradients_that_are_not_made() -> None:
    seen = [Call(layer, [x], layer(x)) for layer, x in [(nn.Linear(500, 400), torch.zeros(1, 500))]]
    assert row_size(seen) == 0
    seen = [Call(layer, [x], layer(x)) for layer, x in [(nn.Conv2d(1, 4, 3), torch.zeros(1, 1, 30, 30))]]
    assert row_size(seen) == 40


@pytest.mark.parametrize(
    ("positions", "inputs", "outputs", "ghost"),
    [
        (1, 3, 2, True),  # a linear layer, always
        (64, 108, 24, False),  # digits_cnn, second convolution
        (100, 150, 16, False),  # lenet, second
        (32, 160, 64, False),  # har_cnn, second
        (16, 320, 96, True),  # har_cnn, third
        (16, 1152, 128, True),  # ResNet-18 on 32x32, second half
        (3136, 576, 64, False),  # ResNet-18 on 224x224, first block
        (49, 4608, 512, True),  # its last
    ],
)
def test_each_layer_takes_the_way_that_was_measured_to_be_cheaper(
    positions: int, inputs: int, outputs: int, *, ghost: bool
) -> None:
    assert pays(positions, inputs, outputs) == ghost


def test_frozen_parameters_have_no_part() -> None:
    model = MODELS["pyramid"]()
    x, y = images(5)
    full = twin(model, x, y, 1e6)
    model[2].weight.requires_grad_(requires_grad=False)
    model[9].bias.requires_grad_(requires_grad=False)
    flags = torch.cat([torch.full((p.numel(),), p.requires_grad) for p in model.parameters()])
    torch.testing.assert_close(clipped_sum(model, x, y, 1e6).double(), full[flags], rtol=1e-4, atol=1e-5)


def test_the_laws_of_layers_are_known_by_their_own_type_or_word() -> None:
    class Own(nn.Linear):
        """May compute anything."""

    assert law(nn.Linear(2, 2)) == "linear"
    assert law(nn.Conv1d(1, 1, 1)) == law(nn.Conv2d(1, 1, 1)) == "convolution"
    assert law(Own(2, 2)) is None
    assert law(nn.Conv2d(1, 1, 3, padding="same")) is None
    assert law(nn.GroupNorm(1, 2)) is None
    assert QuantizedLinear.gradient_law == "linear"
    assert QuantizedConv1d.gradient_law == QuantizedConv2d.gradient_law == "convolution"


def test_blocks_are_the_whole_batch() -> None:
    for positions in (1, 1000, 10**6):
        covered = [i for block in in_blocks(37, positions, 100) for i in range(37)[block]]
        assert covered == list(range(37))


def test_no_calls_have_no_parts() -> None:
    assert layer_parts([], {}, lambda call: {}) == []
