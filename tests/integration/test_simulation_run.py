"""Whole small federations on real digits: what comes out, that it repeats, and that promises hold on the way."""

import json
import shutil

import pytest
from small_runs import resume, simulate, small_digits, steady

from fedmesh.errors import ConfigError
from fedmesh.events import DeviceReplied, ModelChecked, RoundFinished
from fedmesh.federation import datasets
from fedmesh.flower.secure import STEPS
from fedmesh.inference import Engine, evaluate
from fedmesh.quantization import integer_kernels
from fedmesh.simulation import run

PARAMETERS = 6586


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One private run with all its events, on workers of its own zygote as a person's are."""
    out = tmp_path_factory.mktemp("run") / "out"
    events = []
    return out, run.simulate(small_digits(), out, workers=2, events=events.append), events


def test_result_json_is_what_was_returned_and_has_every_promised_key(finished):
    out, result, _ = finished
    assert json.loads((out / "result.json").read_text()) == result
    assert {"scenario", "seed", "clients", "rounds", "final", "secure_aggregation", "seconds"} <= set(result)
    for number, entry in enumerate(result["rounds"], start=1):
        assert entry["round"] == number
        keys = {"clients", "survivors", "accuracy_int8", "loss", "epsilon", "bytes_up", "bytes_down", "seconds"}
        assert keys <= set(entry)
    final = {"accuracy_float", "accuracy_int8", "agreement", "max_abs_logit_difference", "model", "sha256"}
    assert final | {"bytes_int8", "bytes_float", "epsilon", "delta"} <= set(result["final"])


def test_the_model_that_is_left_is_the_model_that_was_judged(finished):
    out, result, _ = finished
    scenario = small_digits()
    data = datasets.split_as(datasets.load("digits", None), scenario)
    engine = Engine(out / result["final"]["model"])
    assert engine.sha256 == result["final"]["sha256"]
    assert evaluate(engine, data.held_out).accuracy == result["final"]["accuracy_int8"]
    assert integer_kernels(out / "model.int8.onnx")["QLinearConv"] == 2


def test_every_round_is_exported_and_equals_the_trained_model(finished):
    _, result, events = finished
    checks = [event for event in events if isinstance(event, ModelChecked)]
    assert [check.round for check in checks] == [0, 1, 2, 3]
    assert all(check.agreement == 1.0 and check.max_abs_logit_difference == 0.0 for check in checks)
    assert result["final"]["agreement"] == 1.0
    assert result["final"]["max_abs_logit_difference"] == 0.0


def test_bytes_are_measured(finished):
    _, result, events = finished
    replies = [event for event in events if isinstance(event, DeviceReplied) and event.round == 1]
    assert len(replies) == 4 * len(STEPS)
    assert result["rounds"][0]["bytes_up"] == sum(reply.payload_bytes for reply in replies) / 4
    packed = PARAMETERS * 11 / 8  # bits of a ring that holds the sum of four int8 vectors
    assert packed < result["rounds"][0]["bytes_up"] < packed + 5000
    assert 4 * PARAMETERS < result["rounds"][0]["bytes_down"] < 4 * PARAMETERS + 6000


def test_bytes_without_secure_aggregation(tmp_path):
    result = simulate(small_digits(secure_aggregation__enabled=False, rounds=1), tmp_path / "run", workers=1)
    (entry,) = result["rounds"]
    assert PARAMETERS < entry["bytes_up"] < 1.1 * PARAMETERS
    assert 4 * PARAMETERS < entry["bytes_down"] < 4.4 * PARAMETERS
    assert [(stage["name"], stage["replies"]) for stage in entry["stages"]] == [("train", 4)]
    assert result["secure_aggregation"] == {"enabled": False}
    assert not (tmp_path / "run" / "identities").exists()


def test_epsilon_grows_and_stays_in_the_budget(finished):
    _, result, events = finished
    spent = [entry["epsilon"] for entry in result["rounds"]]
    assert spent == sorted(spent)
    assert 0 < spent[0] < spent[-1] <= 8.0
    assert result["final"]["epsilon"] == spent[-1] == max(device["epsilon"] for device in result["devices"])
    assert [event.epsilon for event in events if isinstance(event, RoundFinished)] == spent
    assert "simulation only" in result["privacy"]["noise"]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_whatever_the_number_of_workers(finished, tmp_path, workers):
    _, result, _ = finished
    assert steady(simulate(small_digits(), tmp_path / "again", workers=workers)) == steady(result)


def test_another_seed_is_another_run(finished, tmp_path):
    _, result, _ = finished
    other = simulate(small_digits(seed=2), tmp_path / "other", workers=1)
    assert other["final"]["sha256"] != result["final"]["sha256"]


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    out, result, _ = finished
    copy = shutil.copytree(out, tmp_path / "copy")
    assert steady(resume(copy, workers=2)) == steady(result)


def test_dropouts_cost_devices_not_rounds(tmp_path):
    scenario = small_digits(failures__dropout=0.5, rounds=4, secure_aggregation__enabled=False)
    result = simulate(scenario, tmp_path / "run", workers=1)
    survivors = [entry["survivors"] for entry in result["rounds"]]
    assert all(
        (entry["clients"] == 4 and entry["failed"] is None) or entry["survivors"] == 0 for entry in result["rounds"]
    )
    assert min(survivors) < 4
    assert len(result["failures"]) == sum(4 - count for count in survivors)


def test_without_privacy_there_is_no_epsilon_and_no_ledger(tmp_path):
    result = simulate(small_digits(privacy__enabled=False), tmp_path / "run", workers=1)
    assert result["final"]["epsilon"] is None
    assert result["privacy"] == {"enabled": False}
    assert list((tmp_path / "run" / "ledgers").iterdir()) == []


def test_a_float_federation_sends_float_packets(tmp_path):
    scenario = small_digits(
        privacy__enabled=False,
        quantization__training="float",
        delta__codec="float32",
        secure_aggregation__enabled=False,
    )
    result = simulate(scenario, tmp_path / "run", workers=1)
    assert result["rounds"][0]["bytes_up"] > 4 * PARAMETERS


def test_an_occupied_directory_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("keep me")
    with pytest.raises(ConfigError, match="not empty"):
        simulate(small_digits(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_more_devices_than_examples_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="5000"):
        simulate(small_digits(partition__clients=5000, partition__kind="iid"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
