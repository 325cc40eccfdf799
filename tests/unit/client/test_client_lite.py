"""The trainer without torch against its slow twin, the torch trainer of the same task."""

import dataclasses
import subprocess
import sys

import heads
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedmesh.client.assignment import Assignment, Trained
from fedmesh.client.linear_head import LinearHead
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.lite_sgd import _clipped, gradient_rows
from fedmesh.client.randomness import noise_of, release_of
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer, build_model
from fedmesh.errors import BudgetError, ConfigError, DecodeError, LedgerError, RoundError
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summing import encode_examples, encode_update, mean_of
from fedmesh.quantization import arrays_of
from fedmesh.quantization.codec import DeltaCodec, FloatCodec
from fedmesh.types import Examples, Float32, Layout

HEAVY = ("torch", "opacus", "flwr", "onnx", "onnxruntime", "sklearn", "scipy", "pydantic", "dp_accounting")
KINDS: dict[str, dict[str, object]] = {
    "int8": {},
    "free scales": {"scales": "free", "ranges": {"input": (0.0123, 97)}},
    "float": {"training": "float", "ranges": {}},
}
MAX = 1 << 20


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, object]:
    return KINDS[request.param]


def assignment(**changes: object) -> Assignment:
    return dataclasses.replace(Assignment(1, 0, heads.start(), [0.5]), **changes)


def weights_of(task: Task, vector: Float32) -> torch.nn.Module:
    """The torch model of the task at these weights."""
    model = build_model(task)
    with torch.no_grad():
        next(model.parameters()).copy_(torch.from_numpy(vector).view(heads.CLASSES, heads.WIDTH))
    return model


def test_its_arrays_are_those_of_the_torch_model(kind: dict[str, object]) -> None:
    task = heads.task(**kind)
    assert LiteTrainer(task).layout == Layout.of(arrays_of(build_model(task))) == Trainer.of(task).layout


def test_logits_are_torchs_to_the_last_bit() -> None:
    task = heads.task()
    head, x = LinearHead.of(task), heads.examples(0, 300).x
    for seed in range(5):
        with torch.no_grad():
            want = weights_of(task, heads.start(seed))(torch.from_numpy(x)).numpy()
        got = head.logits(head.inputs(x), heads.start(seed).reshape(heads.CLASSES, heads.WIDTH))
        assert got.tobytes() == want.tobytes()
    assert np.abs(x).max() > 1  # some are clipped


def test_logits_without_exact_arithmetic_are_torchs_up_to_rounding(kind: dict[str, object]) -> None:
    task, x = heads.task(**kind), heads.examples(0).x
    with torch.no_grad():
        want = weights_of(task, heads.start())(torch.from_numpy(x)).numpy()
    head = LinearHead.of(task)
    got = head.logits(head.inputs(x), heads.start().reshape(heads.CLASSES, heads.WIDTH))
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.0, "local_epochs": 1}, {"batch_size": 100}])
@pytest.mark.parametrize("count", [11, 1, 0])
def test_plain_training_takes_torchs_steps(kind: dict[str, object], changes: dict[str, object], count: int) -> None:
    task = heads.task(**kind, **changes)
    lite, twin = LiteTrainer(task), Trainer.of(task)
    for device in (0, 1):
        mine = lite.fit(assignment(device=device), heads.examples(device, count))
        want = twin.fit(assignment(device=device), heads.examples(device, count))
        np.testing.assert_allclose(mine.delta, want.delta, atol=2e-6)
        assert mine.metrics == pytest.approx(want.metrics, abs=1e-5)
        assert mine.delta.dtype == np.float32
        assert (np.abs(mine.delta).max() > 1e-2) == bool(count)


@pytest.mark.parametrize("settings", [heads.DP, heads.SAMPLED], ids=["one gradient", "sampled"])
@pytest.mark.parametrize("count", [30, 1, 0])
def test_private_training_draws_what_dp_sgd_draws(kind: dict[str, object], settings: object, count: int) -> None:
    task, ledger = heads.task(**kind, dp=settings), heads.Recorder()
    mine = LiteTrainer(task).fit(assignment(), heads.examples(0, count), ledger=ledger)
    want = Trainer.of(task).fit(assignment(), heads.examples(0, count), ledger=heads.Recorder())
    np.testing.assert_allclose(mine.delta, want.delta, atol=2e-6)
    assert np.abs(mine.delta).max() > 1e-2
    assert mine.metrics == {}
    assert ledger.charged == [(task.dp.event(), release_of(task, assignment()))]  # type: ignore[union-attr]


def test_without_noise_to_speak_of_a_private_step_is_the_clipped_mean_gradient() -> None:
    settings = dataclasses.replace(heads.DP, noise_multiplier=1e-6)
    task = heads.task(dp=settings, momentum=0.0)
    examples = heads.examples(0)
    rows = np.concatenate(list(gradient_rows(LinearHead.of(task), heads.start(), examples))).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    assert norms.max() > settings.clip
    want = -task.learning_rate * (rows * np.minimum(1, settings.clip / norms)).sum(axis=0) / settings.expected_batch
    delta = LiteTrainer(task).fit(assignment(), examples, ledger=heads.Recorder()).delta
    np.testing.assert_allclose(delta, want, atol=1e-6)


