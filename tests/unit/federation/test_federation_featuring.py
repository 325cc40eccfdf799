"""Examples become vectors once, by a map that belongs to the run."""

from dataclasses import replace

import numpy as np
import pytest

from fedmesh.errors import ConfigError
from fedmesh.features import load
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.directory import START_FILE
from fedmesh.federation.featuring import FILE, featured, featured_example
from fedmesh.federation.scenario import Scenario
from fedmesh.types import Examples


def examples(count, seed):
    rng = np.random.default_rng(seed)
    return Examples(rng.random((count, 1, 8, 8), np.float32), rng.integers(0, 3, count))


@pytest.fixture
def data():
    devices = tuple(examples(count, count) for count in (5, 6, 7, 8))
    return FederatedData(
        examples(30, 1), devices, (examples(2, 2), *[examples(0, 3)] * 3), examples(9, 4), tuple("abc"), (0, 1, 2, 3)
    )


def scenario(**features):
    return Scenario.parse({"name": "s", "features": {"name": "pixels", "components": 6} | features}, source="test")


def test_without_features_the_data_stay_as_they_are(tmp_path, data):
    plain = Scenario.parse({"name": "s"}, source="test")
    assert featured(data, plain, tmp_path) is data
    assert featured_example(data.public, plain).x.shape == (1, 1, 8, 8)
    assert not (tmp_path / FILE).exists()


def test_every_part_is_mapped_and_the_map_is_kept(tmp_path, data):
    found = featured(data, scenario(), tmp_path)
    features = load(tmp_path / FILE)
    pairs = zip(
        (data.public, data.held_out, *data.devices, *data.local),
        (found.public, found.held_out, *found.devices, *found.local),
        strict=True,
    )
    for before, after in pairs:
        assert after.x.tobytes() == features(before.x).tobytes()
        assert after.y is before.y
        assert after.x.shape == (len(before), 7)
    assert found.ids == data.ids
    assert featured_example(data.public, scenario()).x.tobytes() == found.public.x[:1].tobytes()


def test_only_the_public_part_is_fitted(tmp_path, data):
    moved = replace(data, devices=data.devices[::-1], held_out=examples(9, 77))
    for name, parts in (("a", data), ("b", moved)):
        (tmp_path / name).mkdir()
        featured(parts, scenario(), tmp_path / name)
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_a_run_that_goes_on_takes_its_own_map(tmp_path, data):
    first = featured(data, scenario(), tmp_path)
    kept = (tmp_path / FILE).read_bytes()
    other = replace(data, public=examples(30, 99))  # would fit another map
    again = featured(other, scenario(), tmp_path)
    assert again.held_out.x.tobytes() == first.held_out.x.tobytes()
    assert (tmp_path / FILE).read_bytes() == kept


@pytest.mark.parametrize("change", [{"components": 5}, {"bias": 0.5}, {"name": "hog"}])
def test_the_map_of_another_scenario_is_refused(tmp_path, data, change):
    featured(data, scenario(), tmp_path)
    with pytest.raises(ConfigError, match="is not of this run"):
        featured(data, scenario(**change), tmp_path)


def test_a_map_that_was_lost_is_not_fitted_again(tmp_path, data):
    featured(data, scenario(), tmp_path)
    (tmp_path / FILE).unlink()
    featured(data, scenario(), tmp_path)  # interrupted before the public start: nobody has trained on it
    (tmp_path / FILE).unlink()
    (tmp_path / START_FILE).write_bytes(b"")
    with pytest.raises(ConfigError, match="is missing"):
        featured(data, scenario(), tmp_path)
    assert not (tmp_path / FILE).exists()


def test_a_damaged_map_is_refused(tmp_path, data):
    featured(data, scenario(), tmp_path)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        featured(data, scenario(), tmp_path)
