"""From a scenario's privacy to the settings of every device."""

import numpy as np
import pytest
from small_runs import small_digits

from fedmesh.client.task import Task
from fedmesh.errors import ConfigError
from fedmesh.federation.directory import PublicStart
from fedmesh.federation.plan import make_strategy, make_task
from fedmesh.privacy.accountant import epsilon
from fedmesh.types import Layout

LAYOUT = Layout(("w",), ((500,),))


def task_of(mode, **overrides):
    scenario = small_digits(privacy__mode=mode, **overrides)
    return scenario, make_task(scenario, PublicStart(np.zeros(500, np.float32), {}), (1, 8, 8), 10)


@pytest.mark.parametrize(("mode", "level"), [("shared", "example"), ("client", "client"), ("central", "client")])
def test_the_noise_of_a_mode_spends_its_budget_in_its_rounds(mode, level):
    scenario, task = task_of(mode, partition__clients=20, rounds=5)
    settings = task.summed
    assert task.dp is None
    assert (settings.level, task.budget.level) == (level, level)
    events = [event for _ in range(5) for event in settings.events()]
    assert 7.9 < epsilon(events, scenario.privacy.delta, "rdp") <= 8.0
    assert settings.trusted_server == (mode == "central")
    assert Task.from_plain(task.to_plain()) == task


def test_noise_is_sized_for_the_devices_that_stay_and_are_honest():
    _, task = task_of("client", partition__clients=100, privacy__dropouts=0.2, privacy__colluders=0.05)
    settings = task.summed
    assert (settings.smallest_sum, settings.colluders, settings.honest) == (80, 5, 75)
    _, grouped = task_of("client", partition__clients=100, secure_aggregation__group_size=32, privacy__colluders=0.1)
    # Four groups of 25, of which a tenth may be lost; of 96 devices, three groups of 32, of which a tenth colludes.
    assert (grouped.summed.smallest_sum, grouped.summed.colluders, grouped.summed.members) == (23, 4, 32)
    _, lossless = task_of("client", partition__clients=100, privacy__dropouts=0.0, privacy__colluders=0.0)
    assert lossless.summed.honest == 100
    assert settings.sigma_local > lossless.summed.sigma_local


def test_every_group_carries_the_whole_noise_for_itself():
    _, task = task_of("client", partition__clients=50, secure_aggregation__group_size=16)
    assert task.summed.members == 16  # 12, 12, 13, 13 of them; three times 16 of 48 that are left
    assert task.summed.smallest_sum == 11  # of 12, nine tenths
    assert task.group_size == 16


def test_no_sum_is_planned_below_the_threshold_of_secure_aggregation():
    _, task = task_of("client", partition__clients=12, privacy__dropouts=0.33, privacy__colluders=0.0)
    assert task.summed.smallest_sum == 9  # floor(2/3 12) + 1


def test_a_quantile_moves_the_clip_of_whole_updates_only():
    _, task = task_of("client", partition__clients=40, privacy__clip_quantile=0.5)
    assert (task.summed.quantile.target, task.summed.quantile.noise_multiplier) == (0.5, 2.0)
    for mode in ("shared", "local"):
        with pytest.raises(ConfigError, match="clip_quantile follows the norms of whole updates"):
            task_of(mode, privacy__clip_quantile=0.5)


def test_what_would_protect_nobody_is_refused_when_it_is_read():
    with pytest.raises(ConfigError, match="protects what a secure sum shows"):
        task_of("shared", secure_aggregation__enabled=False)
    with pytest.raises(ConfigError, match=r"client\.momentum is of several"):
        task_of("shared", client__momentum=0.5)
    with pytest.raises(ConfigError, match=r"raise privacy\.ring_bits"):
        task_of("client", privacy__ring_bits=8, privacy__epsilon=0.1)


def test_the_strategy_gets_the_devices_own_settings():
    scenario, task = task_of("client")
    strategy = make_strategy(scenario, LAYOUT, task)
    assert strategy.snapshot() == {"clip": scenario.privacy.clip}
    scenario, task = task_of("local")
    assert task.summed is None
    assert make_strategy(scenario, LAYOUT, task).snapshot() == {}
