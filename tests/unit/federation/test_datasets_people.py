"""People who are public, devices, or held out as a whole."""

from dataclasses import replace

import numpy as np
import pytest

from fedmesh.errors import ConfigError, DataError
from fedmesh.federation.datasets import Dataset, split
from fedmesh.federation.datasets.people import without_ids
from fedmesh.federation.scenario import PartitionSection, Scenario
from fedmesh.types import Examples


def make(people=12, each=10, tested=5):
    """`tested` of the people are the official test part; x tells a person and an example."""
    groups = np.repeat(np.arange(people), each)
    x = np.arange(len(groups), dtype=np.float32)[:, np.newaxis]
    y = np.arange(len(groups)) % 3
    test = groups >= people - tested
    return Dataset(
        "made", x[~test], y[~test], ("a", "b", "c"), groups=groups[~test], blocks=groups[~test] * 2,
        test=Examples(x[test], y[test]), test_groups=groups[test], test_blocks=groups[test] * 2,
    )  # fmt: skip


def people_of(examples):
    return set((examples.x[:, 0] // 10).astype(int))


def cut(dataset, seed=1, *, kind="natural", clients=4, **settings):
    partition = PartitionSection(kind=kind, clients=clients)
    return split(dataset, public_fraction=0.1, local_held_out_fraction=0.0, partition=partition, seed=seed, **settings)


def test_a_number_of_people_is_public():
    parts = cut(make(), public_ids=3)
    assert len(people_of(parts.public)) == 3
    assert len(parts.devices) == 4
    assert people_of(parts.held_out) == {7, 8, 9, 10, 11}
    assert not people_of(parts.public) & set(parts.ids)


@pytest.mark.parametrize("seed", range(8))
def test_held_out_people_are_drawn_from_all_and_are_nothing_else(seed):
    parts = cut(make(), seed, public_ids=3, held_out_ids=5)
    public, devices, held_out = people_of(parts.public), set(parts.ids), people_of(parts.held_out)
    assert (len(public), len(devices), len(held_out)) == (3, 4, 5)
    assert public | devices | held_out == set(range(12))
    assert len(parts.public) + sum(map(len, parts.devices)) + len(parts.held_out) == 120


def test_other_seeds_hold_out_other_people():
    assert len({frozenset(people_of(cut(make(), seed, held_out_ids=5).held_out)) for seed in range(8)}) > 1


def test_examples_keep_their_labels_ids_and_blocks():
    whole = without_ids(make(), 5, np.random.default_rng(1))
    for x, y, groups, blocks in (
        (whole.x, whole.y, whole.groups, whole.blocks),
        (whole.test.x, whole.test.y, whole.test_groups, whole.test_blocks),
    ):
        assert (x[:, 0].astype(int) % 3 == y).all()
        assert (x[:, 0].astype(int) // 10 == groups).all()
        assert (blocks == groups * 2).all()


def test_a_set_without_a_test_part_can_hold_people_out():
    only = replace(make(), test=None, test_groups=None, test_blocks=None)
    assert len(people_of(cut(only, held_out_ids=2).held_out)) == 2


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({}, {"held_out_ids": 11}, "has 12 ids: lower it"),
        ({"test_groups": None}, {"held_out_ids": 2}, "use 'official'"),
        ({"groups": None}, {"held_out_ids": 2}, "no natural ids"),
        ({}, {"public_ids": 7}, "public_ids = 7 makes all of made public"),
        ({}, {"public_ids": 2, "kind": "iid"}, "public_ids counts people"),
    ],
)
def test_what_cannot_be_cut_says_why(changes, settings, said):
    with pytest.raises(ConfigError, match=said):
        cut(replace(make(), **changes), **settings)


def test_ids_of_a_test_part_must_be_as_many():
    with pytest.raises(DataError, match="test_groups has shape"):
        replace(make(), test_groups=np.zeros(3, np.int64))


@pytest.mark.parametrize("table", [{"held_out": "ids"}, {"held_out_ids": 3}])
def test_a_scenario_says_how_many(table):
    with pytest.raises(ConfigError, match="come together or not at all"):
        Scenario.parse({"name": "s", "data": table}, source="test")
