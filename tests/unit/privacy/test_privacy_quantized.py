"""DP-SGD through the real quantization-aware modules: the promise holds for the model that is shipped."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from small_cnn import micro_batches, per_example
from torch import Tensor, nn
from torch.nn import functional as F

from fedmesh.errors import ConfigError, TrustError
from fedmesh.privacy import DpSettings, DpSgd, KeyedNoise
from fedmesh.quantization import arrays_of, calibrate, prepare, ranges_of

SETTINGS = DpSettings(8.0, 1e-5, 0.5, 1.5, 0.5, 3, 8.0)


@pytest.fixture(autouse=True)
def _own_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield


class Residual(nn.Module):
    """A block of ResNet's kind around a block of MobileNetV2's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.stem(x)))
        block = self.pointwise(F.relu6(self.depthwise_norm(self.depthwise(h))))
        return self.head(torch.flatten(self.pool(F.relu(block + h)), 1))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 4, 5, stride=2, padding=2), nn.ReLU(), nn.AvgPool1d(4), nn.Flatten(), nn.Linear(32, 5)
    )


ARCHITECTURES = {"plain": (plain, (8, 8)), "residual": (Residual, (8, 8)), "sequence": (sequence, (64,))}


def prepared(name: str, *, scales: str = "power-of-two") -> tuple[nn.Module, Tensor, Tensor]:
    build, shape = ARCHITECTURES[name]
    x, y = torch.randn(12, 1, *shape), torch.randint(0, 5, (12,))
    model = prepare(build().eval(), x[:1], scales=scales)
    calibrate(model, [torch.randn(64, 1, *shape)])
    return model, x, y


def batched(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    made = per_example(model.train(), x, y)
    return torch.cat([made[p].reshape(len(x), -1) for p in model.parameters()], dim=1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_per_example_gradients_equal_micro_batches_in_float32(name: str) -> None:
    """Power-of-two scales make the forward pass exact, so no rounding can flip between one example and twelve."""
    model, x, y = prepared(name)
    one_by_one = micro_batches(model, x, y)
    assert one_by_one.abs().max() > 1e-2
    torch.testing.assert_close(batched(model, x, y), one_by_one, rtol=0, atol=5e-7)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("scales", ["power-of-two", "free"])
def test_per_example_gradients_equal_micro_batches_in_float64(name: str, scales: str) -> None:
    model, x, y = prepared(name, scales=scales)
    model, x = model.double(), x.double()
    torch.testing.assert_close(batched(model, x, y), micro_batches(model, x, y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fit_equals_its_slow_twin(name: str) -> None:
    model, x, y = prepared(name)
    noise = KeyedNoise(1, "twin")
    drawn = np.flatnonzero(noise.uniform(len(x)) < SETTINGS.sample_rate)
    gradients = micro_batches(model, x[drawn], y[drawn]).double()
    total = (gradients * (SETTINGS.clip / gradients.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)
    total += SETTINGS.noise_multiplier * SETTINGS.clip * torch.from_numpy(noise.normal(gradients.shape[1]))
    start = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double()
    one_step = DpSettings(8.0, 1e-5, 0.5, 1.5, 0.5, 1, 8.0)
    DpSgd(model, one_step, learning_rate=0.1).fit(x, y, KeyedNoise(1, "twin"))
    end = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).double()
    torch.testing.assert_close(end, start - 0.1 * total / SETTINGS.expected_batch, rtol=0, atol=2e-7)


def test_training_changes_weights_and_nothing_else() -> None:
    model, x, y = prepared("residual")
    ranges, before = ranges_of(model), arrays_of(model)
    DpSgd(model, SETTINGS, learning_rate=0.1).fit(100 * x, y, KeyedNoise(1))
    assert ranges_of(model) == ranges
    assert not list(model.buffers())
    assert all((before[name] != value).any() for name, value in arrays_of(model).items())


def test_ranges_that_move_while_training_are_caught() -> None:
    model, x, y = prepared("plain")
    moved: list[Callable[[], object]] = []

    def move(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not moved:
            moved.append(lambda: None)
            state = module.get_extra_state()
            module.set_extra_state({**state, "scale": 2 * state["scale"]})

    next(m for m in model.modules() if "Quantizer" in type(m).__name__).register_forward_pre_hook(move)
    with pytest.raises(TrustError, match="activation range"):
        DpSgd(model, SETTINGS, learning_rate=0.1).fit(x, y, KeyedNoise(1))


def test_an_unprepared_model_with_batch_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="prepare"):
        DpSgd(Residual(), SETTINGS, learning_rate=0.1)
