"""What DP-SGD refuses, and what it leaves as it was."""

import inspect
import itertools
from collections.abc import Callable

import pytest
import torch
from small_cnn import cnn, images, settings
from torch import Tensor, nn

from fedmesh.errors import ConfigError, TrustError
from fedmesh.privacy import DpSettings, DpSgd, KeyedNoise


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1)).mul_(2.0)


class Remembering(nn.Module):
    """Keeps a maximum of the data, as a calibration that was left on would."""

    def __init__(self, *, buffer: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)
        self.buffer = buffer
        self.highest = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.highest = max(self.highest, float(x.max()))
        if self.buffer and "seen" not in self._buffers:
            self.register_buffer("seen", x.max().detach())
        return self.linear(x.flatten(1))

    def get_extra_state(self) -> dict[str, float]:
        return {} if self.buffer else {"highest": self.highest}


@pytest.mark.parametrize("buffer", [True, False])
def test_a_model_that_remembers_the_data_is_caught(*, buffer: bool) -> None:
    x, y = images()
    with pytest.raises(TrustError, match="besides its parameters"):
        DpSgd(Remembering(buffer=buffer), settings(), learning_rate=0.1).fit(x, y, KeyedNoise(1))


def test_an_output_changed_in_place_is_caught() -> None:
    x, y = images()
    with pytest.raises(ConfigError, match="in place"):
        DpSgd(InPlace(), settings(), learning_rate=0.1).fit(x, y, KeyedNoise(1))


class Pieces(nn.Module):
    """Takes each row of an image for an example."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(0, 2)).view(-1, 8, 5).sum(1)


def test_a_layer_that_sees_pieces_of_examples_is_caught() -> None:
    """Each piece would be clipped for itself, and an example count eightfold."""
    x, y = images()
    with pytest.raises(ConfigError, match=r"saw \d+ rows for \d+ examples"):
        DpSgd(Pieces(), settings(), learning_rate=0.1).fit(x, y, KeyedNoise(1))


def test_sampling_is_by_coins_and_cannot_be_turned_off() -> None:
    """Neither the trainer nor its settings have a batch size, a sampler, an order or an argument for more options."""
    taken = {*inspect.signature(DpSgd).parameters, *inspect.signature(DpSgd.fit).parameters}
    assert taken == {
        "model",
        "settings",
        "learning_rate",
        "momentum",
        "loss",
        "gradient_bytes",
        "self",
        "x",
        "y",
        "noise",
    }
    assert not {name for name in DpSettings.__dataclass_fields__ if "batch" in name} - {"expected_batch"}


def constant_buffer() -> nn.Module:
    model = cnn()
    model.register_buffer("offset", torch.zeros(1))
    return model


def frozen() -> nn.Module:
    return cnn().requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(cnn(), nn.BatchNorm1d(5)), r"'1' \(BatchNorm1d\).*prepare"),
        (lambda: nn.Sequential(cnn(), nn.BatchNorm1d(5, track_running_stats=False)), "BatchNorm1d"),
        (lambda: nn.Sequential(cnn(), nn.Dropout(0.5)), "Dropout"),
        (lambda: nn.Sequential(cnn(), nn.ReLU(inplace=True)), "inplace=False"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), "padding_mode"),
        (constant_buffer, "offset"),
        (frozen, "no trainable parameter"),
    ],
)
def test_models_that_would_break_the_promise_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DpSgd(build(), settings(), learning_rate=0.1)


def test_two_trainers_on_one_model_are_refused_until_the_first_is_closed() -> None:
    model = cnn()
    first = DpSgd(model, settings(), learning_rate=0.1)
    with pytest.raises(ConfigError, match="close"):
        DpSgd(model, settings(), learning_rate=0.1)
    first.close()
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
    DpSgd(model, settings(), learning_rate=0.1).fit(*images(), KeyedNoise(1))


@pytest.mark.parametrize(("rate", "momentum"), [(0.0, 0.0), (-1.0, 0.0), (0.1, 1.0), (0.1, -0.1), (float("nan"), 0.0)])
def test_meaningless_step_sizes_are_refused(rate: float, momentum: float) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        DpSgd(cnn(), settings(), learning_rate=rate, momentum=momentum)


def test_examples_without_a_label_each_are_refused() -> None:
    x, y = images()
    with pytest.raises(ConfigError, match="20 examples came with 19 labels"):
        DpSgd(cnn(), settings(), learning_rate=0.1).fit(x, y[:-1], KeyedNoise(1))


def test_frozen_parameters_stay_as_they_are() -> None:
    model = cnn()
    model[0].requires_grad_(requires_grad=False)
    before = [p.detach().clone() for p in model.parameters()]
    DpSgd(model, settings(), learning_rate=0.1).fit(*images(), KeyedNoise(1))
    changed = [not torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True)]
    assert changed == [False, False, *itertools.repeat(True, len(before) - 2)]


def test_opacus_registry_and_the_root_logger_stay_as_they_are() -> None:
    import logging

    from opacus.grad_sample import GradSampleHooks

    class Own(nn.Linear):
        def per_sample_gradients(self, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
            x = activations[0]
            return {self.weight: torch.einsum("bo,bi->boi", backprops, x), self.bias: backprops}

    before, handlers = set(GradSampleHooks.GRAD_SAMPLERS), list(logging.getLogger().handlers)
    model = nn.Sequential(nn.Flatten(), Own(64, 5))
    DpSgd(model, settings(), learning_rate=0.1).fit(*images(), KeyedNoise(1))
    assert set(GradSampleHooks.GRAD_SAMPLERS) == before
    assert logging.getLogger().handlers == handlers
