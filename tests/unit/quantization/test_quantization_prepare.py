import numpy as np
import pytest
import torch
from quantization_models import IMAGES, inputs, quantized, seeded, small_cnn
from torch import nn
from torch.nn import functional as F

from fedmesh.errors import ConfigError, UnsupportedLayerError
from fedmesh.quantization import arrays_of, fake_quantization, load_arrays, prepare, ranges_of
from fedmesh.quantization.layers import Quantizer, WeightedLayer
from fedmesh.testing.architectures import har_cnn, lenet, mobilenet_v2, randomize_norms, resnet18


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lenet, (3, 32, 32)),
        (har_cnn, (9, 128)),
        (lambda: resnet18(10, 8), (3, 32, 32)),
        (lambda: mobilenet_v2(10, 0.25), (3, 32, 32)),
    ],
    ids=["lenet", "har", "resnet18", "mobilenet-v2"],
)
def test_the_float_function_is_the_model_up_to_folding(build, shape):
    model = seeded(build)
    randomize_norms(model, torch.Generator().manual_seed(3))
    model.eval()
    graph = prepare(model, torch.zeros(1, *shape))
    fake_quantization(graph, False)
    x = inputs(8, *shape)
    with torch.no_grad():
        wanted = model(x)
        assert torch.allclose(graph(x), wanted, atol=1e-5 * float(wanted.abs().max()) + 1e-6)


def test_the_graph_has_no_buffers_and_float32_parameters_in_the_order_of_use():
    graph = prepare(small_cnn(), torch.zeros(1, *IMAGES))
    assert list(graph.buffers()) == []
    assert [name for name, _ in graph.named_parameters()] == ["0.weight", "0.bias", "5.weight", "5.bias"]
    assert {p.dtype for p in graph.parameters()} == {torch.float32}


def test_the_model_is_not_touched():
    model = small_cnn().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantized(model, *IMAGES)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_quantizers_stand_where_int8_needs_them():
    graph = quantized(seeded(lambda: resnet18(10, 8)), 3, 32, 32)
    quantizers = [m for m in graph.modules() if isinstance(m, Quantizer)]
    layers = [m for m in graph.modules() if isinstance(m, WeightedLayer)]
    # input, stem, 8 blocks of (relu, branch, sum), 3 downsamplings, the global pool
    assert len(quantizers) == 1 + 1 + 8 * 3 + 3 + 1
    assert len(layers) == 21
    assert sum(q.rectifier == "relu" for q in quantizers) == 1 + 8 * 2


