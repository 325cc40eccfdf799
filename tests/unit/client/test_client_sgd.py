"""The fast loop against its slow, obvious twin: torch.optim.SGD over the same batches."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import training
from torch import nn

from fedmesh.client.cohort import Cohort, Member, cohort_size
from fedmesh.client.parameters import FlatParameters
from fedmesh.client.sgd import LocalSgd
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer, build_model
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.types import Examples, Float32, Layout

TASKS = {
    "float": training.task(),
    "two epochs, no momentum": training.task(local_epochs=2, momentum=0.0),
    "quantization-aware": training.int8_task(),
}


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


def obvious(task: Task, weights: Float32, examples: Examples, order: np.random.Generator) -> Float32:
    model = build_model(task)
    layout = Layout.of({name: p.detach().numpy() for name, p in model.named_parameters()})
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), layout.unflatten(weights).values(), strict=True):
            parameter.copy_(torch.from_numpy(value))
    optimizer = torch.optim.SGD(model.parameters(), lr=task.learning_rate, momentum=task.momentum)
    for _ in range(task.local_epochs):
        shuffled = order.permutation(len(examples))
        for first in range(0, len(examples), task.batch_size):
            batch = shuffled[first : first + task.batch_size]
            optimizer.zero_grad()
            F.cross_entropy(model(torch.from_numpy(examples.x[batch])), torch.from_numpy(examples.y[batch])).backward()
            optimizer.step()
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]) - weights


def fresh(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_loop_takes_the_steps_of_torch_sgd(task: Task) -> None:
    trainer, weights = Trainer.of(task), training.start()
    sgd = LocalSgd(task, trainer.model, trainer.parameters)
    for device in (0, 1):  # the second on a model that has been used
        examples = training.examples(device)
        want = obvious(task, weights, examples, fresh())
        assert np.abs(want).max() > 1e-3
        np.testing.assert_allclose(sgd.fit(weights, examples, fresh()).delta, want, atol=2e-6)


def test_training_again_is_bit_for_bit_the_same(task: Task) -> None:
    trainer, weights, examples = Trainer.of(task), training.start(), training.examples(0)
    sgd = LocalSgd(task, trainer.model, trainer.parameters)
    first = sgd.fit(weights, examples, fresh())
    sgd.fit(weights, training.examples(1), fresh(8))
    again = sgd.fit(weights, examples, fresh())
    np.testing.assert_array_equal(again.delta, first.delta)
    assert again.metrics == first.metrics


def test_the_loss_is_the_mean_over_the_examples_of_the_last_epoch() -> None:
    task = training.task(local_epochs=2, batch_size=4, momentum=0.0, learning_rate=1e-9)  # too slow to move it
    trainer, weights, examples = Trainer.of(task), training.start(), training.examples(0, 11)
    trainer.parameters.load(weights)
    with torch.no_grad():
        want = F.cross_entropy(trainer.model(torch.from_numpy(examples.x)), torch.from_numpy(examples.y)).item()
    metrics = LocalSgd(task, trainer.model, trainer.parameters).fit(weights, examples, fresh()).metrics
    assert metrics == pytest.approx({"examples": 11, "loss": want}, rel=1e-5)
    faster = training.task(local_epochs=2, batch_size=4, momentum=0.0, learning_rate=0.1)
    assert LocalSgd(faster, trainer.model, trainer.parameters).fit(weights, examples, fresh()).metrics["loss"] < want


def test_a_device_without_examples_does_not_move_and_reports_none() -> None:
    trainer, weights = Trainer.of(training.task()), training.start()
    fitted = LocalSgd(training.task(), trainer.model, trainer.parameters).fit(weights, training.examples(0, 0), fresh())
    assert not fitted.delta.any()
    assert fitted.metrics == {"examples": 0, "loss": 0.0}


def test_a_cohort_equals_one_after_another(task: Task) -> None:
    trainer, weights = Trainer.of(task), training.start()
    sizes = (11, 3, 8, 0, 4, 1)
    devices = [training.examples(device, size) for device, size in enumerate(sizes)]
    sgd = LocalSgd(task, trainer.model, trainer.parameters)
    one_by_one = [sgd.fit(weights, examples, fresh(device)) for device, examples in enumerate(devices)]
    cohort = Cohort(task, trainer.model, trainer.parameters)
    together = cohort.fit([Member(weights, examples, fresh(device)) for device, examples in enumerate(devices)])
    for alone, member in zip(one_by_one, together, strict=True):
        np.testing.assert_allclose(member.delta, alone.delta, atol=2e-6)
        assert member.metrics == pytest.approx(alone.metrics, abs=1e-5)
    assert not together[3].delta.any()
    assert together[3].metrics == {"examples": 0, "loss": 0.0}


def test_the_members_of_a_cohort_may_start_from_different_weights() -> None:
    task, weights, examples = training.task(), training.start(), training.examples(0)
    trainer = Trainer.of(task)
    cohort = Cohort(task, trainer.model, trainer.parameters)
    both = cohort.fit([Member(weights, examples, fresh()), Member(weights * 0.5, examples, fresh())])
    sgd = LocalSgd(task, trainer.model, trainer.parameters)
    alone = sgd.fit(weights * np.float32(0.5), examples, fresh())
    np.testing.assert_allclose(both[1].delta, alone.delta, atol=2e-6)


def test_batching_is_chosen_by_model_and_task() -> None:
    small, large = nn.Linear(10, 10), nn.Linear(500, 500)
    assert cohort_size(training.task(batching="always"), large) > 1
    assert cohort_size(training.task(), large) == 1
    assert cohort_size(training.task(batching="never"), small) == 1
    assert cohort_size(training.task(dp=training.DP, batching="always"), small) == 1


def test_parameters_are_views_of_one_vector_in_the_order_of_the_layout() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    before = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    flat = FlatParameters(model)
    np.testing.assert_array_equal(flat.values.numpy(), before)
    flat.load(np.arange(11, dtype=np.float32))
    assert model[1].bias.item() == 10
    assert flat.layout == Layout(("0.weight", "0.bias", "1.weight", "1.bias"), ((2, 3), (2,), (1, 2), (1,)))
    flat.link_gradients()
    model(torch.ones(1, 3)).sum().backward()
    assert flat.gradients[-1] == 1


@pytest.mark.parametrize(
    "weights",
    [np.zeros(3, np.float32), np.zeros(11), np.full(11, np.nan, np.float32), np.full(11, np.inf, np.float32)],
    ids=["length", "type", "nan", "infinity"],
)
def test_weights_of_another_model_are_refused(weights: Float32) -> None:
    flat = FlatParameters(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)))
    with pytest.raises(DecodeError):
        flat.load(weights)


def test_only_float32_parameters_on_the_cpu_are_trained() -> None:
    with pytest.raises(ConfigError, match=r"weight is torch\.float64"):
        FlatParameters(nn.Linear(2, 2).double())
    with pytest.raises(ConfigError, match="nothing to train"):
        FlatParameters(nn.ReLU())
