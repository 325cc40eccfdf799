import pytest
import torch

from fedmesh.errors import ConfigError
from fedmesh_clients import models


@pytest.mark.parametrize(
    ("build", "shape", "classes", "parameters"),
    [
        (models.digits_cnn, (1, 8, 8), 10, 6_586),
        (models.lenet, (3, 32, 32), 10, 62_006),
        (models.fashion_cnn, (1, 28, 28), 10, 55_386),
        (models.har_cnn, (9, 128), 6, 68_198),
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
