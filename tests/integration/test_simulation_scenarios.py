"""The scenarios that ship, on their real data: the figures that are promised, and that the larger sets run at all."""

import os
from pathlib import Path

import pytest
from small_runs import ROOT, simulate

from fedmesh.federation.scenario import Scenario
from fedmesh.flower.secure import STEPS

SCENARIOS = ROOT / "simulations"


def data_folder(name: str) -> Path:
    folder = Path(os.environ.get("FEDMESH_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / name).is_dir():
        pytest.skip(f"the data set {name} is not in {folder}: set FEDMESH_DATA, see docs/data.md")
    return folder


def digits(tmp_path, seed, **overrides):
    scenario = Scenario.load(SCENARIOS / "digits.toml", {"seed": seed, **overrides})
    return simulate(scenario, tmp_path / f"run-{seed}-{len(overrides)}")


@pytest.mark.slow
def test_digits_with_privacy_gains_on_its_public_start(tmp_path):
    result = digits(tmp_path, 1)
    assert result["final"]["epsilon"] <= 8.0
    assert 0.77 < result["start"]["accuracy_int8"] < 0.84
    assert result["final"]["accuracy_int8"] >= result["start"]["accuracy_int8"] + 0.03


@pytest.mark.slow
def test_digits_without_privacy_int8_keeps_up_with_float32(tmp_path):
    quantized = digits(tmp_path, 1, **{"privacy.enabled": False})
    float_federation = {
        "quantization.training": "float",
        "delta.codec": "float32",
        "secure_aggregation.enabled": False,  # which adds integers
    }
    plain = digits(tmp_path, 1, **{"privacy.enabled": False}, **float_federation)
    assert quantized["final"]["accuracy_int8"] >= 0.94
    assert quantized["final"]["accuracy_int8"] >= plain["final"]["accuracy_float"] - 0.005
    assert quantized["final"]["max_abs_logit_difference"] == 0.0


@pytest.mark.slow
def test_digits_goes_on_while_devices_are_lost_at_random_steps(tmp_path):
    result = digits(tmp_path, 1, **{"failures.dropout": 0.3})
    good = [row for row in result["rounds"] if row["failed"] is None]
    assert len(result["rounds"]) == 20
    assert len(good) >= 10
    assert all(row["survivors"] >= 4 for row in good)
    assert {failure["reason"].split("at the step ")[1].split()[0] for failure in result["failures"]} == set(STEPS)
    assert result["final"]["accuracy_int8"] > result["start"]["accuracy_int8"] + 0.02
    lost = result["secure_aggregation"]["aborts"]
    assert len(lost) >= 20 - len(good)
    assert all(abort["reason"].startswith("threshold: ") for abort in lost)


@pytest.mark.slow
def test_har_by_subject(tmp_path):
    scenario = Scenario.load(SCENARIOS / "har.toml", {"rounds": 3})
    result = simulate(scenario, tmp_path / "run", data_dir=data_folder("uci-har"))
    assert result["final"]["accuracy_int8"] > 0.8
    assert result["final"]["max_abs_logit_difference"] == 0.0
    assert result["final"]["bytes_int8"] <= 0.28 * result["final"]["bytes_float"]
    assert len({device["id"] for device in result["devices"]}) == result["clients"]


@pytest.mark.slow
def test_fashion(tmp_path):
    overrides = {
        "rounds": 1,
        "model.pretrain_epochs": 1,
        "strategy.fraction": 0.2,
        "strategy.quorum": 1,
        "failures.dropout": 0.0,
    }
    scenario = Scenario.load(SCENARIOS / "fashion.toml", {**overrides, "partition.alpha": 100.0})
    result = simulate(scenario, tmp_path / "run", data_dir=data_folder("fashion-mnist"))
    assert result["held_out"] == 10_000
    assert result["final"]["accuracy_int8"] > 0.6
    assert result["final"]["max_abs_logit_difference"] == 0.0
