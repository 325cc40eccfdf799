"""Audits of the product's own mechanisms: the sound one passes, each broken one is found."""

import numpy as np
import pytest
import torch
from laboratory_subjects import DEVICES, private_task, subject
from training import SHAPE, examples, task

from fedmesh.client.trainer import build_model
from fedmesh.errors import ConfigError
from fedmesh.privacy import DpSettings, KeyedNoise
from fedmesh.simulation.laboratory.auditing import audit, audit_run, claimed_epsilon, mode_of, plan_of
from fedmesh.simulation.laboratory.broken import BROKEN, SOUND, UNDEFENDED, fault_named
from fedmesh.simulation.laboratory.canaries import gaussian_epsilon, judge, plant
from fedmesh.simulation.laboratory.planted import PlantedDpSgd, plantable, planted_among
from fedmesh.simulation.laboratory.silence import check_noise

MODES = ["local", "shared", "client", "central"]


def found(mode, fault, *, canaries=500, rounds=1, **changes):
    private = private_task(mode, **changes)
    federation, plan = subject(private), plan_of(private)
    rng = np.random.default_rng(3)
    planted = plant(canaries, devices=DEVICES, places=plan.places(federation), disjoint=plan.disjoint, rng=rng)
    return audit_run(federation, planted, fault, rounds=rounds, seed=3).finding


@pytest.mark.parametrize("mode", MODES)
def test_the_mechanism_as_configured_keeps_its_promise(mode):
    finding = found(mode, SOUND)
    assert finding.violations == ()
    assert finding.guesses.epsilon < finding.epsilon
    assert finding.effect.low < 1.15  # of one in twenty sound runs the interval leaves 1 out
    assert finding.effect.high > 0.85
    assert finding.noise.value == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("mode", MODES)
def test_without_noise_nearly_every_guess_is_right_and_nothing_is_promised(mode):
    finding = found(mode, UNDEFENDED)
    assert finding.epsilon is None
    assert finding.violations == ()
    assert finding.guesses.right >= 0.98 * finding.guesses.guesses
    assert finding.guesses.epsilon > 3
    assert finding.estimate > 50


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("half-noise", "times what is promised"),
        ("quarter-noise", "times what is promised"),
        ("no-clip", "as far as the clip allows"),
        ("counted-twice", "as far as the clip allows"),
    ],
)
def test_a_broken_mechanism_is_found(mode, name, said):
    finding = found(mode, BROKEN[name])
    assert any(said in violation for violation in finding.violations)


@pytest.mark.parametrize("name", ["quarter-noise", "no-clip", "counted-twice"])
def test_guesses_alone_refute_a_small_epsilon(name):
    finding = found("local", BROKEN[name], canaries=4000, rounds=1, noise_multiplier=7.0, steps=1)
    assert finding.epsilon < 0.6
    assert (finding.guesses.epsilon > finding.epsilon) == (name != "counted-twice")
    assert finding.estimate > finding.epsilon


def test_the_estimate_is_near_what_is_claimed_where_the_mechanism_is_gaussian():
    finding = found("local", SOUND, canaries=4000, rounds=1)
    assert finding.estimate == pytest.approx(finding.epsilon, rel=0.15)


def test_an_audit_begins_with_the_mechanism_as_configured():
    runs = audit(subject(private_task("local")), canaries=100, rounds=1, faults=(fault_named("no-clip"),))
    assert [run.finding.run for run in runs] == ["as configured", "without noise", "clip forgotten"]
    again = audit(subject(private_task("local")), canaries=100, rounds=1)
    np.testing.assert_array_equal(runs[0].scores, again[0].scores)


def test_claims_grow_with_rounds():
    private = private_task("client")
    assert claimed_epsilon(private, 1) < claimed_epsilon(private, 4)


def test_what_promises_nothing_is_not_audited():
    with pytest.raises(ConfigError, match=r"privacy\.enabled"):
        mode_of(task())
    with pytest.raises(ConfigError, match="half-noise"):
        fault_named("gremlins")


def test_canaries_need_room():
    rng = np.random.default_rng(1)
    places = np.arange(10)
    assert len(plant(40, devices=4, places=places, disjoint=False, rng=rng)) == 40
    with pytest.raises(ConfigError, match="2 to 10"):
        plant(11, devices=4, places=places, disjoint=True, rng=rng)
    apart = plant(10, devices=4, places=places, disjoint=True, rng=rng)
    assert sorted(apart.place) == list(range(10))


def test_coins_that_all_fell_alike_are_refused():
    with pytest.raises(ConfigError, match="plant more"):
        judge("x", np.zeros(4), np.ones(4, bool), effect=1, noise=1, delta=1e-5, epsilon=1.0)


@pytest.mark.parametrize(("separation", "epsilon"), [(1.0, 4.3772), (0.2, 0.7294)])
def test_epsilon_of_a_gaussian(separation, epsilon):
    from dp_accounting import pld

    reference = pld.privacy_loss_distribution.from_gaussian_mechanism(1 / separation)
    assert gaussian_epsilon(separation, 1e-5) == pytest.approx(reference.get_epsilon_for_delta(1e-5), rel=1e-3)
    assert gaussian_epsilon(0.0, 1e-5) == 0.0


class TestPlanted:
    """A canary's gradient is one component, through the product's layers, norms and clipping."""

    def test_every_coordinate_can_be_planted_and_is_hit_alone(self):
        settings = DpSettings(
            epsilon=1.0, delta=1e-5, clip=0.5, noise_multiplier=1e-9, sample_rate=1.0, steps=1, expected_batch=1.0
        )
        model = build_model(task())
        places = plantable(model)
        size = sum(parameter.numel() for parameter in model.parameters())
        np.testing.assert_array_equal(places, np.arange(size))
        trainer = PlantedDpSgd(model, settings, learning_rate=1e-3, momentum=0.0, canary_norm=5.0)
        chosen = np.random.default_rng(1).permutation(places)[:300]
        x, y = planted_among(examples(0, 5), chosen)
        trainer.fit(x, y, KeyedNoise(1))
        expected = np.zeros(size)
        expected[chosen] = 0.5
        np.testing.assert_allclose(trainer.seen, expected, atol=2e-3)

    def test_without_canaries_it_is_the_products_trainer(self):
        from fedmesh.privacy import DpSgd

        settings = DpSettings(
            epsilon=1.0, delta=1e-5, clip=0.5, noise_multiplier=1.0, sample_rate=0.5, steps=3, expected_batch=4.0
        )
        own = examples(0, 9)
        models = [build_model(task()) for _ in range(2)]
        models[1].load_state_dict(models[0].state_dict())
        plain = DpSgd(models[0], settings, learning_rate=0.1, momentum=0.5)
        planted = PlantedDpSgd(models[1], settings, learning_rate=0.1, momentum=0.5, canary_norm=5.0)
        x, y = planted_among(own, np.zeros(0, np.int64))
        plain.fit(x, y, KeyedNoise(1))
        planted.fit(x, y, KeyedNoise(1))
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(one, other)
        assert x.shape[1:] == SHAPE


@pytest.mark.parametrize("mode", MODES)
def test_the_law_of_each_modes_noise_holds_and_half_of_it_does_not(mode):
    private = private_task(mode)
    weights = subject(private).weights
    assert all(report.holds for report in check_noise(private, weights, samples=1 << 15))
    broken = check_noise(private, weights, samples=1 << 15, fault=BROKEN["half-noise"])
    assert not any(report.holds for report in broken)
