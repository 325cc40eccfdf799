"""Models of [B, 1, 8, 8] images: each kind of layer, geometry and use that per-example gradients treat on its own."""

from collections.abc import Callable

import torch
from small_cnn import cnn
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A layer used twice, one in a branch, one whose output the loss does not reach, and parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.head = nn.Linear(6, 5)
        self.norm = nn.GroupNorm(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)[:, :6]
        self.unused(h)
        return self.head(self.norm(F.relu(self.shared(F.relu(self.shared(h)))) + h))


class Scaled(nn.Module):
    """A layer that Opacus has no sampler for."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((6,), 1.3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Twice(nn.Module):
    """A convolution used on images of two sizes, and one weight that belongs to two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.shared = nn.Conv2d(6, 6, 3, padding=1, stride=2)
        self.one = nn.Linear(24, 24)
        self.other = nn.Linear(24, 24)
        self.other.weight = self.one.weight
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.shared(F.relu(self.shared(F.relu(self.stem(x))))))
        return self.head(torch.tanh(self.other(torch.tanh(self.one(h.flatten(1))))))


class Sequences(nn.Module):
    """Linear layers over [B, T, C], one of them without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.mix = nn.Linear(12, 40, bias=False)
        self.head = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.mix(torch.tanh(self.embed(x.flatten(1, 2)))))
        return self.head(h.mean(1))


def _pyramid() -> nn.Module:
    """Wide layers at few positions: a dilated one, one at a single position, a depthwise and a grouped one."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=(2, 1), dilation=(2, 1)),
        nn.ReLU(),
        nn.Conv2d(16, 16, 2, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def _sequence() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(1, 16, 5, stride=3),
        nn.ReLU(),
        nn.Conv1d(16, 32, 5, stride=4, padding=2, dilation=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "cnn": cnn,
    "residual": Residual,
    "functorch": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 6), Scaled(), nn.Tanh(), nn.Linear(6, 5)),
    "conv1d": _sequence,
    "pyramid": _pyramid,
    "twice": Twice,
    "sequences": Sequences,
}
