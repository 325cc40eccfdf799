"""What gossip averaging charges is what its steps cost, before they are taken, and its noise is in the sums."""

import dataclasses
from contextlib import ExitStack

import numpy as np
import pytest
from gossip_worlds import GRID, SIZE, World, moved, names, plain, run_of

from fedmesh.errors import ConfigError
from fedmesh.mesh.gossip import PlainMixing, SharedMixing, deal, shared_settings
from fedmesh.mesh.gossip.accounting import threshold_for
from fedmesh.privacy import DpSettings, FileLedger, SystemNoise, spent
from fedmesh.secagg import SessionHeader

STEPS, DELTA = 3, 1e-5
LOCAL = DpSettings(8.0, DELTA, 1.0, 2.0, 0.5, 4, 10.0)


@pytest.fixture
def ledgers(tmp_path):
    """(name, epsilon) -> a device's ledger, closed at the end."""
    with ExitStack() as stack:
        yield lambda name, epsilon: stack.enter_context(FileLedger(tmp_path / name, epsilon=epsilon, delta=DELTA))


def settings(**changes):
    facts = {
        "members": 12, "smallest": 6, "lost": 1, "colluders": 1, "steps": STEPS, "epsilon": 4.0, "delta": DELTA,
        "clip": 1.0, "size": SIZE, "learning_rate": 1.0, "expected_batch": 10.0,
    }  # fmt: skip
    return shared_settings(**{**facts, **changes})


def shared(ledgers, name, made, gradients=None):
    ledger = ledgers(name, made.epsilon)
    rows = gradients or (lambda _step, _weights: [np.ones((3, SIZE), np.float32)])
    return SharedMixing(GRID, made, rows, noise=lambda _step: SystemNoise(), ledger=ledger), ledger


def test_local_costs_its_steps_of_dp_sgd_and_pays_first(ledgers):
    kept = {}

    def mixing(name):
        ledger = kept[name] = ledgers(name, 8.0)

        def train(step, weights):
            assert [charge.event.label for charge in ledger.charges][-1] == f"gossip/step-{step}"
            return weights + (moved(name, step) * GRID.unit).astype(np.float32)

        return PlainMixing(GRID, SIZE, train, rounding=np.random.default_rng, dp=LOCAL, ledger=ledger)

    world = World(run_of(12), mixing)
    for step in range(1, STEPS + 1):
        world.step(step)
    assert set(world.outcomes().values()) == {"mixed"}
    for ledger in kept.values():
        assert ledger.epsilon(DELTA) == pytest.approx(spent([LOCAL.event()] * STEPS, DELTA))
        assert ledger.epsilon(DELTA) == pytest.approx(spent([dataclasses.replace(LOCAL, steps=12).event()], DELTA))


def test_who_cannot_pay_goes_on_averaging_what_it_has(ledgers):
    ledger = ledgers("small", 0.01)
    looked = []

    def train(*told):
        looked.append(told)
        return told[1]

    mixing = PlainMixing(GRID, SIZE, train, rounding=np.random.default_rng, dp=LOCAL, ledger=ledger)
    codes = np.arange(SIZE)
    prepared = mixing.prepare(1, codes)
    assert prepared.vector.tolist() == codes.tolist()
    assert looked == []
    assert ledger.charges == ()


@pytest.mark.parametrize("dp", [None, LOCAL])
def test_noise_and_ledger_come_together(ledgers, dp):
    ledger = None if dp else ledgers("any", 8.0)
    with pytest.raises(ConfigError, match="ledger"):
        PlainMixing(GRID, SIZE, lambda _step, weights: weights, rounding=np.random.default_rng, dp=dp, ledger=ledger)


def test_shared_costs_the_smallest_sum_of_a_group_each_step_and_then_stops(ledgers):
    made, kept = settings(), {}

    def mixing(name):
        one, kept[name] = shared(ledgers, name, made)
        return one

    world = World(run_of(12), mixing)
    for step in range(1, STEPS + 1):
        world.step(step)
        assert set(world.outcomes().values()) == {"mixed"}
    least = [dataclasses.replace(made.events()[0], count=STEPS)]
    assert made.events() == made.events(survivors=5)
    for ledger in kept.values():
        assert ledger.epsilon(DELTA) == pytest.approx(spent(least, DELTA))
        assert 3.9 < ledger.epsilon(DELTA) <= made.epsilon
    world.step(STEPS + 1)  # the budget is used up: nobody takes part without its noise
    assert set(world.outcomes().values()) == {"left-out"}


