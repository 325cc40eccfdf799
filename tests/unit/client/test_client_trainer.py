"""A device's round: promises, payment before training, packets, randomness."""

import dataclasses
from pathlib import Path

import heads
import numpy as np
import pytest
import training
from heads import Recorder

from fedmesh.client.assignment import Assignment
from fedmesh.client.ledgers import ledger_path, open_ledger
from fedmesh.client.randomness import noise_of, release_of, rounding
from fedmesh.client.trainer import Trainer
from fedmesh.errors import BudgetError, ConfigError, DecodeError, LedgerError, RoundError
from fedmesh.privacy.noise import KeyedNoise, SystemNoise
from fedmesh.quantization.codec import DeltaCodec, FloatCodec
from fedmesh.types import Examples

RANGES = [0.5] * 6
MAX = 1 << 20


def assignment(**changes: object) -> Assignment:
    return dataclasses.replace(Assignment(1, 0, training.start(), RANGES), **changes)


def test_the_packet_holds_the_change_of_the_weights() -> None:
    trainer, examples = Trainer.of(training.task()), training.examples(0)
    packet = trainer.train(assignment(), examples).packet
    delta = FloatCodec(trainer.layout).decode_vector(packet, max_bytes=MAX)
    np.testing.assert_array_equal(delta, trainer.change(assignment(), examples))
    assert np.abs(delta).max() > 1e-3


def test_an_integer_packet_is_the_change_up_to_one_step_of_the_grid() -> None:
    trainer, examples = Trainer.of(training.int8_task()), training.examples(0)
    trained = trainer.train(assignment(), examples)
    codec = DeltaCodec(trainer.layout, 8, RANGES)
    difference = codec.decode_vector(trained.packet, max_bytes=MAX) - trainer.change(assignment(), examples)
    assert np.abs(difference).max() <= 0.5 / 127
    assert trained.residual is None


def test_error_feedback_returns_what_was_lost_and_takes_it_up_again() -> None:
    trainer, examples = Trainer.of(training.int8_task(error_feedback=True)), training.examples(0)
    first = trainer.train(assignment(), examples)
    delta = trainer.change(assignment(), examples)
    codec = DeltaCodec(trainer.layout, 8, RANGES)
    sent = codec.decode_vector(first.packet, max_bytes=MAX)
    np.testing.assert_allclose(sent + first.residual, delta, atol=1e-6)
    second = trainer.train(assignment(round=2, residual=first.residual), examples)
    sent_again = codec.decode_vector(second.packet, max_bytes=MAX)
    whole = delta * 0 + trainer.change(assignment(round=2), examples) + first.residual
    np.testing.assert_allclose(sent_again + second.residual, whole, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"codec": "float32", "training": "float"}, {"error_feedback": True}])
def test_count_and_loss_stay_beside_the_packet_and_only_without_privacy(changes: dict[str, object]) -> None:
    task = training.int8_task(secure_aggregation=False)
    trained = Trainer.of(dataclasses.replace(task, **changes)).train(assignment(), training.examples(0))
    assert trained.metrics["examples"] == 11
    assert 0 < trained.metrics["loss"] < 50
    private = training.task(dp=training.DP)
    assert Trainer.of(private).train(assignment(), training.examples(0), ledger=Recorder()).metrics == {}


def test_a_task_reports_metrics_inside_the_sum_only_and_never_under_privacy() -> None:
    assert training.int8_task().reported == ()
    assert training.int8_task(secure_aggregation=True).reported == ("examples", "loss")
    assert training.int8_task(secure_aggregation=True, dp=training.DP).reported == ()


def test_rounds_and_devices_draw_their_own_randomness_and_repeat_it() -> None:
    trainer, examples = Trainer.of(training.task()), training.examples(0)
    packets = {
        (number, device): trainer.train(assignment(round=number, device=device), examples).packet
        for number in (1, 2)
        for device in (0, 1)
    }
    assert len(set(packets.values())) == 4
    assert trainer.train(assignment(round=2, device=1), examples).packet == packets[2, 1]


def test_a_real_device_repeats_nothing() -> None:
    task = training.task(keyed_noise_seed=None)
    assert isinstance(noise_of(task, release_of(task, assignment())), SystemNoise)
    draws = {rounding(task, 1, 0).integers(1 << 60) for _ in range(3)}
    assert len(draws) == 3


def test_a_release_is_named_by_all_that_it_comes_from() -> None:
    weights = training.start()
    releases = {
        release_of(training.task(), assignment()),
        release_of(training.task(learning_rate=0.01), assignment()),
        release_of(training.task(), assignment(round=2)),
        release_of(training.task(), assignment(device=1)),
        release_of(training.task(), assignment(weights=weights + 1)),
        release_of(training.task(keyed_noise_seed=8), assignment()),
    }
    assert len(releases) == 6
    assert None not in releases
    assert isinstance(noise_of(training.task(), releases.pop()), KeyedNoise)


def test_a_release_is_the_same_inside_a_secure_sum() -> None:
    first, second = (training.task(secure_aggregation=secure) for secure in (False, True))
    assert release_of(first, assignment()) == release_of(second, assignment())
    other = training.task(secure_aggregation=True, group_size=7)
    assert release_of(other, assignment()) == release_of(second, assignment())


