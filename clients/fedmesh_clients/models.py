"""The models that scenarios name (entry points of the group fedmesh.models).

Each is a plain float32 torch module that `fedmesh.quantization.prepare` can turn into an int8 one. A model function
takes `input_shape` (of one example, channels first), `classes` (number of logits) and its own keyword options.
"""

import torch
from torch import nn

from fedmesh.errors import ConfigError

__all__ = ["digits_cnn", "fashion_cnn", "har_cnn", "lenet", "linear_head"]


def digits_cnn(input_shape: tuple[int, ...], classes: int, *, width: int = 12) -> nn.Module:
    """Two 3x3 convolutions and one linear layer: 6.6k parameters on 8x8 digits at the default width."""
    channels = _channels("digits_cnn", input_shape, dimensions=3)
    features = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return _with_head(features, input_shape, (classes,))


def lenet(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The LeNet-like network of Flower's PyTorch quickstart: 62k parameters on 3x32x32 (LeCun et al. 1998)."""
    channels = _channels("lenet", input_shape, dimensions=3)
    features = nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return _with_head(features, input_shape, (120, 84, classes))


def fashion_cnn(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two 3x3 convolutions with batch norm, two linear layers: 56k parameters on 28x28."""
    channels = _channels("fashion_cnn", input_shape, dimensions=3)
    features = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return _with_head(features, input_shape, (32, classes))


def har_cnn(input_shape: tuple[int, ...], classes: int, *, width: int = 32) -> nn.Module:
    """Three strided 1-d convolutions over inertial windows [channels, samples], global average pooling."""
    channels = _channels("har_cnn", input_shape, dimensions=2)
    features = nn.Sequential(
        nn.Conv1d(channels, width, 7, padding=3, stride=2),
        nn.ReLU(),
        nn.Conv1d(width, 2 * width, 5, padding=2, stride=2),
        nn.ReLU(),
        nn.Conv1d(2 * width, 3 * width, 5, padding=2, stride=2),
        nn.ReLU(),
        nn.AvgPool1d(4),
        nn.Flatten(),
    )
    return _with_head(features, input_shape, (64, classes))


def linear_head(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Softmax regression on vectors of fixed features [width], without a bias: the features end with a constant.

    Starts at zero: its loss is convex, and no draw shows in the result.
    """
    if len(input_shape) != 1:
        raise ConfigError(
            f"model linear_head takes vectors, examples of shape [width], not {list(input_shape)}: add a [features] "
            "section, or choose another [model] name"
        )
    layer = nn.Linear(input_shape[0], classes, bias=False)
    nn.init.zeros_(layer.weight)
    return nn.Sequential(layer)


def _channels(name: str, input_shape: tuple[int, ...], *, dimensions: int) -> int:
    if len(input_shape) != dimensions:
        wanted = "[channels, height, width]" if dimensions == 3 else "[channels, samples]"
        raise ConfigError(
            f"model {name} takes examples of shape {wanted}, not {list(input_shape)}: choose another [model] name"
        )
    return input_shape[0]


def _with_head(features: nn.Sequential, input_shape: tuple[int, ...], widths: tuple[int, ...]) -> nn.Sequential:
    """`features`, then linear layers of the given widths with ReLU between them."""
    with torch.no_grad():
        size = features.eval()(torch.zeros(1, *input_shape)).shape[1]
    layers: list[nn.Module] = list(features)
    for index, width in enumerate(widths):
        layers += [nn.ReLU()] if index else []
        layers.append(nn.Linear(size, width))
        size = width
    return nn.Sequential(*layers)
