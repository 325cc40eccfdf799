"""A data set cut into public, device and held-out parts."""

import numpy as np
import pytest

from fedmesh.errors import ConfigError
from fedmesh.federation.datasets import Dataset, load, split
from fedmesh.federation.scenario import PartitionSection
from fedmesh.types import Examples


def make(count=200, *, groups=None, blocks=None, test=None):
    y = np.arange(count) % 4
    x = np.arange(count, dtype=np.float32)[:, np.newaxis]
    return Dataset("made", x, y, ("a", "b", "c", "d"), groups=groups, blocks=blocks, test=test)


def cut(dataset, *, public=0.1, local=0.2, seed=1, **partition):
    section = PartitionSection(**partition)
    return split(dataset, public_fraction=public, local_held_out_fraction=local, partition=section, seed=seed)


def serials(part):
    return part.x[:, 0].astype(int)


def test_the_digits_of_the_default_scenario():
    parts = cut(load("digits"), kind="dirichlet", clients=10)
    assert 175 <= len(parts.public) <= 185
    assert (np.bincount(parts.public.y) >= 17).all()
    assert len(parts.devices) == len(parts.local) == 10
    assert len(parts.public) + sum(map(len, parts.devices)) + sum(map(len, parts.local)) == 1797
    assert len(parts.held_out) == sum(map(len, parts.local))
    assert parts.ids == tuple(range(10))


def test_the_public_part_is_stratified_and_holds_every_label():
    labels = np.array([0] * 190 + [1] * 10)
    dataset = Dataset("skewed", np.zeros((200, 1), np.float32), labels, ("a", "b"))
    assert np.bincount(cut(dataset, clients=4).public.y).tolist() == [19, 1]
    assert np.bincount(cut(dataset, clients=4, public=0.01).public.y).tolist() == [2, 1]


def test_a_seed_repeats_and_another_does_not():
    first, again, other = (cut(make(), clients=5, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.x, b.x) for a, b in zip(first.devices, again.devices, strict=True))
    assert not np.array_equal(first.public.x, other.public.x)


def test_the_held_out_fraction_does_not_move_the_public_part():
    first, other = (cut(make(), clients=5, local=local) for local in (0.1, 0.4))
    assert np.array_equal(first.public.x, other.public.x)
    hands = [
        [sorted({*serials(d), *serials(o)}) for d, o in zip(parts.devices, parts.local, strict=True)]
        for parts in (first, other)
    ]
    assert hands[0] == hands[1]


def test_an_official_test_part_is_the_held_out_part():
    test = Examples(np.full((3, 1), 9, np.float32), np.zeros(3, np.int64))
    parts = cut(make(test=test), clients=5, local=0.0)
    assert parts.held_out is test
    assert [len(part) for part in parts.local] == [0] * 5


def test_nothing_held_out_is_an_error():
    with pytest.raises(ConfigError, match=r"no official test part.*local_held_out_fraction, which is 0"):
        cut(make(), clients=5, local=0.0)


def test_natural_makes_whole_people_public():
    groups = np.repeat(np.arange(10) + 30, 20)
    parts = cut(make(groups=groups), kind="natural", clients=8, public=0.2)
    public = set(groups[serials(parts.public)])
    assert len(public) == 2
    assert len(parts.public) == 40
    assert len(parts.ids) == 8
    assert not public & set(parts.ids)
    for identity, device, local in zip(parts.ids, parts.devices, parts.local, strict=True):
        assert set(groups[serials(device)]) == set(groups[serials(local)]) == {identity}
        assert (len(device), len(local)) == (16, 4)


def test_natural_ids_are_too_few():
    groups = np.repeat(np.arange(10), 20)
    with pytest.raises(ConfigError, match=r"partition\.clients is 9, but 8 of 8 ids.*public_fraction"):
        cut(make(groups=groups), kind="natural", clients=9, public=0.2)


def test_natural_needs_ids():
    with pytest.raises(ConfigError, match=r"made has no natural ids: set partition\.kind"):
        cut(make(), kind="natural", clients=2)


def test_other_kinds_ignore_ids():
    parts = cut(make(groups=np.repeat(np.arange(10), 20)), kind="iid", clients=4)
    assert parts.ids == (0, 1, 2, 3)


def test_overlapping_examples_are_held_out_together():
    blocks = np.arange(200) // 5
    parts = cut(make(groups=np.repeat(np.arange(4), 50), blocks=blocks), kind="natural", clients=3, local=0.3)
    for device, local in zip(parts.devices, parts.local, strict=True):
        assert len(local) == 15
        assert not set(blocks[serials(device)]) & set(blocks[serials(local)])


def test_a_device_always_keeps_something_to_train_on():
    parts = cut(make(), kind="iid", clients=90, local=0.9)
    assert min(map(len, parts.devices)) == 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_public_fractions(fraction):
    with pytest.raises(ConfigError, match=r"data\.public_fraction"):
        cut(make(), clients=2, public=fraction)


def test_everything_public_is_an_error():
    with pytest.raises(ConfigError, match="no device has anything"):
        cut(make(4), clients=1, public=0.5)


def test_more_devices_than_examples():
    with pytest.raises(ConfigError, match="180 examples cannot give 500 devices 2 each"):
        cut(make(), clients=500)
