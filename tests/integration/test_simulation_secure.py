"""Secure aggregation in whole simulated runs: the sum is the right one, whoever is lost at whatever step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import arguments, resume, simulate, small_digits

from fedmesh.cli import main
from fedmesh.client.assignment import Assignment
from fedmesh.client.identities import AGGREGATOR, device_name
from fedmesh.client.trainer import Trainer
from fedmesh.coordinator import Journal
from fedmesh.errors import ConfigError, NothingLearnedError
from fedmesh.federation import datasets
from fedmesh.federation.directory import RunDirectory
from fedmesh.federation.plan import make_strategy, make_task
from fedmesh.federation.scenario import Scenario
from fedmesh.flower.arrays import vector
from fedmesh.quantization.codec import DeltaCodec, dequantize_sum
from fedmesh.types import Float32

STILL_IN_THE_SUM = ("at the step sign", "at the step unmask")


def learned(result: dict) -> list:
    """All that depends on the weights after every round."""
    keys = ("accuracy_int8", "loss", "epsilon", "survivors")
    return [result["final"]["sha256"], result["final"]["loss"], [[r[key] for key in keys] for r in result["rounds"]]]


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="private"),
        pytest.param({"partition__clients": 9, "secure_aggregation__group_size": 4, "rounds": 2}, id="groups"),
        pytest.param({"privacy__enabled": False, "client__batching": "always"}, id="cohorts", marks=pytest.mark.slow),
        pytest.param(
            {"privacy__enabled": False, "strategy__weighting": "examples", "secure_aggregation__weight_cap": 1000},
            id="weighted",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"privacy__enabled": False, "delta__error_feedback": True, "delta__bits": 4},
            id="error feedback",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"partition__clients": 12, "strategy__fraction": 0.4}, id="a share of the devices", marks=pytest.mark.slow
        ),
        pytest.param({"secure_aggregation__overlap": False, "rounds": 2}, id="no overlap", marks=pytest.mark.slow),
    ],
)
def test_the_model_is_bit_for_bit_the_one_without_it(overrides, tmp_path):
    secure = simulate(small_digits(**overrides), tmp_path / "secure", workers=2)
    plain = simulate(small_digits(**overrides, secure_aggregation__enabled=False), tmp_path / "plain", workers=1)
    assert learned(secure) == learned(plain)
    assert secure["secure_aggregation"]["sums"] >= len(secure["rounds"])
    assert all(session["aborted"] is None for row in secure["rounds"] for session in row["sessions"])
    ahead = overrides.get("secure_aggregation__overlap", True)
    assert secure["rounds"][-1]["stages"][0]["name"] == ("train" if ahead else "advertise")


def test_the_keys_of_the_next_round_are_exchanged_on_the_way(tmp_path):
    ahead = simulate(small_digits(), tmp_path / "ahead", workers=1)
    names = [[stage["name"] for stage in row["stages"]] for row in ahead["rounds"]]
    assert names == [["advertise", "share", "train", "sign", "unmask"], *[["train", "sign", "unmask"]] * 2]
    steps = {step["step"]: step for step in ahead["secure_aggregation"]["steps"]}
    assert [step["times"] for step in steps.values()] == [1, 1, 3, 3, 3]
    assert steps["train"]["replies"] == steps["train"]["devices"] == 12
    assert sum(stage["bytes_up"] for row in ahead["rounds"] for stage in row["stages"]) == sum(
        step["bytes_up"] for step in steps.values()
    )


def test_metrics_are_told_as_means_over_the_sum_and_only_without_privacy(tmp_path):
    result = simulate(small_digits(privacy__enabled=False, rounds=2), tmp_path / "run", workers=1)
    examples = np.mean([device["examples"] for device in result["devices"]])
    for row in result["rounds"]:
        assert row["train_examples"] == pytest.approx(examples, abs=1e-4)
        assert 0.1 < row["train_loss"] < 10
    private = simulate(small_digits(rounds=1), tmp_path / "private", workers=1)
    assert (private["rounds"][0]["train_loss"], private["rounds"][0]["train_examples"]) == (None, None)


def test_identities_are_the_owners_alone_and_stay_when_a_run_is_resumed(tmp_path):
    out = tmp_path / "run"
    simulate(small_digits(rounds=1), out, workers=1)
    folder = out / "identities"
    keys = {path.name: path.read_bytes() for path in folder.glob("*.key")}
    assert keys.keys() == {f"{name}.key" for name in (AGGREGATOR, *map(device_name, range(4)))}
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("*.key"))
    resume(out, workers=1)
    assert {path.name: path.read_bytes() for path in folder.glob("*.key")} == keys


def test_a_lost_identity_is_named(tmp_path):
    out = tmp_path / "run"
    simulate(small_digits(rounds=1), out, workers=1)
    (out / "identities" / "device-1.key").unlink()
    with pytest.raises(ConfigError, match=r"device-1\.key"):
        resume(out, workers=1)


class Federation:
    """The devices of a scenario, to train by hand."""

    def __init__(self, scenario: Scenario, out: Path) -> None:
        self.start = RunDirectory.open(out).load_start()
        assert self.start is not None
        self.data = datasets.split_as(datasets.load("digits", None), scenario)
        self.task = make_task(scenario, self.start, (1, 8, 8), 10)
        self.trainer = Trainer.of(self.task)
        self.ranges = make_strategy(scenario, self.trainer.layout, self.task).ranges

    def moved(self, number: int, weights: Float32, devices: list[int]) -> Float32:
        """The weights after a round in which the updates of `devices` are summed, all of them known."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as a worker has: with more of them the last bits are others
        try:
            return self._moved(number, weights, devices)
        finally:
            torch.set_num_threads(threads)

    def _moved(self, number: int, weights: Float32, devices: list[int]) -> Float32:
        layout = self.trainer.layout
        codec = DeltaCodec(layout, self.task.bits, self.ranges(layout.unflatten(weights)))
        total = np.zeros(layout.size, np.int64)
        for device in devices:
            assignment = Assignment(number, device, weights, codec.ranges.tolist())
            packet = self.trainer.train(assignment, self.data.devices[device]).packet
            total += codec.codes(packet, max_bytes=codec.packet_bytes)
        return weights + layout.flatten(dequantize_sum(total, len(devices), codec))


