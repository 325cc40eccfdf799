"""The head behind a backbone: trained as torch trains it where the rest is frozen, and nothing else moves."""

import dataclasses
import subprocess
import sys

import heads
import lite_models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lite_models import Cut, cut

from fedmesh.client.assignment import Assignment
from fedmesh.client.head_trainer import HeadTrainer
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.randomness import batch_order, noise_of, release_of
from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer, build_model
from fedmesh.errors import BudgetError, ConfigError, DecodeError, LedgerError, RoundError
from fedmesh.privacy.dpsgd import DpSgd
from fedmesh.quantization.codec import DeltaCodec
from fedmesh.types import Examples, Float32, Layout

NAMES = ["digits_cnn", "har_cnn"]
DP = dataclasses.replace(heads.DP, clip=0.3, noise_multiplier=0.05, sample_rate=0.5, steps=3, expected_batch=8.0)


def asked(made: Cut, **changes: object) -> Assignment:
    ranges = [0.5] * len(made.task.head.names)  # type: ignore[union-attr]
    base = Assignment(1, 0, made.weights, ranges, backbone=made.backbone)
    return dataclasses.replace(base, **changes)


def examples(name: str, count: int = 23) -> Examples:
    return lite_models.examples(0, count, name)


def frozen(made: Cut) -> torch.nn.Module:
    """The torch model with the weights of `made`, of which the head alone is trained."""
    model, head = build_model(made.task), made.task.head
    assert head is not None
    parts = head.layout.unflatten(made.weights)
    for name, parameter in model.named_parameters():
        parameter.data = torch.from_numpy(parts[name].copy())
        parameter.requires_grad_(name in (head.weight, head.bias))
    return model


def delta_of(model: torch.nn.Module, made: Cut) -> Float32:
    parts = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    return Layout.of(parts).flatten(parts) - made.weights


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_plain_training_is_torchs_with_the_rest_frozen(name: str, momentum: float) -> None:
    made, data = cut(name), examples(name)
    task = made.with_task(momentum=momentum)
    fitted = HeadTrainer(task).fit(asked(made), data)
    model, order = frozen(made), batch_order(task, 1, 0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], task.learning_rate, momentum)
    for _ in range(task.local_epochs):
        for batch in torch.split(torch.from_numpy(order.permutation(len(data))), task.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.from_numpy(data.x)[batch]), torch.from_numpy(data.y)[batch]).backward()
            optimizer.step()
    np.testing.assert_allclose(fitted.delta, delta_of(model, made), atol=1e-5)
    assert np.abs(fitted.delta).max() > 1e-3
    assert fitted.metrics["examples"] == 23


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clip", [0.05, 0.3, 100.0])
def test_private_training_clips_and_draws_as_torch_does_with_the_rest_frozen(name: str, clip: float) -> None:
    made, data = cut(name), examples(name)
    task = made.with_task(dp=dataclasses.replace(DP, clip=clip), learning_rate=0.5)
    fitted = HeadTrainer(task).fit(asked(made), data, ledger=heads.Recorder())
    model = frozen(made)
    noise = noise_of(task, release_of(task, asked(made)))
    DpSgd(model, task.dp, learning_rate=task.learning_rate).fit(  # type: ignore[arg-type]
        torch.from_numpy(data.x), torch.from_numpy(data.y), noise
    )
    np.testing.assert_allclose(fitted.delta, delta_of(model, made), atol=1e-5 * max(1.0, clip))
    assert np.abs(fitted.delta).max() > 1e-3
    assert fitted.metrics == {}


@pytest.mark.parametrize("private", [False, True])
def test_nothing_but_the_head_moves(private: bool) -> None:
    made = cut()
    task = made.with_task(dp=DP if private else None)
    trainer = HeadTrainer(task)
    trained = trainer.train(asked(made), examples("digits_cnn"), ledger=heads.Recorder())
    codec = DeltaCodec(trainer.layout, 8, np.full(6, 0.5, np.float32))
    codes = trainer.layout.unflatten(codec.codes(trained.packet, max_bytes=codec.packet_bytes))
    assert {name for name, part in codes.items() if part.any()} == {task.head.weight, task.head.bias}  # type: ignore[union-attr]
    assert Trainer.of(made.task).layout == trainer.layout


def test_of_a_linear_head_it_is_what_the_trainer_without_a_backbone_does() -> None:
    made, data = cut("linear_head"), examples("linear_head")
    for changes in ({}, {"dp": DP}):
        mine = HeadTrainer(made.with_task(**changes)).fit(asked(made), data, ledger=heads.Recorder()).delta
        plain = made.with_task(head=None, keyed_noise_seed=7, **changes)
        want = LiteTrainer(plain).fit(asked(made, backbone=None), data, ledger=heads.Recorder()).delta
        if not changes:  # the noise is another release's
            np.testing.assert_array_equal(mine, want)
        assert mine.shape == want.shape


