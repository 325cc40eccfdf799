"""The fast roundings against their slow twins in exact arithmetic."""

import numpy as np
import pytest
import torch

from fedmesh.quantization.rounding_ops import quantize_activation, quantize_weights, weight_scales


def _weights(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(200, 7, generator=generator, dtype=torch.float64)
    weight *= 2.0 ** torch.randint(-12, 8, (200, 1), generator=generator)
    weight[0] = 0
    weight[1] = 0.25
    weight[2] = 127 / 128  # exactly on a power of two
    weight[3, 0] = float(np.nextafter(np.float32(127.0), np.float32(128.0)))
    return weight.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_are_the_least_power_of_two_that_never_saturates(dtype):
    weight = _weights(dtype)
    scale = weight_scales(weight, None, 1.0, "power-of-two").double()
    absmax = weight.double().abs().amax(1)
    exact = 2.0 ** torch.ceil(torch.log2(absmax[1:] / 127))
    assert torch.equal(scale[1:], exact)
    assert scale[0] > 0
    assert float(scale[2]) == 2.0**-7
    assert float(scale[3]) == 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scales", ["power-of-two", "free"])
def test_weights_and_bias_round_half_to_even_onto_their_grids(dtype, scales):
    weight = _weights(dtype)
    bias = weight[:, 0].clone()
    scale = weight_scales(weight, bias, 0.25, scales)
    got, got_bias = quantize_weights(weight, bias, scale, 0.25, scales)
    column = scale[:, None]
    assert torch.equal(got, torch.round(weight / column) * column)
    assert got_bias is not None
    assert torch.equal(got_bias, torch.round(bias / (scale * 0.25)) * (scale * 0.25))
    assert float((got / column).abs().max()) <= 127.5


def test_ties_go_to_even():
    weight = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    scale = weight_scales(weight, None, 1.0, "power-of-two")
    got, _ = quantize_weights(weight, None, scale, 1.0, "power-of-two")
    assert got.tolist() == [[127.0, 0.0, 2.0, 2.0, -0.0, -2.0]]


def test_a_large_bias_widens_the_scale():
    weight, bias = torch.full((2, 3), 0.01), torch.tensor([1e5, 0.0])
    scale = weight_scales(weight, bias, 2.0**-10, "power-of-two")
    assert float(bias[0] / (scale[0] * 2.0**-10)) <= 2**22
    assert float(scale[1]) == 2.0**-13


@pytest.mark.parametrize(("scale", "zero_point"), [(0.25, 0), (2.0**-7, 128), (0.5, 254)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_round_like_quantize_linear(scale, zero_point, dtype):
    low, high = -zero_point * scale, (255 - zero_point) * scale
    x = torch.linspace(low - 3, high + 3, 4001, dtype=dtype)
    x = torch.cat([x, (torch.arange(300, dtype=dtype) - zero_point + 0.5) * scale])  # all the ties
    levels = np.clip(np.rint(x.double().numpy() / scale) + zero_point, 0, 255)
    want = torch.from_numpy((levels - zero_point) * scale).to(dtype)
    assert torch.equal(quantize_activation(x, scale, low, high, scales="power-of-two"), want)
    assert torch.equal(quantize_activation(x, scale, low, high, scales="free"), want)


def test_an_offset_is_added_before_rounding_as_onnx_runtimes_pooling_does():
    x = torch.tensor([0.5 - 2.0**-20, 1.5 - 2.0**-20, -0.5, 2.5])
    got = quantize_activation(x, 1.0, -128.0, 127.0, scales="power-of-two", offset=128)
    want = np.rint(x.numpy() + np.float32(128)) - np.float32(128)
    assert got.tolist() == want.tolist() == [0.0, 2.0, 0.0, 2.0]
    assert quantize_activation(x, 1.0, -128.0, 127.0, scales="power-of-two").tolist() == [0.0, 1.0, 0.0, 2.0]


@pytest.mark.parametrize("scales", ["power-of-two", "free"])
def test_gradients_are_straight_through(scales):
    x = torch.tensor([-1.0, 0.1, 0.5, 7.9, 8.1, 9.0], requires_grad=True)
    quantize_activation(x, 2.0**-5, 0.0, 255 * 2.0**-5, scales=scales).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    weight = torch.randn(4, 3, requires_grad=True)
    bias = torch.randn(4, requires_grad=True)
    scale = weight_scales(weight, bias, 1.0, scales)
    assert not scale.requires_grad
    one, two = quantize_weights(weight, bias, scale, 1.0, scales)
    assert two is not None
    (2 * one.sum() + 3 * two.sum()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.unique().tolist() == [2.0]
    assert bias.grad.unique().tolist() == [3.0]
    assert not torch.equal(one, weight)  # the parameter itself is never rounded
