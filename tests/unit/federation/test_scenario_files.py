"""Every scenario in simulations/ is valid, describes itself, and fits its data set."""

import os
from pathlib import Path

import pytest

from fedmesh.errors import DataError
from fedmesh.federation.datasets import load, split_as
from fedmesh.federation.scenario import Scenario
from fedmesh.plugins import CLIENTS, MODELS, STRATEGIES, available

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("FEDMESH_DATA", ROOT / ".." / "shared" / "data"))
FILES = sorted((ROOT / "simulations").glob("*.toml"))


def test_there_are_scenarios():
    assert {"digits", "fashion", "har"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_valid_and_names_what_is_installed(path):
    scenario = Scenario.load(path)
    assert scenario.name == path.stem
    assert scenario.description
    assert scenario.model.name in available(MODELS)
    assert scenario.client.name in available(CLIENTS)
    assert scenario.strategy.name in available(STRATEGIES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_data_can_be_cut_as_it_says(path):
    scenario = Scenario.load(path)
    try:
        dataset = load(scenario.data.name, DATA)
    except DataError as error:
        if " is not at " not in str(error):
            raise
        pytest.skip(str(error))
    parts = split_as(dataset, scenario)
    assert len(parts.devices) == scenario.partition.clients
    assert len(parts.held_out) > 100
    assert set(parts.public.y) == set(range(len(parts.classes)))