def test_the_noise_of_two_backbones_is_not_the_same() -> None:
    """Two releases with one noise would show their difference without any."""
    made = cut()
    task = made.with_task(dp=DP)
    other = cut("digits_cnn", "free").backbone
    names = {release_of(task, asked(made, backbone=data)) for data in (made.backbone, other, None)}
    assert len(names) == 3
    full = made.with_task(dp=DP, head=None)
    assert release_of(task, asked(made, backbone=None)) == release_of(full, asked(made, backbone=None))


def test_a_private_round_is_paid_for_before_it_runs() -> None:
    made, ledger = cut(), heads.Recorder()
    task, data = made.with_task(dp=DP), examples("digits_cnn")
    HeadTrainer(task).train(asked(made, round=3), data[:0], ledger=ledger)
    assert [event.label for event, _ in ledger.charged] == ["cut/round-3"]
    assert ledger.charged[0][0] == DP.event("cut/round-3")  # as a full device's
    with pytest.raises(BudgetError):
        HeadTrainer(task).train(asked(made), data, ledger=heads.Recorder(BudgetError("no")))
    with pytest.raises(LedgerError, match="give the device a ledger"):
        HeadTrainer(task).train(asked(made), data)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbone": None}, "without a backbone"),
        ({"backbone": b"nonsense"}, "no ONNX model|let through"),
        ({"backbone": cut("har_cnn").backbone}, "does not take examples"),
        ({"weights": np.zeros(3, np.float32)}, "weights of shape"),
        ({"weights": np.full(1168, np.nan, np.float32)}, "diverged"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_paid_for(changes: dict[str, object], said: str) -> None:
    made, ledger = cut(), heads.Recorder()
    with pytest.raises(DecodeError, match=said):
        HeadTrainer(made.with_task(dp=DP)).train(asked(made, **changes), examples("digits_cnn"), ledger=ledger)
    for ranges in ([], [np.nan] * 6):
        with pytest.raises(ConfigError, match="delta range"):
            HeadTrainer(made.with_task(dp=DP)).train(asked(made, ranges=ranges), examples("digits_cnn"), ledger=ledger)
    with pytest.raises(ConfigError, match="the device holds"):
        HeadTrainer(made.with_task(dp=DP)).train(asked(made), examples("har_cnn"), ledger=ledger)
    assert ledger.charged == []


def test_a_diverged_round_sends_nothing() -> None:
    made = cut()
    with pytest.raises(RoundError):
        HeadTrainer(made.with_task(learning_rate=3e38)).train(asked(made), examples("digits_cnn"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"head": None}, "does not say which layer"),
        ({"training": "float", "ranges": {}}, "quantization.training = 'qat'"),
        ({"ranges": {}}, "those of another model"),
        ({"summed": heads.summed("example"), "secure_aggregation": True}, "in the mode 'local'"),
        ({"summed": heads.summed("client"), "secure_aggregation": True}, "in the mode 'local'"),
        ({"dp": DP, "weighting": "examples"}, "weighting by examples"),
    ],
)
def test_impossible_tasks_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        HeadTrainer(cut().with_task(**changes))


def test_a_task_says_its_head_to_whoever_reads_it() -> None:
    task = cut().task
    plain = task.to_plain()
    assert Task.from_plain(plain) == task
    assert plain["head"]["shapes"][0] == [3, 1, 3, 3]
    for changes in ({"weight": "nope"}, {"bias": "0.bias"}, {"shapes": [[1]]}, {"more": 1}, {"names": 3}):
        with pytest.raises(ConfigError):
            Task.from_plain({**plain, "head": {**plain["head"], **changes}})


def test_a_lite_device_loads_neither_torch_nor_onnx(tmp_path: object) -> None:
    made = cut()
    program = (
        "import json, sys\n"
        "import numpy as np\n"
        "from fedmesh.client.head_trainer import HeadTrainer\n"
        "from fedmesh.client.assignment import Assignment\n"
        "from fedmesh.client.task import Task\n"
        "from fedmesh.types import Examples\n"
        "task, weights, backbone = json.loads(sys.stdin.read())\n"
        "x = np.random.default_rng(1).standard_normal((5, 1, 8, 8), dtype=np.float32)\n"
        "asked = Assignment(1, 0, np.array(weights, np.float32), [0.5] * 6, backbone=bytes.fromhex(backbone))\n"
        "HeadTrainer(Task.from_plain(task)).train(asked, Examples(x, np.arange(5)))\n"
        "heavy = ('torch', 'onnx', 'opacus', 'flwr', 'scipy', 'dp_accounting', 'google.protobuf')\n"
        "print('onnxruntime' in sys.modules, [name for name in heavy if name in sys.modules])"
    )
    import json

    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([made.task.to_plain(), made.weights.tolist(), made.backbone.hex()]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "True []"
