"""A head on fixed features through the whole pipeline: run, resume, and inference on raw examples."""

import json
import shutil

import pytest
from small_runs import resume, simulate, small_digits

from fedmesh.cli import main
from fedmesh.errors import ConfigError
from fedmesh.features import load

FEATURES = {
    "features.name": "hog",
    "features.components": 30,
    "features.within": 0.5,
    "features.options": {"cell": 2, "upright": False},
    "client.name": "lite",
    "model.name": "linear_head",
    "model.pretrain_learning_rate": 0.3,
}


def scenario(**changes):
    return small_digits(**{**FEATURES, "privacy.enabled": False, **changes})


def test_a_run_keeps_its_map_and_the_model_runs_on_raw_examples(tmp_path, capsys):
    out = tmp_path / "run"
    result = simulate(scenario(), out, workers=2)
    assert result["final"]["max_abs_logit_difference"] == 0.0
    assert result["final"]["accuracy_int8"] > 0.75
    features = load(out / "features.cbor")
    assert (features.name, features.components) == ("hog", 30)
    map_and_data = ["--features", str(out / "features.cbor"), "--data", "digits"]
    assert main(["infer", str(out / "model.int8.onnx"), *map_and_data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == result["final"]["accuracy_int8"]


def test_a_run_without_its_map_or_with_another_does_not_go_on(tmp_path):
    out = tmp_path / "run"
    simulate(scenario(rounds=1), out, workers=1)
    again = tmp_path / "again"
    shutil.copytree(out, again)
    content = bytearray((again / "features.cbor").read_bytes())
    content[-1] ^= 1
    (again / "features.cbor").write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        resume(again, workers=1)
    (again / "features.cbor").unlink()
    with pytest.raises(ConfigError, match="is missing"):
        resume(again, workers=1)
    assert resume(out, workers=1)["final"]["accuracy_int8"] > 0.7
