import pytest
import torch
from quantization_models import inputs, quantized, seeded
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from fedmesh.quantization.max_pool import MaxPool2x2
from fedmesh.testing.architectures import lenet


@pytest.mark.parametrize("shape", [(10, 6, 28, 28), (3, 100, 12, 14), (2, 3, 8, 8), (10, 6, 29, 28)])
def test_it_is_torchs_max_pool_with_its_gradient(shape):
    x = inputs(*shape).requires_grad_()
    ours, theirs = MaxPool2x2()(x), F.max_pool2d(x, 2)
    assert torch.equal(ours, theirs)
    upstream = inputs(*theirs.shape, seed=5)
    assert torch.equal(*(torch.autograd.grad(y, x, upstream)[0] for y in (ours, theirs)))


def test_of_equal_values_exactly_one_gets_the_gradient():
    x = torch.randint(0, 2, (10, 6, 28, 28), generator=torch.Generator().manual_seed(0)).float().requires_grad_()
    y = MaxPool2x2()(x)
    upstream = inputs(*y.shape, seed=5)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    windows = gradient.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))
    assert torch.equal(windows.sum((3, 5)), upstream)
    assert int((windows != 0).sum((3, 5)).max()) == 1
    taken = (windows != 0) * x.detach().unflatten(2, (-1, 2)).unflatten(4, (-1, 2))
    assert torch.equal(taken.sum((3, 5)), y.detach())


def test_it_stands_in_prepared_models_and_holds_under_torch_func():
    graph = quantized(seeded(lenet), 3, 32, 32)
    assert sum(isinstance(module, MaxPool2x2) for module in graph.modules()) == 2
    x, y = inputs(10, 3, 32, 32), torch.arange(10)  # large enough for the fast path outside of torch.func
    wanted = torch.autograd.grad(F.cross_entropy(graph(x), y), list(graph.parameters()))
    parameters = {name: torch.stack([p.detach()] * 2) for name, p in graph.named_parameters()}

    def loss(values, batch, labels):
        return F.cross_entropy(functional_call(graph, values, (batch,)), labels)

    got = vmap(grad(loss), (0, None, None))(parameters, x, y)
    for one, other in zip(got.values(), wanted, strict=True):
        assert torch.allclose(one[1], other, atol=1e-5 * float(other.abs().max()))


def test_double_pooling_of_a_prepared_model_is_still_exported(tmp_path):
    from fedmesh.quantization import export_int8, verify

    graph = quantized(
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()), 3, 30, 30
    )
    export_int8(graph, tmp_path / "model.onnx", example=torch.zeros(1, 3, 30, 30))
    verify(graph, tmp_path / "model.onnx", inputs(50, 3, 30, 30))
