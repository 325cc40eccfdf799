"""What a device agrees to, whatever a coordinator sends."""

import dataclasses

import heads
import pytest
import training

from fedmesh.client.policy import budgets_of, client_apps, floor_of, most_steps, refusal
from fedmesh.configuration import ClientConfig
from fedmesh.fleet.protocol import REASONS
from fedmesh.plugins import CLIENTS, available

TASK = training.int8_task(dp=training.DP, secure_aggregation=True).as_deployed()
SUMMED = heads.summed_task("example").as_deployed()


def config(**changes: object) -> ClientConfig:
    base = {
        "identity": {"folder": "identity"},
        "broker": {"host": "localhost"},
        "state": {"folder": "state"},
        "data": {"kind": "npz", "path": "data.npz"},
    }
    return ClientConfig.parse({**base, **changes}, source="a test")


@pytest.mark.parametrize(
    ("changes", "task", "why"),
    [
        ({}, TASK, ""),
        ({}, {"dp": None}, "policy"),
        ({"privacy": {"required": False}}, {"dp": None}, ""),
        ({}, {"secure_aggregation": False}, "policy"),
        ({"secure_aggregation": {"required": False}}, {"secure_aggregation": False}, ""),
        ({"tasks": ["another"]}, TASK, "policy"),
        ({"tasks": ["another", "test"]}, TASK, ""),
        ({"clients": ["wearable"]}, TASK, "client"),
        ({}, {"error_feedback": True}, "policy"),
        ({}, {"name": "a/b"}, "policy"),
        ({"privacy": {"modes": ["shared"]}}, TASK, "policy"),
        ({"privacy": {"max_task_epsilon": 7.9}}, TASK, "budget"),
        ({"privacy": {"max_task_epsilon": 8.0}}, TASK, ""),
        ({"privacy": {"example_delta": 1e-6}}, TASK, "budget"),
        ({"privacy": {"min_noise_multiplier": 2.1}}, TASK, "policy"),
        ({"privacy": {"min_noise_multiplier": 2.0}}, TASK, ""),
        ({"limits": {"max_steps": 1}}, TASK, "limits"),
        ({}, {"dp": None, "summed": heads.summed("example"), "codec": "integer"}, ""),
        ({"limits": {"max_parameters": heads.SIZE - 1}}, SUMMED, "limits"),
        ({"limits": {"max_parameters": heads.SIZE}}, SUMMED, ""),
    ],
)
def test_what_is_declined(changes, task, why):
    offered = dataclasses.replace(TASK, **task) if isinstance(task, dict) else task
    assert refusal(config(**changes), "vision", offered) == why
    assert why in REASONS


def test_central_noise_is_not_among_the_defaults():
    central = dataclasses.replace(heads.summed("client"), trusted_server=True)
    task = dataclasses.replace(SUMMED, summed=central)
    assert refusal(config(), "lite", task) == "policy"
    modes = {"modes": ["local", "shared", "client", "central"]}
    assert refusal(config(privacy=modes), "lite", task) == ""


def test_who_never_trains_declines_everything():
    tables = {"tier": "inference", "registry": {"trusted_root": "root.json"}}
    base = {"identity": {"folder": "i"}, "broker": {"host": "localhost"}, "state": {"folder": "s"}}
    never = ClientConfig.parse({**base, **tables}, source="a test")
    assert client_apps(never) == ()
    assert refusal(never, "vision", TASK) == "policy"


def test_the_client_apps_of_a_tier():
    assert client_apps(config()) == tuple(available(CLIENTS))
    assert client_apps(config(tier="lite")) == ("lite",)
    assert client_apps(config(tier="lite", clients=["mine"])) == ("mine",)


def test_the_floor_and_the_budgets_are_the_operators():
    made = config(secure_aggregation={"smallest_cohort": 6, "min_survivors": 5}, privacy={"client_epsilon": 2.0})
    floor = floor_of(made, "chief")
    assert (floor.smallest_cohort, floor.min_survivors, floor.aggregator) == (6, 5, "chief")
    assert budgets_of(made)["client"].epsilon == 2.0
    assert budgets_of(made)["example"].epsilon == 8.0


@pytest.mark.parametrize(
    ("task", "examples", "steps"),
    [
        (TASK, 1000, training.DP.steps),
        (SUMMED, 1000, 1),
        (dataclasses.replace(TASK, dp=None, local_epochs=3, batch_size=4), 9, 9),
        (dataclasses.replace(TASK, dp=None, local_epochs=3, batch_size=4), 0, 0),
    ],
)
def test_the_steps_of_a_round(task, examples, steps):
    assert most_steps(task, examples) == steps