def test_a_release_of_a_private_sum_is_named_by_its_clip() -> None:
    clips = [assignment(ranges=[clip]) for clip in (0.3, 0.4)]
    in_a_sum = heads.summed_task("client")
    assert len({release_of(in_a_sum, asked) for asked in clips}) == 2
    assert len({release_of(training.task(), asked) for asked in clips}) == 1  # a packet's scales follow the noise


def test_a_private_round_is_paid_for_before_it_runs() -> None:
    task = training.task(dp=training.DP)
    trainer, ledger = Trainer.of(task), Recorder()
    trainer.train(assignment(round=3), training.examples(0), ledger=ledger)
    ((event, release),) = ledger.charged
    assert event == training.DP.event()
    assert event.label == "test/round-3"
    assert release == release_of(task, assignment(round=3))
    before = trainer.parameters.values.clone()
    with pytest.raises(BudgetError):
        trainer.change(assignment(), training.examples(0), ledger=Recorder(BudgetError("no")))
    np.testing.assert_array_equal(trainer.parameters.values.numpy(), training.start())
    assert not np.array_equal(before.numpy(), training.start())


def test_a_private_round_needs_a_ledger_even_without_examples() -> None:
    trainer = Trainer.of(training.task(dp=training.DP))
    with pytest.raises(LedgerError, match="give the device a ledger"):
        trainer.train(assignment(), training.examples(0))
    ledger = Recorder()
    trainer.train(assignment(), training.examples(0, 0), ledger=ledger)
    assert len(ledger.charged) == 1  # noise alone was released: the count must not show


def test_the_same_private_round_again_is_the_same_packet_and_free(tmp_path: Path) -> None:
    trainer, examples = Trainer.of(training.int8_task(dp=training.DP)), training.examples(0, 30)
    packets = []
    for _ in range(2):
        with open_ledger(tmp_path, 0, epsilon=training.DP.epsilon, delta=training.DP.delta) as ledger:
            packets.append(trainer.train(assignment(), examples, ledger=ledger).packet)
            assert len(ledger.charges) == 1
    assert packets[0] == packets[1]
    assert ledger_path(tmp_path, 0).exists()


def test_a_device_over_its_budget_declines(tmp_path: Path) -> None:
    small = dataclasses.replace(training.DP, epsilon=0.3)
    trainer = Trainer.of(training.task(dp=small))
    with open_ledger(tmp_path, 0, epsilon=small.epsilon, delta=small.delta) as ledger, pytest.raises(BudgetError):
        trainer.train(assignment(), training.examples(0), ledger=ledger)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dp": training.DP, "codec": "integer", "error_feedback": True}, "past the DP clip"),
        ({"dp": training.DP, "weighting": "examples"}, "example count"),
        ({"error_feedback": True}, "float32 codec"),
        ({"secure_aggregation": True}, "use the integer codec"),
        ({"weight_cap": 255}, "wanted 1 for 'uniform'"),
        ({"weighting": "examples", "weight_cap": 0}, "1 or more for 'examples'"),
        ({"batch_size": 0}, "positive"),
        ({"model": "nothing_like_it"}, "not one of the models"),
        ({"input_shape": (9, 128)}, "takes examples of shape"),
    ],
)
def test_impossible_tasks_are_refused_at_once(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer.of(training.task(**changes))


def test_examples_of_another_shape_or_type_are_refused() -> None:
    trainer, good = Trainer.of(training.task()), training.examples(0)
    bad = [
        Examples(good.x[:, :, :4], good.y),
        Examples(good.x.astype(np.float64), good.y),
        Examples(good.x, good.y.astype(np.int32)),
        Examples(good.x, good.y[:-1]),
    ]
    for examples in bad:
        with pytest.raises(ConfigError, match="the device holds x"):
            trainer.train(assignment(), examples)


def test_a_server_that_talks_nonsense_is_refused() -> None:
    trainer = Trainer.of(training.int8_task())
    with pytest.raises(DecodeError, match="negative"):
        trainer.train(assignment(round=-1), training.examples(0))
    with pytest.raises(DecodeError, match="the task and the server disagree"):
        trainer.train(assignment(weights=np.zeros(4, np.float32)), training.examples(0))
    with pytest.raises(ConfigError, match="delta ranges"):
        trainer.train(assignment(ranges=[0.5]), training.examples(0))
    ledger = Recorder()
    with pytest.raises(ConfigError, match="delta ranges"):
        Trainer.of(training.int8_task(dp=training.DP)).train(
            assignment(ranges=[0.5]), training.examples(0), ledger=ledger
        )
    assert ledger.charged == []  # refused before it is paid for


def test_training_that_diverges_sends_nothing() -> None:
    trainer = Trainer.of(training.task(learning_rate=1e30, local_epochs=3))
    with pytest.raises(RoundError):
        trainer.train(assignment(), training.examples(0))


def test_training_leaves_the_global_generators_alone() -> None:
    import torch

    state = torch.get_rng_state()
    task = training.task(dp=training.DP)
    Trainer.of(task).train(assignment(), training.examples(0), ledger=Recorder())
    assert torch.equal(torch.get_rng_state(), state)
