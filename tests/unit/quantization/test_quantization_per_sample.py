import pytest
import torch
from quantization_models import IMAGES, inputs, quantized, seeded, small_cnn
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from fedmesh.quantization import prepare
from fedmesh.quantization.layers import WeightedLayer
from fedmesh.testing.architectures import har_cnn, lenet, mobilenet_v2, resnet18

MODELS = {
    "small": (small_cnn, IMAGES),
    "lenet": (lenet, (3, 32, 32)),
    "har": (har_cnn, (9, 128)),
    "resnet18": (lambda: resnet18(5, 4), (3, 32, 32)),
    "mobilenet-v2": (lambda: mobilenet_v2(5, 0.1), (3, 32, 32)),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(96, 5, bias=False),
        ),
        (4, 9, 9),
    ),
    "depthwise-1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 6, 5, stride=2, padding=3, groups=3), nn.ReLU6(), nn.Flatten(), nn.Linear(72, 5)
        ),
        (3, 21),
    ),
}  # fmt: skip


def _data(shape, count=6):
    return inputs(count, *shape), torch.arange(count) % 5


def _micro_batches(graph, x, y):
    """The obvious way: one backward for each example."""
    rows = []
    for index in range(len(x)):
        loss = F.cross_entropy(graph(x[index : index + 1]), y[index : index + 1])
        rows.append(torch.autograd.grad(loss, list(graph.parameters())))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _by_hooks(graph, x, y):
    """What a hook-based DP-SGD does: keep inputs and output gradients of each layer, then ask the layer."""
    seen, found, handles = {}, {}, []
    for layer in (m for m in graph.modules() if isinstance(m, WeightedLayer)):

        def forward(module, args, output):
            seen[module] = args[0].detach()
            output.register_hook(lambda g, module=module: found.update(module.per_sample_gradients([seen[module]], g)))

        handles.append(layer.register_forward_hook(forward))
    F.cross_entropy(graph(x), y, reduction="sum").backward()
    for handle in handles:
        handle.remove()
    return [found[parameter] for parameter in graph.parameters()]


def _close(got, want):
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=0, atol=2e-6 * float(other.abs().max()) + 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_per_sample_gradients_are_those_of_micro_batches(name):
    build, shape = MODELS[name]
    graph = quantized(seeded(build), *shape)
    x, y = _data(shape)
    _close(_by_hooks(graph, x, y), _micro_batches(graph, x, y))


@pytest.mark.parametrize("name", ["lenet", "grouped"])
def test_they_agree_in_float64_to_the_last_digits(name):
    build, shape = MODELS[name]
    graph = quantized(seeded(build), *shape, scales="free").double()
    x, y = _data(shape)
    x = x.double()
    for one, other in zip(_by_hooks(graph, x, y), _micro_batches(graph, x, y), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", MODELS)
def test_torch_func_agrees_with_micro_batches(name):
    build, shape = MODELS[name]
    graph = quantized(seeded(build), *shape)
    x, y = _data(shape)
    parameters = {name: p.detach() for name, p in graph.named_parameters()}

    def loss(values, one, label):
        return F.cross_entropy(functional_call(graph, values, (one[None],)), label[None])

    got = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    _close(list(got.values()), _micro_batches(graph, x, y))


@pytest.mark.parametrize("scales", ["power-of-two", "free"])
def test_models_of_several_clients_train_side_by_side(scales):
    graph = quantized(seeded(small_cnn), *IMAGES, scales=scales)
    x, y = _data(IMAGES)
    generator = torch.Generator().manual_seed(2)
    clients = {
        name: torch.stack([p.detach() + 0.1 * torch.randn(p.shape, generator=generator) for _ in range(3)])
        for name, p in graph.named_parameters()
    }

    def loss(values, batch, labels):
        return F.cross_entropy(functional_call(graph, values, (batch,)), labels)

    got = vmap(grad(loss), (0, None, None))(clients, x, y)
    for client in range(3):
        own = {name: value[client].clone().requires_grad_() for name, value in clients.items()}
        loss(own, x, y).backward()
        _close([got[name][client] for name in own], [value.grad for value in own.values()])


@pytest.mark.parametrize("name", ["small", "har", "grouped"])
def test_an_empty_batch_has_no_gradients(name):
    build, shape = MODELS[name]
    graph = quantized(seeded(build), *shape)
    for layer in (m for m in graph.modules() if isinstance(m, WeightedLayer)):
        kernel = layer.weight.shape[2:]
        x = torch.zeros(0, layer.weight.shape[1] * getattr(layer, "groups", 1), *(9 for _ in kernel))
        backprops = torch.zeros(0, len(layer.weight), *(9 for _ in kernel))
        for parameter, gradient in layer.per_sample_gradients([x], backprops).items():
            assert gradient.shape == (0, *parameter.shape)


def test_frozen_parameters_have_no_gradients():
    layer = quantized(seeded(small_cnn), *IMAGES).get_submodule("5")
    layer.weight.requires_grad_(False)
    assert list(layer.per_sample_gradients([torch.zeros(2, 96)], torch.zeros(2, 5))) == [layer.bias]


def test_the_gradient_is_the_float_models_where_nothing_is_clipped():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    graph = prepare(model, torch.zeros(1, 6))
    # Fine grids: the quantized function is close to the float one, and so must be its gradient.
    from fedmesh.quantization import calibrate

    x, y = _data((6,), 32)
    calibrate(graph, [x])
    F.cross_entropy(graph(x), y).backward()
    F.cross_entropy(model(x), y).backward()
    for one, other in zip(graph.parameters(), model.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=0.02)