class _Functional(nn.Module):
    """The small CNN in functional spelling."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = layers[0], layers[1], layers[5]

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        x = F.dropout(x, 0.5, training=self.training)
        return self.fc(x.view(x.size(0), -1))


def test_spelling_does_not_matter():
    layers = seeded(small_cnn)
    one, two = quantized(layers, *IMAGES), quantized(_Functional(layers), *IMAGES)
    x = inputs(16, *IMAGES)
    assert torch.equal(one(x), two(x))


class _Spellings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding="valid")
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = F.adaptive_avg_pool2d(x, 4)
        x = F.relu6(self.b(x))
        x = x + x
        x = torch.max_pool2d(x, 2, padding=1).contiguous()
        return self.fc(torch.mean(x, dim=[-2, -1]))


def test_other_spellings_are_the_same_function():
    model = seeded(_Spellings)
    graph = prepare(model, torch.zeros(1, *IMAGES))
    fake_quantization(graph, False)
    x = inputs(4, *IMAGES)
    assert torch.allclose(graph(x), model(x), atol=1e-6)


def test_arrays_go_out_and_in_without_change():
    graph = quantized(seeded(small_cnn), *IMAGES)
    arrays = arrays_of(graph)
    other = quantized(seeded(small_cnn, seed=5), *IMAGES)
    pointers = [p.data_ptr() for p in other.parameters()]
    load_arrays(other, arrays)
    assert [p.data_ptr() for p in other.parameters()] == pointers
    assert all(np.array_equal(value, arrays[name]) for name, value in arrays_of(other).items())
    arrays["5.bias"][:] = 0  # a copy: the model keeps its own
    assert np.any(arrays_of(graph)["5.bias"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("5.bias"), "missing"),
        (lambda a: a.update(extra=np.zeros(2, np.float32)), "unknown"),
        (lambda a: a.update({"5.bias": np.zeros((5, 1), np.float32)}), "shape"),
        (lambda a: a.update({"5.bias": np.full(5, np.nan, np.float32)}), "finite"),
    ],
)
def test_arrays_of_another_model_are_refused_and_nothing_is_written(change, says):
    graph = quantized(small_cnn(), *IMAGES)
    before = arrays_of(graph)
    arrays = {name: value + 1 for name, value in before.items()}
    change(arrays)
    with pytest.raises(ConfigError, match=says):
        load_arrays(graph, arrays)
    assert all(np.array_equal(value, before[name]) for name, value in arrays_of(graph).items())


def test_a_model_without_ranges_says_what_to_call():
    graph = prepare(small_cnn(), torch.zeros(1, *IMAGES))
    with pytest.raises(ConfigError, match="calibrate"):
        graph(inputs(2, *IMAGES))
    with pytest.raises(ConfigError, match="calibrate"):
        ranges_of(graph)


def test_a_state_dict_carries_the_grids():
    graph = quantized(seeded(small_cnn), *IMAGES)
    other = prepare(small_cnn(), torch.zeros(1, *IMAGES))
    other.load_state_dict(graph.state_dict())
    x = inputs(8, *IMAGES)
    assert torch.equal(other(x), graph(x))


class _Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.fc(x))


class _Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x + self.shift


class _Call(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


UNSUPPORTED = [
    (nn.GroupNorm(1, 4), (4, 8, 8), "GroupNorm.*BatchNorm"),
    (nn.GELU(), (4,), "GELU.*ReLU"),
    (nn.Softmax(1), (4,), "Softmax.*logits"),
    (nn.LSTM(4, 4), (8, 4), "."),
    (nn.ConvTranspose2d(4, 4, 3), (4, 8, 8), "ConvTranspose2d.*Conv2d"),
    (nn.BatchNorm2d(4), (4, 8, 8), "batch norm.*follow"),
    (nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), (4, 8, 8), "running statistics"),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (4, 8, 8), "circular.*zeros"),
    (nn.MaxPool2d(3, ceil_mode=True), (4, 8, 8), "ceil_mode"),
    (nn.AvgPool2d(3, padding=1), (4, 8, 8), "padding"),
    (nn.AdaptiveAvgPool2d(3), (4, 8, 8), "uneven windows"),
    (nn.Linear(8, 2), (4, 8), "flatten its input"),
    (nn.Flatten(2), (4, 8, 8), "flatten all axes"),
    (_Branches(), (4,), "cannot be traced"),
    (_Twice(), (4,), "used twice"),
    (_Constant(), (4,), "shift"),
    (_Call(torch.sigmoid), (4,), "sigmoid"),
    (_Call(lambda x: x * x), (4,), "mul"),
    (_Call(lambda x: x + 1), (4,), "adds something else"),
    (_Call(lambda x: x.view(-1, 2, 2)), (4,), "only flattening"),
    (_Call(lambda x: x.mean()), (4, 8, 8), "."),
    (_Call(lambda x: x.mean(1)), (4, 8, 8), "only over all positions"),
    (_Call(lambda x: (x, x)), (4,), "one tensor of logits"),
    (_Call(lambda x: torch.add(x, x, alpha=2)), (4,), "plain x . y"),
]


@pytest.mark.parametrize(("model", "shape", "says"), UNSUPPORTED, ids=[str(i) for i in range(len(UNSUPPORTED))])
def test_what_has_no_int8_kernel_is_refused_by_name(model, shape, says):
    with pytest.raises(UnsupportedLayerError, match=says):
        prepare(model, torch.zeros(1, *shape))


def test_wrong_arguments_are_the_operators_mistake():
    with pytest.raises(ConfigError, match="does not run on an input of shape"):
        prepare(small_cnn(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="use 'power-of-two' or 'free'"):
        prepare(small_cnn(), torch.zeros(1, *IMAGES), scales="int4")
