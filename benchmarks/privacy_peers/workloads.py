"""The models whose DP-SGD step is measured: quantization-aware, batch norm folded, ranges calibrated; random data."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedmesh.quantization import calibrate, prepare
from fedmesh.testing.architectures import resnet18
from fedmesh_clients.models import digits_cnn, fashion_cnn, har_cnn, lenet

CLASSES = 6
CLIP = 1.0
NOISE_MULTIPLIER = 1.0
LEARNING_RATE = 1e-3


def mlp(width: int) -> nn.Module:
    """Three linear layers over 784 pixels."""
    return nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits_cnn": (lambda: digits_cnn((1, 8, 8), CLASSES), (1, 8, 8)),
    "lenet": (lambda: lenet((3, 32, 32), CLASSES), (3, 32, 32)),
    "har_cnn": (lambda: har_cnn((9, 128), CLASSES), (9, 128)),
    "fashion_cnn": (lambda: fashion_cnn((1, 28, 28), CLASSES), (1, 28, 28)),
    "MLP 1024": (lambda: mlp(1024), (784,)),
    "ResNet-18 narrow": (lambda: resnet18(CLASSES, 16), (3, 32, 32)),
}


def prepared(name: str) -> nn.Module:
    """The same model for every contender."""
    build, shape = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = prepare(build().eval(), torch.zeros(1, *shape))
        calibrate(model, [torch.randn(32, *shape)])
    return model.train()


def batch(name: str, size: int) -> tuple[Tensor, Tensor]:
    """Examples and labels; float32 [size, ...] and int64 [size]."""
    x = torch.randn(size, *MODELS[name][1], generator=torch.Generator().manual_seed(1))
    return x, torch.arange(size) % CLASSES
