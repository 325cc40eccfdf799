"""Layers of K models at once against their slow, obvious twin: each model's layer on its own block of the batch."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedmesh.quantization import calibrate, prepare, stacked
from fedmesh_clients import models

MODELS, EXAMPLES = 4, 3

GEOMETRIES = {
    "3x3": ((5, 4, 3, 3), (7, 6), {"padding": (1, 1)}),
    "no padding": ((5, 4, 3, 3), (7, 6), {}),
    "strided": ((5, 4, 3, 3), (8, 7), {"stride": (2, 2), "padding": (1, 1)}),
    "stride 3, kernel 2": ((5, 4, 2, 2), (10, 8), {"stride": (3, 3)}),
    "dilated": ((5, 4, 3, 3), (9, 9), {"dilation": (2, 3), "padding": (2, 1)}),
    "strided and dilated": ((5, 4, 3, 2), (11, 9), {"stride": (2, 1), "dilation": (3, 2), "padding": (1, 0)}),
    "1x1": ((6, 9, 1, 1), (4, 4), {}),
    "thin": ((6, 1, 3, 3), (8, 8), {"padding": (1, 1)}),
    "thin, strided": ((6, 2, 3, 3), (8, 7), {"padding": (1, 1), "stride": (2, 2)}),
    "sequence": ((6, 9, 5), (16,), {"stride": (2,), "padding": (2,)}),
    "depthwise": ((6, 1, 3, 3), (6, 6), {"padding": (1, 1), "groups": 6}),
    "grouped sequence": ((6, 2, 3), (9,), {"groups": 3, "padding": (1,)}),
    "large enough for one model at a time": ((3, 40, 3, 3), (17, 17), {"padding": (1, 1)}),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("input_gradient", [True, False])
def test_stacked_convolutions_are_those_of_each_model(name: str, with_bias: bool, input_gradient: bool) -> None:
    shape, size, options = GEOMETRIES[name]
    rank = len(size)
    stride = options.get("stride", (1,) * rank)
    padding = options.get("padding", (0,) * rank)
    dilation = options.get("dilation", (1,) * rank)
    groups = options.get("groups", 1)
    x = draw(MODELS * EXAMPLES, shape[1] * groups, *size).requires_grad_(input_gradient)
    weight = draw(MODELS, *shape, seed=1).requires_grad_()
    bias = draw(MODELS, shape[0], seed=2).requires_grad_() if with_bias else None
    conv = torch.conv1d if rank == 1 else torch.conv2d
    blocks = [
        conv(block, weight[k], None if bias is None else bias[k], stride, padding, dilation, groups)
        for k, block in enumerate(x.split(EXAMPLES))
    ]
    want = torch.cat(blocks)
    got = stacked.convolution(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    torch.testing.assert_close(got, want)
    upstream = draw(*want.shape, seed=3)
    inputs = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
    for mine, theirs in zip(
        torch.autograd.grad(got, inputs, upstream), torch.autograd.grad(want, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("with_bias", [True, False])
def test_stacked_linear_layers_are_those_of_each_model(with_bias: bool) -> None:
    x, weight = draw(MODELS * EXAMPLES, 5), draw(MODELS, 2, 5, seed=1)
    bias = draw(MODELS, 2, seed=2) if with_bias else None
    want = torch.cat(
        [F.linear(block, weight[k], None if bias is None else bias[k]) for k, block in enumerate(x.split(EXAMPLES))]
    )
    torch.testing.assert_close(stacked.linear(x, weight, bias), want)


@pytest.mark.parametrize(("input_shape", "model"), [((1, 8, 8), "digits_cnn"), ((9, 128), "har_cnn")])
def test_under_power_of_two_scales_the_logits_are_those_of_each_model_bit_for_bit(
    input_shape: tuple[int, ...], model: str
) -> None:
    torch_rng = torch.Generator().manual_seed(0)
    examples = torch.randn(MODELS * EXAMPLES, *input_shape, generator=torch_rng)
    network = prepare(getattr(models, model)(input_shape, 5, width=4), examples)
    calibrate(network, [examples])
    stacks = {
        name: parameter.detach() + 0.05 * torch.randn(MODELS, *parameter.shape, generator=torch_rng)
        for name, parameter in network.named_parameters()
    }
    together = torch.func.functional_call(network, stacks, (examples,))
    for index, block in enumerate(examples.split(EXAMPLES)):
        alone = torch.func.functional_call(network, {name: stack[index] for name, stack in stacks.items()}, (block,))
        assert torch.equal(together[index * EXAMPLES : (index + 1) * EXAMPLES], alone)
