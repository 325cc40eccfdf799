"""Cells, and which settings each of them gets."""

import math
from typing import Any

import pytest
from sweeping import scenario

from fedmesh.errors import ConfigError
from fedmesh.federation.overrides import scenario_for, settings_for
from fedmesh.simulation.laboratory.sweep.cells import plan_cells

TABLES: list[dict[str, Any]] = [
    {"mode": "local", "set": {"rounds": 10, "client.learning_rate": 0.2}},
    {"mode": "local", "epsilon": 3, "set": {"rounds": 20}},
    {"mode": "local", "epsilon": 8.0, "set": {"privacy.clip": 0.3}},
    {"mode": "none", "set": {"rounds": 50}},
]


def test_a_plan_has_one_cell_for_each_mode_budget_and_seed() -> None:
    cells = plan_cells(scenario(seed=7), epsilons=[8, math.inf, 1], modes=["local", "client"], seeds=2)
    assert [cell.name for cell in cells] == [
        f"{part}-seed{seed}"
        for seed in (7, 8)
        for part in ("none-epsinf", "local-eps1", "local-eps8", "client-eps1", "client-eps8")
    ]
    assert len(set(cells)) == len(cells)


def test_a_cell_is_a_scenario_of_its_own() -> None:
    none, private = plan_cells(scenario(sweep=TABLES), epsilons=[3.0, math.inf], modes=["shared"], seeds=1)
    assert not none.scenario.privacy.enabled
    assert (private.scenario.privacy.enabled, private.scenario.privacy.mode) == (True, "shared")
    assert private.scenario.privacy.epsilon == 3.0
    assert none.scenario.sweep == private.scenario.sweep == ()
    assert none.scenario.name == "tiny"


@pytest.mark.parametrize(
    ("epsilon", "rounds", "clip"),
    [(1.0, 10, 1.0), (2.99, 10, 1.0), (3.0, 20, 1.0), (7.0, 20, 1.0), (8.0, 10, 0.3), (100.0, 10, 0.3)],
)
def test_a_table_holds_from_its_budget_to_the_next_tables(epsilon: float, rounds: int, clip: float) -> None:
    found = scenario_for(scenario(sweep=TABLES), "local", epsilon, 1)
    assert (found.rounds, found.privacy.clip, found.client.learning_rate) == (rounds, clip, 0.2)


def test_the_order_of_tables_does_not_matter() -> None:
    for epsilon in (1.0, 3.0, 9.0):
        forward, backward = (settings_for(scenario(sweep=t).sweep, "local", epsilon) for t in (TABLES, TABLES[::-1]))
        assert forward == backward


def test_other_modes_do_not_get_the_settings() -> None:
    base = scenario(sweep=TABLES)
    assert scenario_for(base, "shared", 8.0, 1).rounds == 4
    assert scenario_for(base, "none", math.inf, 1).rounds == 50


def test_what_the_command_was_told_goes_over_the_tables() -> None:
    told = {"rounds": 2}
    base = scenario(sweep=TABLES).overridden(told, source="test")
    cells = plan_cells(base, epsilons=[3, math.inf], modes=["local", "shared"], seeds=1, told=told)
    assert {cell.scenario.rounds for cell in cells} == {2}
    assert cells[1].scenario.client.learning_rate == 0.2  # the tables' other settings stay


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"mode": "local", "set": {"client.learning_rat": 1.0}}, "did you mean client.learning_rate"),
        ({"mode": "local", "set": {"rounds": "many"}}, "rounds"),
        ({"mode": "local", "set": {"rounds.x": 3}}, "'rounds' is a value"),
        ({"mode": "local", "set": {"privacy.epsilon": 3.0}}, "privacy.epsilon cannot be set"),
        ({"mode": "local", "set": {"privacy": {"clip": 3.0}}}, "privacy cannot be set"),
        ({"mode": "local", "set": {"seed": 3}}, "seed cannot be set"),
        ({"mode": "local", "set": {"sweep": []}}, "sweep cannot be set"),
        ({"mode": "local", "set": {"strategy.weighting": "examples"}}, "use 'uniform'"),
        ({"mode": "shared", "set": {"secure_aggregation.enabled": False}}, "turn it on"),
        ({"mode": "none", "epsilon": 3.0}, "without privacy there is none"),
        ({"mode": "lokal"}, "sweep.0.mode"),
        ({"mode": "local", "epsilon": 0}, "sweep.0.epsilon"),
        ({"mode": "local", "epsilom": 1}, "did you mean sweep.0.epsilon"),
        ({"set": {}}, "sweep.0.mode"),
    ],
)
def test_a_table_that_makes_no_scenario_is_refused_when_it_is_read(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        scenario(sweep=[table])


def test_two_tables_for_the_same_are_refused() -> None:
    with pytest.raises(ConfigError, match="another table of this mode and epsilon"):
        scenario(sweep=[TABLES[1], TABLES[1]])


def test_a_sweep_that_is_no_list_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"wanted a list of tables, each as \[\[sweep\]\]"):
        scenario(sweep={"mode": "local"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epsilons": [0.0]}, "above 0"),
        ({"epsilons": [math.nan]}, "above 0"),
        ({"epsilons": [-1.0, 3.0]}, "above 0"),
        ({"epsilons": []}, "--epsilon names nothing"),
        ({"epsilons": [3, 3.0]}, "3 twice"),
        ({"modes": []}, "--modes names nothing"),
        ({"modes": ["local", "local"]}, "local twice"),
        ({"modes": ["none"]}, "there are local, shared, client, central"),
        ({"seeds": 0}, "at least one"),
        ({"told": {"privacy.epsilon": 3.0}}, "privacy.epsilon cannot be set"),
        ({"told": {"privacy.mode": "local"}}, "privacy.mode cannot be set"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    wanted = {"epsilons": [1.0], "modes": ["local"], "seeds": 1, "told": {}, **given}
    with pytest.raises(ConfigError, match=message):
        plan_cells(scenario(), **wanted)


def test_a_mode_that_the_scenario_does_not_allow_is_refused_before_anything_runs() -> None:
    alone = scenario(secure_aggregation={"enabled": False})
    with pytest.raises(ConfigError, match="in the mode shared at epsilon 3"):
        plan_cells(alone, epsilons=[3.0], modes=["local", "shared"], seeds=1)


def test_a_scenario_without_tables_is_what_it_was() -> None:
    assert scenario().sweep == ()
    assert scenario().model_dump(mode="json")["sweep"] == []
