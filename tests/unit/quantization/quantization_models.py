"""Small models and seeded data that the tests of this folder share."""

import torch
from torch import Tensor, nn

from fedmesh.quantization import calibrate, prepare
from fedmesh.quantization.grids import Scales

IMAGES = (1, 8, 8)


def inputs(count: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def seeded(build: object, *args: object, seed: int = 0) -> nn.Module:
    """`build(*args)` with torch's initial weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(*args)  # type: ignore[operator]
    assert isinstance(model, nn.Module)
    return model


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 5),
    )


def quantized(model: nn.Module, *shape: int, scales: Scales = "power-of-two") -> nn.Module:
    graph = prepare(model, torch.zeros(1, *shape), scales=scales)
    calibrate(graph, [inputs(64, *shape, seed=7)])
    return graph
