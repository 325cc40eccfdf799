"""What a coordinator is to do for a task, what it offers, and the numbers and folders that it keeps."""

import numpy as np
import pytest
from small_runs import small_digits

from fedmesh.configuration.coordinator import TaskSection
from fedmesh.errors import ConfigError
from fedmesh.federation import datasets
from fedmesh.federation.datasets.public import public_part
from fedmesh.federation.directory import PublicStart
from fedmesh.federation.plan import make_task
from fedmesh.fleet.numbering import Numbering
from fedmesh.fleet.offering import Offers, client_for
from fedmesh.fleet.plan import Plan, scenario_digest
from fedmesh.fleet.protocol import Here
from fedmesh.fleet.result import epsilon_after


def planned(scenario=None, **tables):
    return Plan.of(TaskSection.model_validate({"scenario": "small", **tables}), scenario or small_digits())


def here(tier="full", clients=("vision", "lite")):
    return Here(tier, clients, True, "", 0, "test")


def test_a_task_says_over_its_scenario_what_it_names():
    plan = planned(name="mine", rounds=7, devices=list("abcde"), round={"quorum": 5})
    scenario = plan.scenario
    assert (plan.name, scenario.name, scenario.rounds) == ("mine", "mine", 7)
    assert (scenario.partition.clients, scenario.strategy.quorum, plan.min_devices) == (5, 5, 5)
    assert plan.asks("a")
    assert not plan.asks("f")
    assert planned().asks("anybody")
    assert planned().min_devices == 4, "no secure sum is of fewer"
    half = small_digits(strategy__fraction=0.5, partition__clients=8)
    wanting = planned(half, round={"wanted": 8, "over_selection": 1.2})
    assert (wanting.scenario.partition.clients, wanting.scenario.strategy.fraction) == (10, 1.0)
    assert planned(lite_fraction=0.25).scenario.client.lite_fraction == 0.25


def test_the_settings_of_a_round_are_the_configurations():
    section = {"wanted": 6, "over_selection": 1.2, "deadline_s": 9.0, "train_deadline_s": 5.0, "min_devices": 7}
    settings = planned(round={**section, "quorum": 5, "wait_s": 8.0, "pause_s": 2.0}).settings
    assert (settings.wanted, settings.asked, settings.quorum, settings.min_devices, settings.planned) == (6, 8, 5, 7, 8)
    assert (settings.deadline_s, settings.train_deadline_s, settings.wait_s, settings.pause_s) == (9, 5, 8, 2)
    assert planned(small_digits(secure_aggregation__enabled=False), round={"quorum": 2}).settings.min_devices == 2


def test_what_cannot_be_is_refused_before_anything_begins():
    with pytest.raises(ConfigError, match="which a simulation makes on purpose"):
        planned(small_digits(failures__dropout=0.1))
    with pytest.raises(ConfigError, match="quorum"):
        planned(round={"quorum": 50})
    with pytest.raises(ConfigError, match="secure aggregation is among"):
        planned(devices=["a", "b"])
    with pytest.raises(ConfigError, match="goes on with 4 of a session of 6; 5 are needed"):
        planned(round={"wanted": 4, "over_selection": 1.5})
    with pytest.raises(ConfigError, match="min_devices is 3, and a secure sum is of 4"):
        planned(round={"min_devices": 3})
    with pytest.raises(ConfigError, match="min_devices is 4, the quorum 5"):
        planned(devices=list("abcdef"), round={"min_devices": 4, "quorum": 5})


def test_noise_in_the_sum_says_how_many_devices_a_round_takes():
    private = {"privacy__enabled": True, "privacy__mode": "shared", "privacy__dropouts": 0.1}
    plan = planned(small_digits(**private), round={"wanted": 12})
    assert plan.min_devices == 11
    with pytest.raises(ConfigError, match="min_devices is 10, and a secure sum is of 11"):
        planned(small_digits(**private), round={"wanted": 12, "min_devices": 10})
    with pytest.raises(ConfigError, match="wanted is 12, and a secure sum is of 15"):
        planned(small_digits(**private), round={"wanted": 12, "over_selection": 1.3})


