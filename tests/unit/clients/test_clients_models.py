import pytest
import torch

from fedmesh.errors import ConfigError
from fedmesh.quantization import calibrate, export_int8, prepare, verify
from fedmesh_clients import models


@pytest.mark.parametrize(
    ("build", "shape", "classes", "parameters"),
    [
        (models.digits_cnn, (1, 8, 8), 10, 6_586),
        (models.lenet, (3, 32, 32), 10, 62_006),
        (models.fashion_cnn, (1, 28, 28), 10, 55_386),
        (models.har_cnn, (9, 128), 6, 68_198),
        (models.linear_head, (101,), 6, 606),
    ],
)
def test_shape_and_size(build, shape, classes, parameters):
    model = build(shape, classes).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(3, *shape)).shape == (3, classes)


def test_examples_of_another_kind_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"digits_cnn takes .*not \[9, 128\]"):
        models.digits_cnn((9, 128), 6)
    with pytest.raises(ConfigError, match=r"har_cnn takes .*not \[1, 8, 8\]"):
        models.har_cnn((1, 8, 8), 10)
    with pytest.raises(ConfigError, match=r"linear_head takes vectors.*not \[1, 8, 8\]: add a \[features\]"):
        models.linear_head((1, 8, 8), 10)


@pytest.mark.parametrize("width", [5, 201, 401])
def test_the_head_on_vectors_is_bit_exact_as_an_int8_model(tmp_path, width):
    rng = torch.Generator().manual_seed(width)
    x = torch.nn.functional.normalize(torch.randn(300, width, generator=rng))
    x[:, -1] = 0.3
    head = models.linear_head((width,), 10)
    assert not head[0].weight.any()
    torch.nn.init.normal_(head[0].weight, std=3.0, generator=rng)
    prepared = prepare(head.eval(), x[:1])
    calibrate(prepared, [x])
    path = tmp_path / "head.onnx"
    export_int8(prepared, path, example=x[:1])
    agreement = verify(prepared, path, x)
    assert agreement.max_abs_logit_difference == 0.0
    logits = prepared(x)
    assert (logits.argmax(1) == head(x).argmax(1)).float().mean() > 0.95
