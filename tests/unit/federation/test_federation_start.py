from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedmesh.errors import ConfigError
from fedmesh.federation import datasets, plan
from fedmesh.federation.plan import check_needs, make_strategy, make_task
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.start import build_model, make_start, pretrain, restore
from fedmesh.quantization import arrays_of, ranges_of
from fedmesh.types import Layout


@pytest.fixture(scope="module")
def scenario():
    return Scenario.parse({"name": "small", "model": {"pretrain_epochs": 12}}, source="test")


@pytest.fixture(scope="module")
def public():
    digits = datasets.load("digits", None)
    return datasets.split(
        digits,
        public_fraction=0.1,
        local_held_out_fraction=0.2,
        partition=Scenario(name="x").partition,
        seed=1,
    ).public


def test_the_start_is_a_function_of_the_seed_and_leaves_torchs_generator_alone(scenario, public):
    state = torch.random.get_rng_state()
    first, second = (make_start(scenario, public, 10)[1] for _ in range(2))
    other = make_start(scenario.model_copy(update={"seed": 2}), public, 10)[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(first.weights, second.weights)
    assert first.ranges == second.ranges
    assert not np.array_equal(first.weights, other.weights)


def test_pretraining_learns(scenario, public):
    def accuracy(model):
        with torch.no_grad():
            return (model(torch.from_numpy(public.x)).argmax(1).numpy() == public.y).mean()

    untrained = build_model(scenario.model, (1, 8, 8), 10, scenario.seed)
    trained, _ = make_start(scenario, public, 10)
    assert accuracy(trained) > accuracy(untrained) + 0.2


def test_pretraining_is_torchs_sgd_bit_for_bit(scenario, public):
    settings = scenario.model
    ours, theirs = (build_model(settings, (1, 8, 8), 10, scenario.seed).train() for _ in range(2))
    pretrain(ours, public, settings, np.random.default_rng(3))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=settings.pretrain_learning_rate, momentum=0.9)
    order = np.random.default_rng(3)
    for _ in range(settings.pretrain_epochs):
        for batch in torch.from_numpy(order.permutation(len(public))).split(settings.pretrain_batch_size):
            optimizer.zero_grad()
            x, y = torch.from_numpy(public.x)[batch], torch.from_numpy(public.y)[batch]
            torch.nn.functional.cross_entropy(theirs(x), y).backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_restored_start_is_the_same_function(scenario, public):
    model, start = make_start(scenario, public, 10)
    again = restore(scenario, start, public, 10)
    assert ranges_of(again) == ranges_of(model)
    x = torch.from_numpy(public.x)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_noise_is_sized_so_that_the_last_round_is_still_in_the_budget(scenario, public):
    from fedmesh.privacy import epsilon

    private = Scenario.parse({"name": "p", "rounds": 7, "privacy": {"enabled": True, "epsilon": 3.0}}, source="test")
    _, start = make_start(scenario, public, 10)
    dp = make_task(private, start, (1, 8, 8), 10).dp
    assert dp.steps == private.privacy.steps
    spent = epsilon([dp.event(f"round-{number}") for number in range(7)], dp.delta, "rdp")
    assert 2.9 < spent <= 3.0
    assert epsilon([dp.event("x") for _ in range(8)], dp.delta, "rdp") > 3.0


@pytest.mark.parametrize("private", [True, False])
def test_delta_ranges_depend_on_weights_only_without_privacy(scenario, public, private):
    model, start = make_start(scenario, public, 10)
    changed = scenario.model_copy(update={"privacy": scenario.privacy.model_copy(update={"enabled": private})})
    layout = Layout.of(arrays_of(model))
    strategy = make_strategy(changed, layout, make_task(changed, start, (1, 8, 8), 10))
    once = strategy.ranges(layout.unflatten(start.weights))
    twice = strategy.ranges(layout.unflatten(2 * start.weights))
    assert np.array_equal(once, twice) == private


@pytest.mark.parametrize("needs", [None, "all", ["sum"], True])
def test_a_strategy_that_does_not_say_what_it_needs_is_refused(scenario, public, monkeypatch, needs):
    model, start = make_start(scenario, public, 10)
    monkeypatch.setattr(plan, "load", lambda *_: lambda **_: SimpleNamespace(needs=needs))
    with pytest.raises(ConfigError, match=r"fedavg.*needs"):
        make_strategy(scenario, Layout.of(arrays_of(model)), make_task(scenario, start, (1, 8, 8), 10))


def test_a_rule_over_single_updates_and_secure_aggregation_are_an_impossible_pair():
    each, total = SimpleNamespace(needs="each"), SimpleNamespace(needs="sum")
    check_needs(each, "median", only_sums=False)
    check_needs(total, "fedavg", only_sums=True)
    with pytest.raises(ConfigError, match=r"median.*secure"):
        check_needs(each, "median", only_sums=True)
