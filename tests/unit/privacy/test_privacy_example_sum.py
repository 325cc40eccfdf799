"""The rows that shared noise is added to, against one example at a time."""

from collections.abc import Callable

import pytest
import torch
from example_models import MODELS
from small_cnn import cnn, images, micro_batches
from torch import Tensor, nn

from fedmesh.errors import ConfigError, TrustError
from fedmesh.privacy.example_sum import ExampleGradients


def all_rows(model: nn.Module, x: Tensor, y: Tensor, **options: int) -> Tensor:
    return torch.cat(list(ExampleGradients(model, **options).rows(x, y)))


@pytest.mark.parametrize("name", MODELS)
def test_rows_equal_one_example_at_a_time(name: str) -> None:
    model = MODELS[name]()
    x, y = images(7)
    wanted = micro_batches(model.train(), x, y)
    torch.testing.assert_close(all_rows(model, x, y), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_parts_are_all_the_examples_in_order(rows: int) -> None:
    x, y = images(7)
    model = cnn()
    size = sum(p.numel() for p in model.parameters())
    gradients = ExampleGradients(model, gradient_bytes=rows * 4 * size)
    assert gradients.size == size
    parts = list(gradients.rows(x, y))
    assert [len(part) for part in parts] == [min(rows, 7 - start) for start in range(0, 7, rows)]
    torch.testing.assert_close(torch.cat(parts), micro_batches(model, x, y), rtol=1e-5, atol=1e-6)


def test_no_examples_have_no_rows() -> None:
    assert not list(ExampleGradients(cnn()).rows(*images(0)))


def test_frozen_parameters_have_no_column() -> None:
    model, (x, y) = cnn(), images(4)
    wanted = micro_batches(model, x, y)
    model[3].weight.requires_grad_(requires_grad=False)
    first = sum(p.numel() for p in model[0].parameters())
    frozen = model[3].weight.numel()
    wanted = torch.cat([wanted[:, :first], wanted[:, first + frozen :]], dim=1)
    torch.testing.assert_close(all_rows(model, x, y), wanted, rtol=1e-5, atol=1e-6)


def test_between_parts_the_model_is_an_ordinary_one() -> None:
    x, y = images(6)
    model = cnn().eval()
    size = sum(p.numel() for p in model.parameters())
    gradients = ExampleGradients(model, gradient_bytes=2 * 4 * size)
    for _ in gradients.rows(x, y):
        assert not model.training
        model(x).sum().backward()
        assert all(p.grad is not None and p.grad_sample is None for p in model.parameters())
        assert not gradients._examples._hooks._captured
    before = {name: value.clone() for name, value in model.state_dict().items()}
    list(gradients.rows(x, y))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    gradients.close()
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())


def test_a_broken_example_spoils_only_its_own_row() -> None:
    x, y = images(5)
    model = cnn()
    wanted = all_rows(model, x, y)
    x[2] = float("nan")
    model = cnn_like(model)
    got = all_rows(model, x, y)
    keep = torch.tensor([0, 1, 3, 4])
    assert torch.equal(got[keep], wanted[keep])
    assert not torch.isfinite(got[2]).all()


def cnn_like(model: nn.Module) -> nn.Module:
    copy = cnn()
    copy.load_state_dict(model.state_dict())
    return copy


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)
        self.highest = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.highest = max(self.highest, float(x.max()))
        return self.linear(x.flatten(1))

    def get_extra_state(self) -> dict[str, float]:
        return {"highest": self.highest}


def test_a_model_that_remembers_the_data_is_caught() -> None:
    with pytest.raises(TrustError, match="besides its parameters"):
        list(ExampleGradients(Remembering()).rows(*images()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(cnn(), nn.BatchNorm1d(5)), "BatchNorm1d"),
        (lambda: nn.Sequential(cnn(), nn.Dropout(0.5)), "Dropout"),
        (lambda: cnn().requires_grad_(requires_grad=False), "no trainable parameter"),
    ],
)
def test_models_that_would_break_the_promise_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExampleGradients(build())


def test_examples_without_a_label_each_are_refused_at_once() -> None:
    x, y = images()
    with pytest.raises(ConfigError, match="20 examples came with 19 labels"):
        ExampleGradients(cnn()).rows(x, y[:-1])