def test_the_digest_is_of_every_key_of_the_resolved_scenario():
    assert planned().digest == scenario_digest(planned().scenario)
    assert planned().digest != planned(rounds=9).digest
    assert len(bytes.fromhex(planned().digest)) == 32


@pytest.mark.parametrize(
    ("device", "client"),
    [
        (here(), "vision"),
        (here(clients=("wearable",)), None),
        (here(tier="lite"), "lite"),
        (here(tier="lite", clients=("vision",)), None),
        (here(tier="inference"), None),
    ],
)
def test_a_device_is_offered_the_client_that_it_has(device, client):
    assert client_for("vision", device, lite=True) == client
    assert client_for("vision", device, lite=False) == (None if device.tier == "lite" else client)
    assert client_for("lite", here(tier="lite"), lite=False) == "lite", "where all devices are lite"


def test_an_offer_holds_the_task_as_devices_take_it(tmp_path):
    plan = planned(devices=["a", "b", "c", "d"])
    task = make_task(plan.scenario, PublicStart(np.zeros(100, np.float32), {}), (1, 8, 8), 10).as_deployed()
    offers = Offers(5, plan, task, tmp_path)
    offer, parts = offers("a", here())
    assert (offer.run, offer.name, offer.scenario, offer.rounds, offer.client) == (
        5,
        "digits",
        plan.digest,
        3,
        "vision",
    )
    assert b"keyed_noise_seed" in parts[0]
    assert task.keyed_noise_seed is None
    assert parts[1] == b""
    assert offers("stranger", here()) is None


def test_numbers_are_given_once_and_kept(tmp_path):
    numbering = Numbering(tmp_path / "devices.json")
    assert [numbering.of(name) for name in ("b", "a", "b")] == [0, 1, 0]
    assert Numbering(tmp_path / "devices.json").names == ("b", "a")
    assert Numbering(tmp_path / "devices.json").of("c") == 2
    for damage in ("[1]", "{}", "["):
        (tmp_path / "devices.json").write_text(damage)
        with pytest.raises(ConfigError, match="damaged"):
            Numbering(tmp_path / "devices.json")


def as_rows(examples):
    return {x.tobytes() for x in examples.x}


def test_the_public_part_is_a_simulations_and_nothing_of_a_device():
    scenario = small_digits()
    dataset = datasets.load("digits")
    mine, simulated = public_part(dataset, scenario), datasets.split_as(dataset, scenario)
    assert as_rows(mine.public) | as_rows(mine.held_out) == as_rows(simulated.public)
    assert len(mine.public) + len(mine.held_out) == len(simulated.public)
    assert len(mine.held_out) == round(0.2 * len(simulated.public))
    assert mine.devices == mine.local == ()
    again = public_part(dataset, scenario)
    np.testing.assert_array_equal(again.held_out.y, mine.held_out.y)
    assert len(public_part(dataset, small_digits(data__local_held_out_fraction=0.5)).held_out) == 90


def test_an_official_test_part_is_what_is_held_out(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((100, 1, 8, 8), np.float32), np.arange(100) % 10
    np.savez(tmp_path / "set.npz", x=x, y=y, test_x=x[:7], test_y=y[:7])
    mine = public_part(datasets.load(str(tmp_path / "set.npz")), small_digits())
    assert len(mine.held_out) == 7
    assert len(mine.public) == 10


def test_epsilon_grows_with_the_rounds_and_ends_at_the_budget():
    scenario = small_digits(privacy__enabled=True)
    task = make_task(scenario, PublicStart(np.zeros(100, np.float32), {}), (1, 8, 8), 10)
    spent = [epsilon_after(task, rounds) for rounds in range(scenario.rounds + 1)]
    assert spent[0] == 0
    assert spent == sorted(spent)
    assert scenario.privacy.epsilon / 2 < spent[-1] <= scenario.privacy.epsilon
    assert (
        epsilon_after(
            make_task(small_digits(privacy__enabled=False), PublicStart(np.zeros(9, np.float32), {}), (1, 8, 8), 10), 3
        )
        is None
    )
