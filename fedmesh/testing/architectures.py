"""Float reference models for tests and benchmarks: published architectures in the sizes that are measured.

Initialized by torch's global generator, as torch.nn layers are; a caller that wants the same weights twice forks it.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["har_cnn", "lenet", "mobilenet_v2", "randomize_norms", "resnet18"]


def lenet(classes: int = 10) -> nn.Sequential:
    """LeNet-like CNN of 62k parameters over [B, 3, 32, 32], as in Flower's quickstart."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def har_cnn(classes: int = 6) -> nn.Sequential:
    """1-d CNN of 68k parameters over windows [B, 9, 128] of wearable sensors."""
    return nn.Sequential(
        nn.Conv1d(9, 64, 5, padding=2),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(64, 96, 5, padding=2),
        nn.BatchNorm1d(96),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(96, 64, 5, padding=2),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.AvgPool1d(8),
        nn.Flatten(),
        nn.Linear(256, classes),
    )


class _BasicBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        result: Tensor = self.relu(out)
        return result


class _ResNet18(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(_BasicBlock(before, after, 1 if index == 0 else 2), _BasicBlock(after, after, 1))
                for index, (before, after) in enumerate(pairwise(widths))
            )
        )
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layers(x))
        result: Tensor = self.fc(torch.flatten(x, 1))
        return result


def resnet18(classes: int = 1000, width: int = 64) -> nn.Module:
    """ResNet-18 (He et al. 2016) over [B, 3, H, W]; `width` 64 is the published one (11.7M parameters)."""
    return _ResNet18(classes, width)


class _InvertedResidual(nn.Module):
    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = before * expansion
        self.residual = stride == 1 and before == after
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(before, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, after, 1, bias=False),
            nn.BatchNorm2d(after),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.conv(x) if self.residual else self.conv(x)
        return result


_INVERTED_RESIDUALS = (
    # expansion, channels, repeats, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _divisible(channels: float) -> int:
    return max(8, int(channels + 4) // 8 * 8)


class _MobileNetV2(nn.Module):
    def __init__(self, classes: int, width: float) -> None:
        super().__init__()
        channels = _divisible(32 * width)
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6()]
        for expansion, base, repeats, first_stride in _INVERTED_RESIDUALS:
            after = _divisible(base * width)
            for index in range(repeats):
                layers.append(_InvertedResidual(channels, after, first_stride if index == 0 else 1, expansion))
                channels = after
        last = _divisible(1280 * max(1.0, width))
        layers += [nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return result


def mobilenet_v2(classes: int = 1000, width: float = 1.0) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018) over [B, 3, H, W]; `width` 1.0 is the published one (3.5M parameters)."""
    return _MobileNetV2(classes, width)


def randomize_norms(model: nn.Module, generator: torch.Generator) -> None:
    """Gives batch norms the uneven statistics and gains of a trained model: folding initial ones tests nothing."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            with torch.no_grad():
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.3, 2.0, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
