"""Gossip averaging in a scenario: what it comes to, and what is refused before anything is trained."""

import numpy as np
import pytest
from small_runs import small_digits

from fedmesh.client.averaging import AveragingTerms, rule_of
from fedmesh.errors import ConfigError
from fedmesh.federation.averaging import check_averaging, is_averaging
from fedmesh.federation.directory import PublicStart
from fedmesh.federation.plan import make_strategy, make_task
from fedmesh.fleet import mesh_start
from fedmesh.mesh.gossip import PlainRule, SharedRule
from fedmesh.types import Layout

START = PublicStart(np.linspace(-3, 3, 500, dtype=np.float32), {})
LAYOUT = Layout(("weights",), ((500,),))


def scenario(**changes):
    plain = {"strategy__name": "gossip", "partition__clients": 12, "privacy__mode": "shared", "client__momentum": 0.0}
    return small_digits(**{**plain, "privacy__dropouts": 0.2, **changes})


def task_of(chosen):
    return make_task(chosen, START, (1, 8, 8), 10)


def test_the_noise_is_that_of_the_smallest_group():
    task = task_of(scenario())
    settings = task.summed
    assert (settings.smallest_sum, settings.colluders, settings.honest, settings.members) == (5, 1, 4, 6)  # 12 by 6
    rule = rule_of(task, AveragingTerms.of({"group": 6, "grid_bits": 16, "unit": 0.5}).grid, 500)
    assert isinstance(rule, SharedRule)
    assert rule.fewest == 5
    plain = rule_of(task_of(scenario(privacy__mode="local")), rule.grid, 500)
    assert isinstance(plain, PlainRule)
    assert plain.privacy["clip"] == 1.0
    assert rule_of(task_of(scenario(privacy__enabled=False)), rule.grid, 500).privacy is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition__clients": 5}, "5 members are fewer than a group of 6"),
        ({"strategy__options": {"group": 3}}, "group is 3: wanted"),
        ({"strategy__options": {"group": "six"}}, "group is 'six'"),
        ({"privacy__mode": "client"}, "'local'.*and 'shared'"),
        ({"privacy__mode": "central"}, "'local'.*and 'shared'"),
        ({"secure_aggregation__enabled": False, "privacy__mode": "local"}, "secure_aggregation.enabled has to be on"),
        ({"secure_aggregation__group_size": 5}, "groups of up to 6"),
        ({"client__name": "lite"}, "lite devices"),
        ({"quantization__training": "float"}, "'qat'"),
        ({"delta__error_feedback": True, "privacy__enabled": False}, "error_feedback"),
        ({"privacy__epsilon": 1e-6}, "no noise reaches epsilon"),
    ],
)
def test_what_cannot_be_averaged_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        task_of(scenario(**changes))


def test_members_that_are_fewer_than_a_group_are_refused_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match="5 members are fewer than a group of 6"):
        mesh_start.begin(scenario(), run=1, members=5, folder=tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy__weighting": "examples", "privacy__enabled": False}, "strategy.weighting"),
        ({"strategy__quorum": 3}, "strategy.quorum"),
        ({"strategy__fraction": 0.5}, "strategy.fraction"),
        ({"strategy__options": {"unit": 0.3}}, "power of two"),
        ({"strategy__options": {"unit": "small"}}, "unit is 'small'"),
        ({"strategy__options": {"grid_bits": 4}}, "grid_bits is 4"),
        ({"strategy__options": {"pairs": True}}, "strategy.options has pairs"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, words):
    chosen = scenario(**{"privacy__mode": "local", **changes})
    with pytest.raises(ConfigError, match=words):
        make_strategy(chosen, LAYOUT, task_of(chosen), in_groups=True)


def test_whoever_aggregates_refuses_it():
    chosen = scenario()
    assert is_averaging(chosen)
    assert not is_averaging(small_digits())
    with pytest.raises(ConfigError, match="fedmesh run start SCENARIO --mesh"):
        make_strategy(chosen, LAYOUT, task_of(chosen))
    with pytest.raises(ConfigError, match="fewer than a group"):
        check_averaging(chosen, 4)


def test_the_grid_reaches_beyond_the_public_start():
    chosen = scenario()
    options = make_strategy(chosen, LAYOUT, task_of(chosen), in_groups=True).options(START.weights)
    assert options == {"group": 6, "grid_bits": 16, "unit": 2.0**-11}  # to +-16: four times 3, in powers of two
    terms = AveragingTerms.of(options)
    codes = terms.start(START.weights)
    assert np.abs(terms.grid.weights(codes) - START.weights).max() <= 2.0**-12
    with pytest.raises(ConfigError, match="beyond"):
        terms.start(START.weights * 8)
    with pytest.raises(ConfigError, match="wanted group, grid_bits and unit"):
        AveragingTerms.of({"group": 6})
