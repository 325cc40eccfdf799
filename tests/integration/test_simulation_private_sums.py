"""Whole simulated runs whose noise is complete in the secure sum only."""

import functools

import numpy as np
import pytest
import torch
from small_runs import resume, simulate, small_digits

from fedmesh.client.assignment import Assignment
from fedmesh.client.ledgers import ledger_path, open_ledger
from fedmesh.client.trainer import Trainer
from fedmesh.coordinator import Journal
from fedmesh.federation import datasets
from fedmesh.federation.directory import RunDirectory
from fedmesh.federation.plan import make_task
from fedmesh.flower.arrays import vector
from fedmesh.privacy import release_id
from fedmesh.privacy.skellam import rotation_seed
from fedmesh.privacy.summing import mean_of
from fedmesh.types import PrivacyEvent

SHARED = {"privacy__mode": "shared", "privacy__expected_batch": 300.0, "privacy__epsilon": 8.0}
CLIENT = {"privacy__mode": "client", "privacy__epsilon": 50.0, "privacy__clip": 0.3}


def weights_after(out, size):
    with Journal(out / "journal.sqlite3") as journal:
        last = journal.last()
    return vector(last.arrays, "model", dtype="float32", max_bytes=4 * size)


@pytest.fixture
def one_thread():
    """As a worker has: with more of them the last bits are others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def first_round(tmp_path_factory):
    """One round of each mode, held once: scenario, run directory and result."""

    @functools.cache
    def run(mode):
        scenario = small_digits(**(SHARED if mode == "shared" else CLIENT), partition__alpha=0.2, rounds=1)
        out = tmp_path_factory.mktemp(mode) / "run"
        return scenario, out, simulate(scenario, out, workers=2)

    return run


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("mode", ["shared", "client"])
def test_the_weights_move_by_the_sum_of_what_the_devices_put_in(mode, first_round, tmp_path):
    scenario, out, result = first_round(mode)
    start = RunDirectory.open(out).load_start()
    data = datasets.split_as(datasets.load("digits", None), scenario)
    task = make_task(scenario, start, (1, 8, 8), 10)
    trainer, settings = Trainer.of(task), task.summed
    total = np.zeros(settings.length, np.int64)
    for device, examples in enumerate(data.devices):
        assignment = Assignment(1, device, start.weights, [settings.clip])
        with open_ledger(tmp_path, device, level=settings.level, epsilon=settings.epsilon, delta=1e-5) as ledger:
            total += trainer.train(assignment, examples, ledger=ledger).values
            assert len(ledger.charges) == 1
    half = 1 << (settings.bits - 1)
    total = (total + half) % (1 << settings.bits) - half
    step = mean_of(settings, total, 4, clip=settings.clip, seed=rotation_seed(1, start.weights))
    # The examples lie elsewhere in memory than in a worker: the last bit of a gradient may tip a rounding.
    np.testing.assert_allclose(weights_after(out, settings.size), start.weights + step, rtol=0, atol=5e-6)
    privacy = result["privacy"]
    assert (privacy["mode"], privacy["level"]) == (mode, settings.level)
    assert result["final"]["epsilon"] <= scenario.privacy.epsilon
    assert privacy["epsilon_released"] <= result["final"]["epsilon"]


@pytest.mark.parametrize("mode", ["shared", "client"])
def test_what_a_device_sends_does_not_depend_on_how_much_it_holds(mode, first_round, tmp_path):
    scenario, _, result = first_round(mode)
    fewer = scenario.overridden({"data.public_fraction": 0.6}, source="test")
    results = [result, simulate(fewer, tmp_path / "fewer", workers=1)]
    held, sent = [], []
    for found in results:
        held.append(sorted(device["examples"] for device in found["devices"]))
        (train,) = [stage for stage in found["rounds"][0]["stages"] if stage["name"] == "train"]
        sent.append(train["bytes_up"])
    assert held[0] != held[1]
    assert len(set(held[0])) > 1
    assert sent[0] == sent[1]
    assert sent[0] % 4 == 0  # four devices, the same number of bytes each


def test_the_run_is_the_same_on_any_number_of_workers(first_round, tmp_path):
    scenario, _, result = first_round("shared")
    alone = simulate(scenario, tmp_path / "run", workers=1)
    assert alone["final"]["sha256"] == result["final"]["sha256"]
    assert alone["final"]["loss"] == result["final"]["loss"]


def test_a_shared_budget_spent_to_the_end_and_half_its_devices_decline(tmp_path):
    """Two of ten have spent theirs elsewhere: they decline, and the sums of the other eight go on."""
    overrides = {**SHARED, "partition__clients": 10, "privacy__dropouts": 0.2, "rounds": 2}
    scenario, out = small_digits(**overrides), tmp_path / "run"
    one_round = small_digits(**overrides)
    directory = RunDirectory.create(out, one_round, "")
    spent = PrivacyEvent("gaussian", {"noise_multiplier": 0.75}, 1, "another-task/round-1")
    for device in (3, 7):
        with open_ledger(directory.ledgers, device, level="example", epsilon=8.0, delta=1e-5) as ledger:
            ledger.charge(spent, release_id=release_id("another", device))
    ledgers = {path.name: path.read_bytes() for path in directory.ledgers.iterdir()}
    for path in [*directory.ledgers.iterdir(), directory.path / "run.json"]:
        path.unlink()
    directory.ledgers.rmdir()

    def with_ledgers(event):
        """As soon as the run has its folder."""
        if (out / "ledgers").exists() and not any((out / "ledgers").iterdir()):
            for name, content in ledgers.items():
                (out / "ledgers" / name).write_bytes(content)

    result = simulate(scenario, out, workers=1, events=with_ledgers)
    assert [row["survivors"] for row in result["rounds"]] == [8, 8]
    assert {failure["device"] for failure in result["failures"]} == {3, 7}
    assert all("privacy budget" in failure["reason"] for failure in result["failures"])
    with open_ledger(out / "ledgers", 3, level="example", epsilon=8.0, delta=1e-5) as ledger:
        assert [charge.event.label for charge in ledger.charges] == ["another-task/round-1"]


def test_too_many_lost_devices_cost_the_round_and_never_the_promise(tmp_path):
    overrides = {**CLIENT, "partition__clients": 10, "privacy__dropouts": 0.0, "failures__dropout": 0.08, "seed": 45}
    result = simulate(small_digits(**overrides, rounds=2), tmp_path / "run", workers=1)
    good, lost = result["rounds"]  # with this seed one device is lost before the training of round 2
    assert (good["failed"], good["survivors"]) == (None, 10)
    assert "the session needs 10" in lost["failed"]
    assert lost["accuracy_int8"] == good["accuracy_int8"]
    assert result["final"]["epsilon"] <= 50.0


@pytest.mark.slow
def test_a_clip_that_follows_its_quantile_survives_an_interruption(tmp_path):
    overrides = {**CLIENT, "partition__clients": 8, "privacy__clip_quantile": 0.5, "privacy__clip_rate": 1.0}
    whole = simulate(small_digits(**overrides, rounds=3), tmp_path / "whole", workers=1)

    class StopError(Exception):
        pass

    def stop(event):
        if type(event).__name__ == "RoundFinished" and event.round == 2:
            raise StopError

    with pytest.raises(StopError):
        simulate(small_digits(**overrides, rounds=3), tmp_path / "cut", workers=1, events=stop)
    again = resume(tmp_path / "cut", workers=1)
    keys = ("accuracy_int8", "loss", "epsilon", "survivors")
    assert [[row[key] for key in keys] for row in again["rounds"]] == [
        [row[key] for key in keys] for row in whole["rounds"]
    ]
    assert again["final"]["sha256"] == whole["final"]["sha256"]
    assert ledger_path(tmp_path / "cut" / "ledgers", 0, "client").exists()
