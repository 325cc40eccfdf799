"""Gossip averaging simulated: the members' own code, and what a result says of it."""

import pytest
from small_runs import resume, simulate, small_digits

from fedmesh.errors import ConfigError
from fedmesh.simulation.averaging import check_simulated

GOSSIP = {"strategy__name": "gossip", "strategy__options": {"group": 4}, "partition__clients": 8, "rounds": 2}


def test_a_simulation_averages_pays_and_cannot_be_gone_on_with(tmp_path):
    found = simulate(small_digits(**GOSSIP, privacy__epsilon=6.0), tmp_path / "run")
    gossip = found["gossip"]
    assert [(step["here"], step["mixed"]) for step in gossip["steps"]] == [(8, 8), (8, 8)]
    assert gossip["steps"][0]["spread"] > 0
    accuracies = gossip["accuracy_of_members"]
    assert accuracies["worst"] <= accuracies["mean"] <= accuracies["best"]
    assert 5.0 < found["final"]["epsilon"] <= 6.0
    assert found["final"]["max_abs_logit_difference"] == 0
    assert (found["secure_aggregation"]["sums"], found["secure_aggregation"]["smallest_sum"]) == (4, 4)
    with pytest.raises(ConfigError, match="is not gone on with"):
        resume(tmp_path / "run")


@pytest.mark.exhaustive
def test_noise_is_shared_by_those_who_are_there_and_who_is_away_keeps_its_model(tmp_path):
    plain = {**GOSSIP, "privacy__mode": "shared", "privacy__dropouts": 0.3, "client__momentum": 0.0, "rounds": 4}
    scenario = small_digits(**{**plain, "strategy__options": {"group": 8}, "failures__dropout": 0.1})
    found = simulate(scenario, tmp_path / "run")
    assert any(step["here"] < 8 for step in found["gossip"]["steps"])
    assert any(step["mixed"] >= 6 for step in found["gossip"]["steps"])
    assert {failure["reason"] for failure in found["failures"]} == {"away"}
    again = simulate(scenario, tmp_path / "again")
    assert again["gossip"] == found["gossip"]


@pytest.mark.parametrize(
    ("changes", "devices", "words"),
    [
        ({"failures__straggler": 0.2}, 8, "failures.straggler"),
        ({}, 9, "set it to the number of devices"),
        ({}, 3, "fewer than a group"),
    ],
)
def test_what_is_not_simulated_is_refused(changes, devices, words):
    with pytest.raises(ConfigError, match=words):
        check_simulated(small_digits(**GOSSIP, **changes), devices)
