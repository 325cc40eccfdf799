from dataclasses import replace

import numpy as np
import pytest
from private_sums import sum_settings

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.privacy import skellam
from fedmesh.privacy.noise import KeyedNoise
from fedmesh.privacy.summed import BIT, QuantileSettings
from fedmesh.privacy.summing import clip_in, encode_examples, encode_update, mean_of, next_clip, server_noise

CLIENT = sum_settings()
EXAMPLE = replace(CLIENT, level="example", expected_batch=20.0, step=3.0)
FOLLOWING = replace(CLIENT, quantile=QuantileSettings(target=0.5, rate=0.2, noise_multiplier=0.01))
SEED = skellam.rotation_seed(1, np.zeros(50, np.float32))


def noise(number):
    return KeyedNoise(7, "test", number)


def updates(count, norm):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(count, 50))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True) * norm).astype(np.float32)


def test_the_mean_of_updates_comes_back():
    rows = updates(10, 0.4)
    total = sum(encode_update(CLIENT, row, clip=0.5, seed=SEED, noise=noise(i)) for i, row in enumerate(rows))
    mean = mean_of(CLIENT, total, 10, clip=0.5, seed=SEED)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, rows.mean(0), atol=0.002)


@pytest.mark.parametrize("norm", [50.0, 1e9, 1e30])
def test_an_update_that_is_far_too_long_moves_the_mean_by_its_clip(norm):
    quiet = sum(encode_update(CLIENT, np.zeros(50, np.float32), clip=0.5, seed=SEED, noise=noise(i)) for i in range(9))
    loud = quiet + encode_update(CLIENT, updates(1, norm)[0], clip=0.5, seed=SEED, noise=noise(9))
    means = [mean_of(CLIENT, total, 10, clip=0.5, seed=SEED) for total in (quiet, loud)]
    assert 10 * np.linalg.norm(means[1] - means[0]) == pytest.approx(0.5, rel=0.02)


def test_the_step_of_a_gradient_goes_down_by_the_learning_rate_over_public_denominators():
    gradients = updates(12, 0.3)
    values = encode_examples(EXAMPLE, [gradients[:5], gradients[5:]], clip=0.5, seed=SEED, noise=noise(0))
    step = mean_of(EXAMPLE, values, 1, clip=0.5, seed=SEED)
    np.testing.assert_allclose(step, -3.0 * gradients.sum(0) / 20.0, atol=0.002)


def test_each_example_is_clipped_by_itself():
    gradients = np.concatenate([updates(3, 0.5), updates(1, 500.0), np.full((1, 50), np.nan, np.float32)])
    values = encode_examples(EXAMPLE, [gradients], clip=0.5, seed=SEED, noise=noise(0))
    wanted = gradients[:3].sum(0) + gradients[3] / 1000
    np.testing.assert_allclose(mean_of(EXAMPLE, values, 1, clip=0.5, seed=SEED), -3.0 * wanted / 20.0, atol=0.003)


def test_a_device_without_examples_sends_noise_of_the_same_length():
    values = encode_examples(EXAMPLE, [], clip=0.5, seed=SEED, noise=noise(0))
    assert values.shape == (EXAMPLE.length,)
    assert values.any()


def test_a_device_with_very_many_examples_saturates_in_its_part_of_the_ring():
    settings = replace(EXAMPLE, bits=16)
    rows = np.repeat(updates(1, 0.5), 5000, axis=0)
    values = encode_examples(settings, [rows], clip=0.5, seed=SEED, noise=noise(0))
    assert np.abs(values).max() <= (1 << 15) // 10 + 200  # and some noise


def test_the_clip_follows_the_count_of_updates_that_were_not_clipped():
    for share, rows in ((1.0, updates(10, 0.1)), (0.0, updates(10, 0.9))):
        total = sum(encode_update(FOLLOWING, row, clip=0.5, seed=SEED, noise=noise(i)) for i, row in enumerate(rows))
        assert total[-1] == pytest.approx(10 * BIT * share, abs=BIT)
        assert next_clip(FOLLOWING, total, 10, clip=0.5) == pytest.approx(0.5 * np.exp(-0.2 * (share - 0.5)), rel=0.03)
    assert next_clip(CLIENT, total[:-1], 10, clip=0.5) == 0.5


def test_noise_on_the_count_moves_the_clip_no_further_than_all_or_none_would():
    for count, share in ((10**6, 1.0), (-(10**6), 0.0)):
        total = np.zeros(FOLLOWING.length, np.int64)
        total[-1] = count
        assert next_clip(FOLLOWING, total, 10, clip=0.5) == pytest.approx(0.5 * np.exp(-0.2 * (share - 0.5)))
    assert next_clip(FOLLOWING, np.zeros(FOLLOWING.length, np.int64), 10, clip=1e9) == 1e9  # what devices still take
    assert next_clip(FOLLOWING, np.full(FOLLOWING.length, 10 * BIT), 10, clip=1e-9) == 1e-9


def test_an_update_that_is_not_finite_counts_as_clipped_and_as_zero():
    row = np.full(50, np.nan, np.float32)
    values = encode_update(FOLLOWING, row, clip=0.5, seed=SEED, noise=noise(0))
    assert abs(values[-1]) < BIT / 2
    assert np.linalg.norm(mean_of(FOLLOWING, values, 1, clip=0.5, seed=SEED)) < 0.02


def test_the_rounds_clip_is_the_tasks_unless_it_follows_a_quantile():
    assert clip_in(CLIENT, [0.5]) == 0.5
    assert clip_in(FOLLOWING, [0.7]) == 0.7
    for scales in ([0.7], [], [0.5, 0.5], [float("nan")]):
        with pytest.raises(DecodeError, match="clip"):
            clip_in(CLIENT, scales)
    with pytest.raises(DecodeError, match="names one clip"):
        clip_in(FOLLOWING, [1e300])


def test_sums_of_another_length_are_refused():
    with pytest.raises(DecodeError, match="wanted \\[64\\]"):
        mean_of(CLIENT, np.zeros(65, np.int64), 10, clip=0.5, seed=SEED)
    with pytest.raises(DecodeError, match="over 0 devices"):
        mean_of(CLIENT, np.zeros(64, np.int64), 0, clip=0.5, seed=SEED)


def test_a_trusted_server_adds_the_noise_that_devices_would_have_added():
    settings = replace(CLIENT, trusted_server=True, size=20_000, noise_multiplier=2.0)
    added = server_noise(settings, 10, clip=0.5, noise=noise(0))
    assert added.std() == pytest.approx(2.0 * 0.5 / 10, rel=0.03)
    with pytest.raises(ConfigError, match="not the server"):
        server_noise(CLIENT, 10, clip=0.5, noise=noise(0))


@pytest.mark.parametrize("size", [10, 49, 51, 5000])
def test_an_input_of_another_size_than_was_paid_for_is_refused(size):
    rows = np.zeros((2, size), np.float32)
    with pytest.raises(ConfigError, match="accounted for 50"):
        encode_update(CLIENT, rows[0], clip=0.5, seed=SEED, noise=noise(0))
    with pytest.raises(ConfigError, match="accounted for 50"):
        encode_examples(EXAMPLE, [rows], clip=0.5, seed=SEED, noise=noise(0))
