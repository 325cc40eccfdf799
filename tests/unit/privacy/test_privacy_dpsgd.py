"""DP-SGD against slow, obvious twins: micro-batches, numpy, and stock Opacus."""

import numpy as np
import pytest
import torch
from example_models import MODELS
from numpy.typing import NDArray
from small_cnn import cnn, images, micro_batches, per_example, settings, vector
from torch import Tensor, nn
from torch.nn import functional as F

from fedmesh.privacy import DpSgd, KeyedNoise, SystemNoise


class Silence:
    """Draws every example and adds nothing: what is left is the clipped sum."""

    kind = "keyed"

    def normal(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)


@pytest.mark.parametrize("name", MODELS)
def test_per_example_gradients_equal_micro_batches(name: str) -> None:
    model = MODELS[name]().double().train()
    x, y = images(7)
    x = x.double()
    made = per_example(model, x, y)
    got = {n: made.get(p) for n, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    for index in range(len(x)):
        loss = F.cross_entropy(model(x[index : index + 1]), y[index : index + 1])
        wanted = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        for (key, value), gradient in zip(got.items(), wanted, strict=True):
            assert (value is None) == (gradient is None), key
            if value is None:
                continue
            torch.testing.assert_close(value[index], gradient, rtol=1e-10, atol=1e-12, msg=f"{name} {key}")


def test_the_clipped_sum_equals_stock_opacus() -> None:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    x, y = images(16)
    ours = cnn()
    theirs = cnn()
    theirs.load_state_dict(ours.state_dict())
    wrapped = GradSampleModule(theirs, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(theirs.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=0.5,
        expected_batch_size=8,
        loss_reduction="mean",
    )
    F.cross_entropy(wrapped(x.clone().requires_grad_()), y, reduction="sum").backward()
    optimizer.step()
    DpSgd(ours, settings(steps=1), learning_rate=0.1).fit(x, y, Silence())
    torch.testing.assert_close(vector(ours), vector(theirs), rtol=0, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fit_equals_its_slow_twin(momentum: float) -> None:
    x, y = images()
    public = settings(steps=4)
    fast, slow = cnn(), cnn()
    slow.load_state_dict(fast.state_dict())
    DpSgd(fast, public, learning_rate=0.2, momentum=momentum).fit(x, y, KeyedNoise(1, "twin"))

    noise, weights = KeyedNoise(1, "twin"), vector(slow).double()
    velocity = torch.zeros_like(weights)
    for _ in range(public.steps):
        nn.utils.vector_to_parameters(weights.float(), slow.parameters())
        total = torch.zeros_like(weights)
        for index in np.flatnonzero(noise.uniform(len(x)) < public.sample_rate):
            gradient = micro_batches(slow, x[[index]], y[[index]])[0].double()
            total += gradient * min(1.0, public.clip / float(gradient.norm()))
        total += public.noise_multiplier * public.clip * torch.from_numpy(noise.normal(len(weights)))
        velocity = momentum * velocity + total / public.expected_batch
        weights -= 0.2 * velocity
    torch.testing.assert_close(vector(fast).double(), weights, rtol=0, atol=2e-6)


def test_a_large_batch_in_parts_gives_the_same_sum() -> None:
    x, y = images(50)
    whole, parts = cnn(), cnn()
    parts.load_state_dict(whole.state_dict())
    sizes: list[int] = []
    parts.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    DpSgd(whole, settings(), learning_rate=0.1).fit(x, y, KeyedNoise(2))
    DpSgd(parts, settings(), learning_rate=0.1, gradient_bytes=30_000).fit(x, y, KeyedNoise(2))
    assert 1 < max(sizes) < 10
    torch.testing.assert_close(vector(whole), vector(parts), rtol=0, atol=1e-6)


def test_the_size_of_the_parts_depends_on_shapes_alone() -> None:
    """A trainer that has served another device takes the same parts, and adds in the same order, as a new one."""
    model = cnn()
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    trained = []
    sgd = DpSgd(model, settings(), learning_rate=0.1, gradient_bytes=30_000)
    for _ in range(2):
        model.load_state_dict(begin)
        torch.manual_seed(8)
        sgd.fit(*images(50), KeyedNoise(2))
        trained.append(vector(model))
        model.load_state_dict(begin)
        sgd.fit(*images(90), KeyedNoise(3))
    assert torch.equal(*trained)


class Recorded:
    """Keyed noise that remembers what it was asked for."""

    kind = "keyed"

    def __init__(self, *labels: int) -> None:
        self.asked: list[tuple[str, int]] = []
        self._source = KeyedNoise(*labels)

    def normal(self, size: int) -> NDArray[np.float64]:
        self.asked.append(("normal", size))
        return self._source.normal(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        self.asked.append(("uniform", size))
        return self._source.uniform(size)


@pytest.mark.parametrize(("count", "rate"), [(0, 0.5), (20, 1e-9), (20, 0.5), (20, 1.0), (1, 1.0)])
def test_every_step_tosses_a_coin_for_every_example_and_adds_noise(count: int, rate: float) -> None:
    """Whatever was drawn, and with no option for anything else: neither batches of a fixed size nor an order."""
    model, noise = cnn(), Recorded(1)
    DpSgd(model, settings(sample_rate=rate, steps=3), learning_rate=0.1).fit(*images(count), noise)
    assert noise.asked == 3 * [("uniform", count), ("normal", len(vector(model)))]


@pytest.mark.parametrize("drawn", [0, 1])
def test_a_batch_of_none_or_one_is_its_clipped_gradient_and_noise(drawn: int) -> None:
    x, y = images(1)
    model = cnn()
    start, wanted = vector(model), torch.zeros(len(vector(model)))
    if drawn:
        (wanted,) = micro_batches(model, x, y)
        wanted *= min(1.0, 0.5 / float(wanted.norm()))
    DpSgd(model, settings(steps=1, expected_batch=2.0), learning_rate=1.0).fit(x[:drawn], y[:drawn], Silence())
    torch.testing.assert_close(start - vector(model), wanted / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e18, 1e30, float("inf"), float("nan")])
def test_one_example_moves_the_sum_by_at_most_the_clip(scale: float) -> None:
    """Added or removed, whatever its values: the sensitivity that the noise is sized for."""
    x, y = images(9)
    x[-1] *= scale
    start = cnn()
    sums = []
    for count in (8, 9):
        model = cnn()
        model.load_state_dict(start.state_dict())
        DpSgd(model, settings(steps=1, expected_batch=1.0), learning_rate=1.0).fit(x[:count], y[:count], Silence())
        sums.append((vector(start) - vector(model)).double())
    assert torch.isfinite(sums[1]).all()
    assert float((sums[1] - sums[0]).norm()) <= 0.5 * (1 + 1e-5)
    if not np.isfinite(scale):
        assert torch.equal(sums[0], sums[1])


@pytest.mark.parametrize("count", [0, 1, 30])
def test_noise_is_added_whatever_was_drawn(count: int) -> None:
    """Its standard deviation is multiplier x clip / expected batch a step, also for an empty draw or no data at all."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 200))
    start = vector(model)
    x, y = images(count)
    tiny = settings(sample_rate=1e-9, steps=4)
    DpSgd(model, tiny, learning_rate=0.5).fit(x, y, KeyedNoise(3, count))
    noise = (vector(model) - start).double() / (0.5 * 1.5 * 0.5 / 8 * np.sqrt(4))
    assert abs(float(noise.var()) - 1) < 6 * np.sqrt(2 / len(noise))
    assert abs(float(noise.mean())) < 6 / np.sqrt(len(noise))


def test_the_noise_of_a_large_model_is_that_of_one_draw() -> None:
    """Taken in blocks, added in float64, rounded once, then divided."""
    model = nn.Linear(700, 500)
    start = vector(model)
    DpSgd(model, settings(sample_rate=1e-9, steps=1), learning_rate=1.0).fit(*images(3), KeyedNoise(7))
    source = KeyedNoise(7)
    source.uniform(3)
    drawn = (torch.from_numpy(source.normal(len(start))) * 1.5 * 0.5).float() / 8
    assert torch.equal(vector(model), start - drawn)


def test_examples_are_drawn_by_independent_coins() -> None:
    """Each example's own weight column tells how often it was drawn: binomial, and independent of the others."""
    count, steps = 60, 400
    model = nn.Linear(count, 2, bias=False)
    nn.init.zeros_(model.weight)
    public = settings(sample_rate=0.3, steps=steps, clip=1e3, expected_batch=1.0, noise_multiplier=1e-12)
    DpSgd(model, public, learning_rate=1e-6).fit(torch.eye(count), torch.zeros(count, dtype=torch.int64), KeyedNoise(4))
    drawn = (model.weight[0] * 2e6).detach().double().numpy()  # each draw moves it by lr x (1 - 1/2)
    assert drawn == pytest.approx(np.round(drawn), abs=0.1)
    variance = steps * 0.3 * 0.7
    assert ((drawn - steps * 0.3) ** 2 / variance).sum() == pytest.approx(count, abs=6 * np.sqrt(2 * count))
    assert abs(drawn.sum() - count * steps * 0.3) < 6 * np.sqrt(count * variance)


def test_the_denominator_is_public() -> None:
    x, y = images(10)
    changes = []
    for expected in (1.0, 4.0):
        model = cnn()
        nn.init.constant_(model[-1].weight, 0.1)
        torch.manual_seed(9)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        start = vector(model)
        DpSgd(model, settings(steps=1, expected_batch=expected), learning_rate=0.1).fit(x, y, Silence())
        changes.append(vector(model) - start)
    torch.testing.assert_close(changes[0], 4 * changes[1], rtol=1e-3, atol=1e-6)


def test_the_same_key_repeats_the_run_bit_for_bit_and_another_does_not() -> None:
    x, y = images()
    start = cnn()
    trained = []
    for seed, disturb in ((1, 0), (1, 17), (2, 0)):
        model = cnn()
        model.load_state_dict(start.state_dict())
        torch.manual_seed(disturb)
        DpSgd(model, settings(), learning_rate=0.1, momentum=0.5).fit(x, y, KeyedNoise(seed))
        trained.append(vector(model))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_one_trainer_serves_device_after_device() -> None:
    """Neither momentum nor anything else is carried from one fit to the next."""
    x, y = images()
    model = cnn()
    start = model.state_dict(keep_vars=False)
    start = {name: value.clone() for name, value in start.items()}
    sgd = DpSgd(model, settings(), learning_rate=0.1, momentum=0.9)
    trained = []
    for _ in range(2):
        model.load_state_dict(start)
        sgd.fit(x, y, KeyedNoise(6))
        trained.append(vector(model))
    assert torch.equal(trained[0], trained[1])


def test_system_noise_never_repeats_a_run() -> None:
    x, y = images()
    model = cnn()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    sgd = DpSgd(model, settings(), learning_rate=0.1)
    sgd.fit(x, y, SystemNoise())
    first = vector(model)
    model.load_state_dict(start)
    sgd.fit(x, y, SystemNoise())
    assert (vector(model) != first).all()


def test_nothing_of_the_data_stays_on_the_model() -> None:
    x, y = images()
    model = cnn().eval()
    sgd = DpSgd(model, settings(), learning_rate=0.1)
    sgd.fit(x, y, KeyedNoise(1))
    assert not model.training
    left = set()
    for module in model.modules():
        left |= {name for name, value in vars(module).items() if isinstance(value, Tensor)}
        left |= {"activations"} & set(vars(module))
    for parameter in model.parameters():
        left |= {name for name, value in vars(parameter).items() if isinstance(value, Tensor | list)}
        assert parameter.grad is None
    assert not left
    model.train()
    model(x).sum().backward()  # an ordinary model again
    assert not sgd._examples._hooks._captured
    assert all(p.grad_sample is None for p in model.parameters())


def test_a_failed_step_leaves_a_usable_trainer_without_data() -> None:
    x, y = images()
    model = cnn()
    sgd = DpSgd(model, settings(), learning_rate=0.1)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(IndexError):
        sgd.fit(x, y + 100, KeyedNoise(1))
    assert not sgd._examples._hooks._captured
    assert all(p.grad_sample is None for p in model.parameters())
    model.load_state_dict(start)
    sgd.fit(x, y, KeyedNoise(1))
    first = vector(model)
    fresh = cnn()
    fresh.load_state_dict(start)
    DpSgd(fresh, settings(), learning_rate=0.1).fit(x, y, KeyedNoise(1))
    assert torch.equal(first, vector(fresh))