@pytest.mark.parametrize("x", [np.inf, np.nan, 3e38], ids=str)
def test_an_example_without_a_finite_gradient_counts_as_zero(x: float) -> None:
    task = heads.task(training="float", ranges={}, dp=heads.DP)
    examples = heads.examples(0)
    deltas = []
    for value in (x, 0.0):
        examples.x[3] = value
        deltas.append(LiteTrainer(task).fit(assignment(), examples, ledger=heads.Recorder()).delta)
    np.testing.assert_array_equal(*deltas)


def obvious_rows(task: Task, examples: Examples) -> Float32:
    """One backward pass of the torch model for each example."""
    model = weights_of(task, heads.start())
    rows = []
    for x, y in zip(torch.from_numpy(examples.x), torch.from_numpy(examples.y), strict=True):
        model.zero_grad()
        F.cross_entropy(model(x[None]), y[None]).backward()
        rows.append(next(model.parameters()).grad.numpy().ravel().copy())  # type: ignore[union-attr]
    return np.stack(rows)


def test_the_gradients_of_examples_are_torchs(kind: dict[str, object]) -> None:
    task, examples = heads.task(**kind), heads.examples(0)
    want = obvious_rows(task, examples)
    for chunk_bytes in (1, 4 * heads.SIZE * 3, 1 << 22):
        chunks = list(gradient_rows(LinearHead.of(task), heads.start(), examples, chunk_bytes=chunk_bytes))
        np.testing.assert_allclose(np.concatenate(chunks), want, atol=1e-6)
        assert max(map(len, chunks)) == min(11, max(1, chunk_bytes // (4 * heads.SIZE)))


def in_sum(task: Task, examples: Examples, **changes: object) -> Trained:
    asked = assignment(ranges=[heads.summed("client").clip], **changes)
    return LiteTrainer(task).train(asked, examples, ledger=heads.Recorder())


def test_a_private_sum_of_examples_gets_their_clipped_gradients() -> None:
    task, examples = heads.summed_task("example"), heads.examples(0)
    assert task.summed is not None
    trained = in_sum(task, examples)
    seed = rotation_seed(1, heads.start())
    noise = noise_of(task, release_of(task, assignment(ranges=[task.summed.clip])))
    want = encode_examples(task.summed, [obvious_rows(task, examples)], clip=task.summed.clip, seed=seed, noise=noise)
    assert trained.values is not None
    assert np.abs(trained.values - want).max() <= 2  # a gradient's last bit may round another way
    assert (trained.packet, trained.metrics, trained.residual) == (b"", {}, None)
    step = mean_of(task.summed, trained.values, 1, clip=task.summed.clip, seed=seed)
    without = obvious_rows(task, examples).astype(np.float64)
    without *= np.minimum(1, task.summed.clip / np.linalg.norm(without, axis=1, keepdims=True))
    noise_std = task.summed.step * task.summed.clip * task.summed.sigma_local / task.summed.expected_batch
    assert np.abs(step + task.summed.step * without.sum(axis=0) / 9.0).max() < 6 * noise_std


def test_a_private_sum_of_devices_gets_the_clipped_update() -> None:
    task, examples = heads.summed_task("client"), heads.examples(0)
    assert task.summed is not None
    trained = in_sum(task, examples)
    update = LiteTrainer(heads.task()).fit(assignment(), examples).delta
    noise = noise_of(task, release_of(task, assignment(ranges=[task.summed.clip])))
    want = encode_update(task.summed, update, clip=task.summed.clip, seed=rotation_seed(1, heads.start()), noise=noise)
    assert trained.values is not None
    assert trained.values.tobytes() == want.tobytes()
    assert (trained.packet, trained.metrics, trained.residual) == (b"", {}, None)


@pytest.mark.parametrize("level", ["example", "client"])
def test_the_torch_trainer_puts_the_same_into_a_private_sum(level: str) -> None:
    task = heads.summed_task(level)
    for device, count in ((0, 11), (1, 0)):
        examples, asked = heads.examples(device, count), assignment(device=device, ranges=[0.3])
        mine = LiteTrainer(task).train(asked, examples, ledger=heads.Recorder()).values
        want = Trainer.of(task).train(asked, examples, ledger=heads.Recorder()).values
        assert mine is not None
        assert want is not None
        assert np.abs(mine - want).max() <= 2


@pytest.mark.parametrize(
    "task",
    [heads.task(dp=heads.DP), heads.summed_task("example"), heads.summed_task("client")],
    ids=["noise on the device", "examples", "devices"],
)
def test_a_private_round_is_paid_for_before_it_runs(task: Task) -> None:
    asked, ledger = assignment(round=3, ranges=[0.3]), heads.Recorder()
    LiteTrainer(task).train(asked, heads.examples(0, 0), ledger=ledger)
    assert [event.label for event, _ in ledger.charged] == ["head/round-3"]  # for nothing but noise, too
    with pytest.raises(BudgetError):
        LiteTrainer(task).train(asked, heads.examples(0), ledger=heads.Recorder(BudgetError("no")))
    with pytest.raises(LedgerError, match="give the device a ledger"):
        LiteTrainer(task).train(asked, heads.examples(0))


def test_packets_are_those_of_the_task() -> None:
    task, examples = heads.task(), heads.examples(0)
    lite = LiteTrainer(task)
    fitted = lite.fit(assignment(), examples)
    exact = lite.train(assignment(), examples)
    np.testing.assert_array_equal(FloatCodec(lite.layout).decode_vector(exact.packet, max_bytes=MAX), fitted.delta)
    assert exact.metrics == fitted.metrics
    coarse = LiteTrainer(heads.task(codec="integer", error_feedback=True)).train(assignment(), examples)
    sent = DeltaCodec(lite.layout, 8, [0.5]).decode_vector(coarse.packet, max_bytes=MAX)
    np.testing.assert_allclose(sent + coarse.residual, fitted.delta, atol=1e-6)
    again = lite.train(assignment(), examples)
    assert again == exact


def test_what_does_not_fit_is_refused_before_it_is_paid_for() -> None:
    task, ledger = heads.task(dp=heads.DP), heads.Recorder()
    lite, examples = LiteTrainer(task), heads.examples(0)
    with pytest.raises(DecodeError):
        lite.train(assignment(weights=heads.start()[1:]), examples, ledger=ledger)
    with pytest.raises(DecodeError):
        lite.train(assignment(weights=np.full(heads.SIZE, np.nan, np.float32)), examples, ledger=ledger)
    with pytest.raises(ConfigError, match="the device holds"):
        lite.train(assignment(), Examples(examples.x[:, 1:], examples.y), ledger=ledger)
    for ranges in ([], [0.5, 0.5], [np.nan]):
        with pytest.raises(ConfigError, match="delta range"):
            LiteTrainer(heads.task(dp=heads.DP, codec="integer")).train(
                assignment(ranges=ranges), examples, ledger=ledger
            )
    wider = dataclasses.replace(heads.summed("example"), size=heads.SIZE + 1)
    with pytest.raises(ConfigError, match="was accounted for 85"):
        LiteTrainer(dataclasses.replace(heads.summed_task("example"), summed=wider)).train(
            assignment(ranges=[0.3]), examples, ledger=ledger
        )
    in_a_sum = LiteTrainer(heads.summed_task("example"))
    for changes in ({"ranges": [0.2]}, {"ranges": []}, {"weights": heads.start()[1:], "ranges": [0.3]}):
        with pytest.raises(DecodeError):
            in_a_sum.train(assignment(**changes), examples, ledger=ledger)
    assert ledger.charged == []


def test_a_diverged_round_sends_nothing() -> None:
    task = heads.task(training="float", ranges={}, codec="integer", learning_rate=3e38)
    with pytest.raises(RoundError):
        LiteTrainer(task).train(assignment(), heads.examples(0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "lenet"}, "knows the model 'linear_head'"),
        ({"model_options": {"bias": True}}, "with options"),
        ({"input_shape": (1, 4, 4)}, "takes vectors"),
        ({"ranges": {}}, "another model"),
        ({"ranges": {"input": (2.0**-7, 128), "more": (1.0, 0)}}, "another model"),
        ({"ranges": {"input": (0.3, 128)}}, "power of two"),
        ({"dp": heads.DP, "weighting": "examples"}, "weighting by examples"),
        ({"learning_rate": 0.0}, "positive"),
    ],
)
def test_impossible_tasks_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        LiteTrainer(heads.task(**changes))


@pytest.mark.parametrize("task", ["heads.task()", "heads.task(dp=heads.DP)", "heads.summed_task('example')"])
def test_a_device_of_its_kind_loads_nothing_heavy(task: str) -> None:
    program = (
        "import sys, heads\n"
        "from fedmesh.client.lite import LiteTrainer\n"
        "from fedmesh.client.assignment import Assignment\n"
        f"task = {task}\n"
        "asked = Assignment(1, 0, heads.start(), [0.3])\n"
        "LiteTrainer(task).train(asked, heads.examples(0), ledger=heads.Recorder())\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert done.stdout.strip() == "[]"


def test_no_example_adds_more_than_the_clip_in_spite_of_float32():
    rng = np.random.default_rng(1)
    inputs = (rng.normal(size=(500, 50)) * 10 ** rng.uniform(-2, 8, (500, 1))).astype(np.float32)
    errors = rng.normal(size=(500, 10)).astype(np.float32)
    clipped = _clipped(errors, np.linalg.norm(inputs.astype(np.float64), axis=1), 0.3).astype(np.float64)
    norms = np.linalg.norm(clipped, axis=1) * np.linalg.norm(inputs.astype(np.float64), axis=1)
    assert norms.max() <= 0.3
