"""A scenario that cannot run is refused before anything is trained, and before there is a run directory."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from fedmesh.errors import ConfigError, UnsupportedLayerError
from fedmesh.federation import preflight, start
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.preflight import check_fit, check_plugins
from fedmesh.federation.scenario import Scenario
from fedmesh.simulation import run
from fedmesh.types import Examples

HOPELESS = {"enabled": True, "mode": "client", "ring_bits": 8}
"""The grid is fine enough for a few weights, and far too coarse for a model's."""


def scenario(**tables):
    return Scenario.parse({"name": "small", **tables}, source="test")


@pytest.fixture
def data() -> FederatedData:
    examples = Examples(np.zeros((4, 1, 8, 8), np.float32), np.arange(4))
    devices = (examples,) * 4
    return FederatedData(examples, devices, devices, examples, tuple("0123456789"), tuple(range(4)))


@pytest.mark.parametrize("kind", ["model", "client", "strategy", "features"])
def test_a_plugin_that_is_not_installed(kind):
    with pytest.raises(ConfigError, match=f"'nope' is not one of the {kind.rstrip('y')}.*installed"):
        check_plugins(scenario(**{kind: {"name": "nope"}}))
    check_plugins(scenario())


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"model": {"options": {"foo": 1}}}, "unexpected keyword argument 'foo'"),
        ({"model": {"name": "lenet"}}, r"'lenet' cannot be built for examples of shape \[1, 8, 8\]"),
        ({"model": {"name": "har_cnn"}}, r"takes examples of shape \[channels, samples\]"),
        ({"model": {"name": "linear_head"}}, r"add a \[features\] section"),
        ({"features": {"name": "inertial", "components": 2}}, "choose other features"),
        ({"features": {"name": "pixels", "components": 4}}, "at most 3"),
        ({"privacy": HOPELESS}, r"raise privacy\.ring_bits"),
        ({"strategy": {"options": {"foo": 1}}}, "does not take these settings"),
        ({"strategy": {"options": {"seed": 1}}}, "strategy.options has seed"),
    ],
)
def test_options_and_shapes_that_do_not_fit(data, tables, said):
    with pytest.raises(ConfigError, match=said):
        check_fit(scenario(**tables), data)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), r"output of shape \[1, 3\], wanted \[1, 10\]"),
        (nn.Linear(5, 10), r"does not take examples of shape \[1, 8, 8\]"),
    ],
)
def test_a_model_of_somebody_else_that_does_not_fit(data, monkeypatch, model, said):
    monkeypatch.setattr(preflight, "build_model", lambda *_: model)
    with pytest.raises(ConfigError, match=said):
        check_fit(scenario(), data)


def test_lite_devices_want_a_model_that_ends_with_a_linear_layer(data, monkeypatch):
    planned = scenario(client={"lite_fraction": 0.5})
    check_fit(planned, data)
    ends = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU())
    monkeypatch.setattr(preflight, "build_model", lambda *_: ends)
    check_fit(scenario(), data)
    with pytest.raises(UnsupportedLayerError, match="a lite device trains the last layer"):
        check_fit(planned, data)


def test_what_fits_passes(data):
    check_fit(scenario(), data)
    check_fit(scenario(privacy={"enabled": True}), data)


def test_data_of_too_few_devices_for_a_secure_sum(data):
    few = replace(data, devices=data.devices[:3])
    with pytest.raises(ConfigError, match="only 3 of 3 devices are asked"):
        check_fit(scenario(secure_aggregation={"enabled": True}), few)
    check_fit(scenario(secure_aggregation={"enabled": False}), few)


def test_a_refusal_leaves_no_run_directory(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(start, "pretrain", lambda *_: trained.append(1))
    out = tmp_path / "run"
    for tables in ({"client": {"name": "nope"}}, {"model": {"name": "lenet"}}):
        with pytest.raises(ConfigError):
            run.simulate(scenario(**tables), out)
        assert not out.exists()
    assert not trained
