"""A small convolutional model, random images for it, the settings of its DP-SGD, and the slow twin of its gradients."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmesh.privacy import DpSettings
from fedmesh.privacy.per_sample import attach


def settings(**changes: float) -> DpSettings:
    values = {
        "epsilon": 8.0,
        "delta": 1e-5,
        "clip": 0.5,
        "noise_multiplier": 1.5,
        "sample_rate": 0.5,
        "steps": 3,
        "expected_batch": 8.0,
    }
    return DpSettings(**{**values, **changes})


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, stride=2, groups=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def images(count: int = 20) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 8, 8), torch.randint(0, 5, (count,))


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])


def micro_batches(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Per-example gradients one example at a time: the slow twin, [B, P]."""
    rows = []
    for one_x, one_y in zip(x.split(1), y.split(1), strict=True):
        gradients = torch.autograd.grad(
            F.cross_entropy(model(one_x), one_y), list(model.parameters()), allow_unused=True
        )
        rows.append(torch.cat([_flat(p, g) for p, g in zip(model.parameters(), gradients, strict=True)]))
    return torch.stack(rows)


def per_example(model: nn.Module, x: Tensor, y: Tensor) -> dict[nn.Parameter, Tensor]:
    """Per-example gradients as the hooks' samplers make them, [B, ...] for each parameter that the loss reaches."""
    hooks = attach(model)
    hooks.enable_hooks()
    made: dict[nn.Parameter, Tensor] = {}
    for call in hooks.calls(F.cross_entropy(model(x), y, reduction="sum")):
        for parameter, rows in hooks.sample(call).items():
            made[parameter] = made[parameter] + rows if parameter in made else rows
    hooks.disable_hooks()
    hooks.cleanup()
    return made


def _flat(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    return torch.zeros_like(parameter).reshape(-1) if gradient is None else gradient.reshape(-1)
