import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from quantization_models import IMAGES, inputs, quantized, seeded, small_cnn
from torch import nn
from torch.nn import functional as F

from fedmesh.errors import ConfigError, MismatchError
from fedmesh.quantization import (
    arrays_of,
    compare,
    export_float,
    export_int8,
    fake_quantization,
    integer_kernels,
    load_arrays,
    prepare,
    ranges_of,
    verify,
)
from fedmesh.quantization.layers import QuantizedConv2d
from fedmesh.testing.architectures import har_cnn, lenet, mobilenet_v2, randomize_norms, resnet18


class _SharedActivation(nn.Module):
    """An activation that is read with and without its ReLU, and added to itself; the output is not a linear layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.c = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        x = self.a(x)
        x = self.b(F.relu(x)) + x
        x = F.avg_pool2d(x + x, 3, 2)
        return self.c(x).mean((2, 3))


ARCHITECTURES = {
    "lenet": (lenet, (3, 32, 32), {"QLinearConv": 2, "QGemm": 3, "NhwcMaxPool": 2}),
    "har": (har_cnn, (9, 128), {"QLinearConv": 3, "QGemm": 1, "QLinearAveragePool": 1}),
    "resnet18": (
        lambda: resnet18(10, 16),
        (3, 32, 32),
        {"QLinearConv": 20, "QLinearAdd": 8, "QLinearGlobalAveragePool": 1, "QGemm": 1},
    ),
    "mobilenet-v2": (
        lambda: mobilenet_v2(10, 0.25),
        (3, 32, 32),
        {"QLinearConv": 52, "QLinearAdd": 11, "QLinearGlobalAveragePool": 1, "QGemm": 1},
    ),
    "shared": (_SharedActivation, (1, 11, 11), {"QLinearConv": 3, "QLinearAdd": 2, "QLinearAveragePool": 1}),
    "logistic": (lambda: nn.Linear(20, 5), (20,), {"QGemm": 1}),
    "depthwise-1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 6, 5, stride=2, dilation=2, groups=3), nn.ReLU6(), nn.AdaptiveAvgPool1d(4), nn.Flatten(),
            nn.Linear(24, 4, bias=False), nn.ReLU(),
        ),
        (3, 40),
        {"QLinearConv": 1, "QLinearAveragePool": 1, "QGemm": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_int8_model_is_bit_identical_to_the_trained_one(name, tmp_path):
    build, shape, kernels = ARCHITECTURES[name]
    model = seeded(build)
    randomize_norms(model, torch.Generator().manual_seed(3))
    graph = quantized(model, *shape)
    path = tmp_path / "model.onnx"
    export_int8(graph, path, example=torch.zeros(1, *shape))
    agreement = verify(graph, path, inputs(1000, *shape))
    assert agreement.count == 1000
    assert agreement.max_abs_logit_difference == 0.0
    assert agreement.argmax_agreement == 1.0
    counts = integer_kernels(path)
    assert {kind: counts[kind] for kind in kernels} == kernels


@pytest.mark.parametrize("name", ["lenet", "har", "shared"])
def test_it_stays_identical_after_training_steps(name, tmp_path):
    build, shape, _ = ARCHITECTURES[name]
    graph = quantized(seeded(build), *shape)
    optimizer = torch.optim.SGD(graph.parameters(), lr=0.05)
    for step in range(5):
        x = inputs(16, *shape, seed=step)
        optimizer.zero_grad()
        F.cross_entropy(graph(x), torch.arange(16) % 3).backward()
        optimizer.step()
    export_int8(graph, tmp_path / "model.onnx", example=x)
    assert verify(graph, tmp_path / "model.onnx", inputs(200, *shape)).max_abs_logit_difference == 0.0


def test_free_scales_agree_up_to_rounding(tmp_path):
    graph = quantized(seeded(lenet), 3, 32, 32, scales="free")
    export_int8(graph, tmp_path / "model.onnx", example=torch.zeros(1, 3, 32, 32))
    agreement = verify(graph, tmp_path / "model.onnx", inputs(200, 3, 32, 32))
    assert 0 < agreement.max_abs_logit_difference < 0.01
    assert agreement.argmax_agreement > 0.98


def test_relu6_is_bounded_on_uint8_where_its_grid_reaches_beyond_6(tmp_path):
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU6(), nn.Linear(64, 3))
    with torch.no_grad():
        model[0].weight.mul_(20)
    graph = quantized(model, 4)
    assert ranges_of(graph)["_1"] == (2.0**-5, 0)
    export_int8(graph, tmp_path / "model.onnx", example=torch.zeros(1, 4))
    verify(graph, tmp_path / "model.onnx", inputs(500, 4))
    assert integer_kernels(tmp_path / "model.onnx")["Clip"] == 1


def test_channels_without_weights_keep_their_bias(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 1000.0
    graph = quantized(model, 4)
    export_int8(graph, tmp_path / "model.onnx", example=torch.zeros(1, 4))
    verify(graph, tmp_path / "model.onnx", inputs(50, 4))
    _, bias, scale = graph.get_submodule("0").integers()
    step = graph.get_submodule("0").input_grid.step
    assert float(bias[1] * scale[1] * step) == pytest.approx(1000.0)


def test_a_loaded_model_exports_what_it_was_given(tmp_path):
    one, two = quantized(seeded(small_cnn), *IMAGES), quantized(seeded(small_cnn, seed=4), *IMAGES)
    x = inputs(50, *IMAGES)
    load_arrays(two, arrays_of(one))
    export_int8(two, tmp_path / "two.onnx", example=x)
    assert compare(two, tmp_path / "two.onnx", x).max_abs_logit_difference == 0.0


def test_the_float_export_is_the_float_function(tmp_path):
    model = seeded(lambda: mobilenet_v2(10, 0.25))
    graph = quantized(model, 3, 32, 32)
    x = inputs(20, 3, 32, 32)
    export_float(graph, tmp_path / "float.onnx", example=x)
    fake_quantization(graph, False)
    assert compare(graph, tmp_path / "float.onnx", x).max_abs_logit_difference < 1e-4
    with pytest.raises(MismatchError, match="in float"):
        integer_kernels(tmp_path / "float.onnx")


def test_the_int8_file_is_small(tmp_path):
    graph = quantized(lenet(), 3, 32, 32)
    export_int8(graph, tmp_path / "int8.onnx", example=torch.zeros(1, 3, 32, 32))
    export_float(graph, tmp_path / "float.onnx", example=torch.zeros(1, 3, 32, 32))
    assert (tmp_path / "int8.onnx").stat().st_size <= 0.28 * (tmp_path / "float.onnx").stat().st_size


def test_the_file_holds_what_the_layer_says(tmp_path):
    graph = quantized(seeded(small_cnn), *IMAGES)
    export_int8(graph, tmp_path / "model.onnx", example=torch.zeros(1, *IMAGES))
    stored = onnx.load(tmp_path / "model.onnx")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored.graph.initializer}
    layer = graph.get_submodule("0")
    assert isinstance(layer, QuantizedConv2d)
    weight, bias, scale = layer.integers()
    assert constants["0.weight"].dtype == np.int8
    assert np.array_equal(constants["0.weight"], weight.numpy())
    assert constants["0.bias"].dtype == np.int32
    assert bias is not None
    assert np.array_equal(constants["0.bias"], bias.numpy())
    rebuilt = weight.float() * scale.reshape(-1, 1, 1, 1)
    assert torch.equal(rebuilt, layer.quantized()[0])
    assert int(weight.abs().max()) <= 127
    assert stored.graph.input[0].name == "input"
    assert stored.graph.output[0].name == "logits"
    assert stored.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_residual_additions_as_sums_are_bit_equal_too(tmp_path):
    graph = quantized(seeded(lambda: resnet18(10, 8)), 3, 32, 32)
    export_int8(graph, tmp_path / "model.onnx", example=torch.zeros(1, 3, 32, 32), residual="sum")
    verify(graph, tmp_path / "model.onnx", inputs(100, 3, 32, 32))
    assert integer_kernels(tmp_path / "model.onnx")["Sum"] == 8
    with pytest.raises(ConfigError, match="use 'add' or 'sum'"):
        export_int8(graph, tmp_path / "x.onnx", example=torch.zeros(1, 3, 32, 32), residual="mul")


def test_another_models_file_is_a_mismatch(tmp_path):
    graph = quantized(seeded(small_cnn), *IMAGES)
    export_int8(graph, tmp_path / "model.onnx", example=torch.zeros(1, *IMAGES))
    with torch.no_grad():
        graph.get_submodule("5").bias[0] += 0.05
    with pytest.raises(MismatchError, match="differs from the trained model"):
        verify(graph, tmp_path / "model.onnx", inputs(50, *IMAGES))


def test_an_export_replaces_the_file_as_a_whole(tmp_path):
    graph = quantized(small_cnn(), *IMAGES)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    export_int8(graph, path, example=torch.zeros(1, *IMAGES))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    integer_kernels(path)


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path):
    graph = quantized(small_cnn(), *IMAGES)
    example = torch.zeros(1, *IMAGES)
    with pytest.raises(ConfigError, match=r"cannot write .*missing"):
        export_int8(graph, tmp_path / "missing" / "model.onnx", example=example)
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        export_int8(graph, tmp_path / "model.onnx", example=example)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_what_is_not_prepared_or_not_calibrated_is_not_written(tmp_path):
    example = torch.zeros(1, *IMAGES)
    with pytest.raises(ConfigError, match="not a prepared model"):
        export_int8(small_cnn(), tmp_path / "model.onnx", example=example)
    with pytest.raises(ConfigError, match="calibrate"):
        export_int8(prepare(small_cnn(), example), tmp_path / "model.onnx", example=example)
    with pytest.raises(ConfigError, match="does not run on an input of shape"):
        export_int8(quantized(small_cnn(), *IMAGES), tmp_path / "model.onnx", example=torch.zeros(1, 3, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_the_package_and_its_codec_do_not_import_torch():
    code = "import sys, fedmesh.quantization.codec; sys.exit(bool({'torch', 'onnx'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors():
    import fedmesh.quantization as package

    assert "prepare" in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'prepair'"):
        _ = package.prepair