def weights_after(out: Path, size: int) -> Float32:
    with Journal(out / "journal.sqlite3") as journal:
        last = journal.last()
    assert last is not None
    return vector(last.arrays, "model", dtype="float32", max_bytes=4 * size)


@pytest.mark.slow
def test_devices_are_lost_at_random_steps_and_every_sum_is_the_right_one(tmp_path):
    """With this seed a round of the three is lost, one is begun again, and in one devices are lost behind the sum."""
    overrides = {"partition__clients": 10, "failures__dropout": 0.3, "privacy__enabled": False, "seed": 8}
    fixed = {"client__batching": "never"}  # together with others a device's last bits are others
    before, begun_again, lost_behind = None, 0, 0
    for rounds in (1, 2, 3):
        scenario, out = small_digits(**overrides, **fixed, rounds=rounds), tmp_path / str(rounds)
        result = simulate(scenario, out, workers=1)
        federation = Federation(scenario, out)
        before = federation.start.weights if before is None else before
        row, lost = result["rounds"][-1], [f for f in result["failures"] if f["round"] == rounds]
        absent = {f["device"] for f in lost if not any(step in f["reason"] for step in STILL_IN_THE_SUM)}
        after = weights_after(out, federation.trainer.layout.size)
        if row["failed"]:
            np.testing.assert_array_equal(after, before)
        else:
            summed = sorted(set(range(10)) - absent)
            assert row["survivors"] == len(summed)
            np.testing.assert_array_equal(after, federation.moved(rounds, before, summed))
            begun_again += len(row["sessions"]) > 1
            lost_behind += row["survivors"] > 10 - len(lost)
        before = after
    assert begun_again
    assert lost_behind
    with Journal(out / "journal.sqlite3") as journal:
        assert journal.last().states == {}, "the sealed sessions of lost devices are not kept beside their keys"
    (abort,) = [row["failed"] for row in result["rounds"] if row["failed"]]
    assert "of 10 devices are left" in abort
    assert abort in {row["reason"].removeprefix("threshold: ") for row in result["secure_aggregation"]["aborts"]}


def test_rounds_that_are_lost_on_purpose_do_not_end_the_run_but_a_run_of_lost_rounds_does(tmp_path):
    hopeless = small_digits(failures__dropout=0.95, rounds=5)
    with pytest.raises(NothingLearnedError, match="all 5 rounds failed, the model is the start's"):
        simulate(hopeless, tmp_path / "run", workers=1)


def test_a_run_of_lost_rounds_is_not_advised_to_go_on(tmp_path, capsys):
    assert main(arguments(tmp_path / "run", failures__dropout=0.95, rounds=2)) == 1
    said = capsys.readouterr().err
    assert "all 2 rounds failed" in said
    assert "begin a new run" in said
    assert "--resume" not in said