def test_a_sum_with_too_little_noise_is_never_made(ledgers):
    made = settings()
    world = World(run_of(12), lambda name: shared(ledgers, name, made)[0])
    group, other = deal(world.run.id, 1, names(12), 6)
    world.step(1, away=group[4:])  # four are enough for secure aggregation, five for the noise
    assert {world.members[name].outcome for name in group[:4]} == {"left-out"}
    assert {world.members[name].outcome for name in other} == {"mixed"}


def test_the_sum_carries_the_noise_and_the_mean_gradient(ledgers):
    size = 2000
    made = settings(size=size, clip=1e6, learning_rate=1e-7)
    mixings = [
        shared(ledgers, f"d{number}", made, lambda _step, _weights: [np.full((10, size), 1.0)])[0]
        for number in range(6)
    ]
    vectors = [mixing.prepare(1, np.zeros(size, np.int64)).vector for mixing in mixings]
    tail = sum(vectors)[size:]
    wanted = 6 * (made.sigma_local / made.gamma) ** 2
    assert tail.var() == pytest.approx(wanted, rel=0.2)  # six standard errors
    assert made.sigma_local**2 * made.honest == pytest.approx(made.noise_multiplier**2)


def test_everybody_moves_by_the_mean_gradient_of_the_group(ledgers):
    made = settings(epsilon=1e6, expected_batch=1.0, clip=1000.0, learning_rate=2.0, bits=30)
    rows = {f"d{number}": np.full((1, SIZE), float(number), np.float32) for number in range(6)}
    mixings = {name: shared(ledgers, name, made, lambda _step, _weights, name=name: [rows[name]])[0] for name in rows}
    codes = np.full(SIZE, 7, np.int64)
    total = sum(mixing.prepare(1, codes).vector for mixing in mixings.values())
    moves = [mixing.rule.mixed(total, 6, place, 1) - codes for place, mixing in enumerate(mixings.values())]
    assert all(move.tolist() == moves[0].tolist() for move in moves)
    noise = made.noise_multiplier * made.clip * made.step / 6 / GRID.unit
    assert np.abs(moves[0] + 2.0 * 2.5 / GRID.unit).max() < 6 * noise + 2


def test_the_noise_is_that_of_one_group_not_of_the_run():
    small, large = settings(), settings(smallest=12, lost=2, colluders=2)
    assert small.honest == 4
    assert large.honest == 8
    assert small.noise_multiplier == pytest.approx(large.noise_multiplier, rel=1e-3)  # of the sum
    assert small.sigma_local == pytest.approx(large.sigma_local * 2**0.5, rel=1e-3)  # of a device


@pytest.mark.parametrize("change", [{"colluders": 5}, {"lost": 3}, {"lost": -1}, {"smallest": 3}])
def test_groups_that_protect_nobody_are_refused(change):
    with pytest.raises(ConfigError):
        settings(**change)


def test_a_leader_gains_nothing_by_leaving_members_out():
    for group in range(4, 40):
        league = SessionHeader.colluders_for(group)
        for cohort in range(4, group + 1):
            assert 2 * threshold_for(cohort, group) > cohort + league
    assert threshold_for(8, 8) == 6
    assert threshold_for(4, 8) == 4  # three by the rule of four
    run = run_of(11)
    assert run.header(1, run.group(1, "m00")[:4], plain("m00").rule).threshold == 4


def test_other_levels_are_refused(ledgers):
    made = dataclasses.replace(settings(), level="client")
    ledger = ledgers("any", 4.0)
    with pytest.raises(ConfigError, match="'client'"):
        SharedMixing(GRID, made, lambda *_: [], noise=lambda _: SystemNoise(), ledger=ledger)


def test_sessions_name_their_noise(ledgers):
    run, made = run_of(12), settings()
    private, open_one = shared(ledgers, "d", made)[0], plain("m00")
    group = run.group(1, "m00")
    header = run.header(1, group, private.rule)
    assert header.privacy["noise_multiplier"] == made.noise_multiplier
    assert header.min_cohort == 5
    assert run.header(1, group, open_one.rule).privacy is None
    assert run.header(1, group[:4], open_one.rule).min_cohort == 4
    assert header.sid != run.header(2, group, private.rule).sid
