from dataclasses import replace

import numpy as np
import pytest
from flower_apps import LAYOUT
from flwr.app import ConfigRecord, Message, RecordDict
from private_sums import sum_settings

from fedmesh.errors import ConfigError, RoundError
from fedmesh.flower import adopt
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.flower.records import ranges_in
from fedmesh.privacy.noise import KeyedNoise
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summed import QuantileSettings
from fedmesh.privacy.summing import encode_update
from fedmesh.quantization.codec import relative_ranges
from fedmesh_strategies.fedavg import FedAvg

START = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
SETTINGS = sum_settings(clip=2.0, noise_multiplier=0.001, honest=4, colluders=1, members=8, size=LAYOUT.size)
QUANTILE = QuantileSettings(target=0.5, rate=0.2, noise_multiplier=0.01)


class Nodes:
    def get_node_ids(self):
        return [2, 3, 4, 5, 6]


def strategy(**changes):
    settings = replace(SETTINGS, **changes)
    return FedAvg(layout=LAYOUT, ranges=relative_ranges(0.5), summed=settings, noise_seed=3)


def configured(rule, number=1):
    adopt(7)
    return list(rule.configure_train(number, vector_record("model", START), ConfigRecord(), Nodes()))


def total_of(rule, updates, number=1):
    settings, seed = rule._private.settings, rotation_seed(number, START)
    return sum(
        encode_update(settings, update, clip=rule._private.clip, seed=seed, noise=KeyedNoise(5, "test", place))
        for place, update in enumerate(updates)
    )


def updates(count, norm):
    rows = np.random.default_rng(2).normal(size=(count, LAYOUT.size))
    return (norm * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_devices_are_told_the_clip_and_the_weights_move_by_the_mean():
    rule, rows = strategy(), updates(6, 1.5)
    (first, *_) = configured(rule)
    assert ranges_in(first.content) == [2.0]
    moved = vector(rule.apply_sum(total_of(rule, rows), 6), "model", dtype="float32", max_bytes=4 * LAYOUT.size)
    np.testing.assert_allclose(moved - START, rows.mean(0), atol=0.005)


def test_a_clip_that_follows_its_quantile_is_journaled():
    rule = strategy(quantile=QUANTILE)
    configured(rule)
    rule.apply_sum(total_of(rule, updates(6, 0.1)), 6)
    assert rule.snapshot()["clip"] == pytest.approx(2.0 * np.exp(-0.1), rel=0.01)
    again = strategy(quantile=QUANTILE)
    again.restore(rule.snapshot())
    assert ranges_in(configured(again, 2)[0].content) == [rule.snapshot()["clip"]]


def test_a_trusted_server_adds_its_noise_after_the_sum():
    rule, rows = strategy(trusted_server=True, noise_multiplier=1.0), updates(6, 1.0)
    configured(rule)
    total = total_of(rule, rows)
    moved = vector(rule.apply_sum(total, 6), "model", dtype="float32", max_bytes=4 * LAYOUT.size)
    noise = moved - START - rows.mean(0)
    assert 0.5 < noise.std() * 6 / 2.0 < 1.6  # the multiplier, by fifteen draws
    configured(rule)
    again = vector(rule.apply_sum(total, 6), "model", dtype="float32", max_bytes=4 * LAYOUT.size)
    np.testing.assert_array_equal(again, moved)  # keyed: the run can be repeated


def test_a_sum_of_too_few_is_not_used():
    rule = strategy()
    configured(rule)
    with pytest.raises(RoundError, match="the noise is sized for 5"):
        rule.apply_sum(total_of(rule, updates(4, 1.0)), 4)


def test_a_sum_is_of_one_round():
    rule = strategy()
    with pytest.raises(RoundError, match="before a round was configured"):
        rule.apply_sum(np.zeros(SETTINGS.length, np.int64), 6)
    configured(rule)
    rule.apply_sum(total_of(rule, updates(6, 1.0)), 6)
    with pytest.raises(RoundError, match="before a round was configured"):
        rule.apply_sum(total_of(rule, updates(6, 1.0)), 6)


def test_answers_outside_a_secure_sum_are_not_taken():
    rule = strategy()
    (message, *_) = configured(rule)
    with pytest.raises(RoundError, match="do not answer outside a secure sum"):
        rule.aggregate_train(1, [Message(RecordDict(), reply_to=message)])


def test_foreign_state_is_refused():
    with pytest.raises(ConfigError, match="not one of FedAvg's"):
        strategy().restore({"velocity": 1.0})
    with pytest.raises(ConfigError, match="not one of FedAvg's"):
        FedAvg(layout=LAYOUT, ranges=relative_ranges(0.5)).restore({"clip": 1.0})
