"""The model cut before its last layer gives what that layer sees in torch, to the last bit."""

from pathlib import Path

import lite_models
import numpy as np
import onnx
import pytest
import torch
from lite_models import SHAPES, cut, noise
from quantization_models import inputs, quantized, seeded
from torch import nn

from fedmesh.client.backbone import Backbone
from fedmesh.client.linear_head import LinearHead
from fedmesh.errors import ConfigError, MismatchError, UnsupportedLayerError
from fedmesh.quantization import check_backbone, export_backbone, export_int8, head_of, integer_kernels
from fedmesh.quantization.inspection import OPERATORS
from fedmesh.testing import architectures

ALL = sorted(SHAPES)


def seen_by_the_head(model: torch.fx.GraphModule, head: str, x: np.ndarray) -> np.ndarray:
    seen: list[torch.Tensor] = []
    layer = model.get_submodule(head.rpartition(".")[0])
    with torch.no_grad():
        hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        model(torch.from_numpy(x))
    hook.remove()
    return seen[0].numpy()


@pytest.mark.parametrize("name", ALL)
def test_features_and_logits_are_torchs_to_the_last_bit(name: str) -> None:
    made, x = cut(name), noise(name, 40, seed=2)
    head = made.task.head
    assert head is not None
    features = Backbone(made.backbone, input_shape=SHAPES[name], width=head.width).features(x)
    np.testing.assert_array_equal(features, seen_by_the_head(made.model, head.weight, x))
    last = LinearHead.behind(head, made.task)
    logits = last.logits(last.inputs(features), head.take(made.weights))
    with torch.no_grad():
        np.testing.assert_array_equal(logits, made.model(torch.from_numpy(x)).numpy())
    np.testing.assert_array_equal(last.inputs(features), features)  # they lie on the grid already


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_deeper_models_are_cut_as_well(name: str) -> None:
    model = seeded(getattr(architectures, name))
    architectures.randomize_norms(model, torch.Generator().manual_seed(1))
    graph = quantized(model.eval(), 3, 64, 64)
    data = export_backbone(graph, example=torch.zeros(1, 3, 64, 64))  # type: ignore[arg-type]
    check_backbone(graph, data, inputs(3, 3, 64, 64).numpy())  # type: ignore[arg-type]
    Backbone(data, input_shape=(3, 64, 64), width=head_of(graph).width)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL)
def test_free_scales_agree_up_to_rounding(name: str) -> None:
    made, x = cut(name, "free"), noise(name, 20, seed=2)
    head = made.task.head
    assert head is not None
    features = Backbone(made.backbone, input_shape=SHAPES[name], width=head.width).features(x)
    step = made.task.ranges[head.grid][0]
    want = seen_by_the_head(made.model, head.weight, x)
    assert np.abs(features - want).max() <= 1.001 * step  # a value near a tie may round the other way
    assert (features == want).mean() > 0.99
    last = LinearHead.behind(head, made.task)
    with torch.no_grad():
        logits = made.model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(last.logits(want, head.take(made.weights)), logits, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in ALL if name != "linear_head"])
def test_it_runs_in_integers_and_does_not_hold_the_head(name: str, tmp_path: Path) -> None:
    made = cut(name)
    path, whole = tmp_path / "backbone.onnx", tmp_path / "model.onnx"
    path.write_bytes(made.backbone)
    integer_kernels(path)
    export_int8(made.model, whole, example=torch.zeros(1, *SHAPES[name]))
    head = made.task.head
    assert head is not None
    assert len(made.backbone) < whole.stat().st_size - head.classes * head.width
    graph = onnx.load(path).graph
    assert [output.name for output in graph.output] == ["features"]
    assert {node.op_type for node in graph.node} <= OPERATORS
    assert not any(constant.name.startswith(head.weight.rpartition(".")[0] + ".") for constant in graph.initializer)


def test_the_head_is_named() -> None:
    head = cut("lenet").task.head
    assert head is not None
    assert (head.weight, head.bias, head.classes, head.width, head.signed) == ("11.weight", "11.bias", 10, 84, False)
    assert head.layout.size == len(cut("lenet").weights)
    bare = cut("linear_head").task.head
    assert bare is not None
    assert (bare.weight, bare.bias, bare.grid, bare.signed) == ("0.weight", None, "input", True)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([nn.Flatten(), nn.Linear(64, 5), nn.ReLU()], "ends with quantize"),
        ([nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()], "ends with quantize"),
        ([nn.Conv2d(1, 5, 8), nn.Flatten()], "ends with"),
    ],
)
def test_a_model_that_ends_otherwise_is_refused(layers: list[nn.Module], said: str) -> None:
    graph = quantized(seeded(lambda: nn.Sequential(*layers)), 1, 8, 8)
    for ask in (head_of, lambda model: export_backbone(model, example=torch.zeros(1, 1, 8, 8))):
        with pytest.raises(UnsupportedLayerError, match=said):
            ask(graph)  # type: ignore[arg-type]


def test_a_model_that_is_not_prepared_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fedmesh\.quantization\.prepare"):
        head_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))  # type: ignore[arg-type]


def test_a_backbone_of_other_weights_is_found_out() -> None:
    made = cut("digits_cnn")
    other = quantized(
        seeded(lambda: lite_models.load(lite_models.MODELS, "digits_cnn")((1, 8, 8), 10, width=3)), 1, 8, 8
    )
    check_backbone(made.model, made.backbone, noise("digits_cnn", 5))
    with pytest.raises(MismatchError, match="differ from the trained model's"):
        check_backbone(other, made.backbone, noise("digits_cnn", 5))  # type: ignore[arg-type]
    lenet = cut("lenet")
    with pytest.raises(MismatchError, match="cannot be run"):
        check_backbone(lenet.model, made.backbone, noise("lenet", 5))
