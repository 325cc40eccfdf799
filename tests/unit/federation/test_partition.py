"""Each way of dealing examples: its shape, and the requests it refuses."""

import numpy as np
import pytest

from fedmesh.errors import ConfigError
from fedmesh.federation.partition import dirichlet, iid, natural, shards

LABELS = np.repeat(np.arange(10), 100)


def rng(seed=0):
    return np.random.default_rng(seed)


def shares(hands, labels):
    """Label shares of each device, [devices, classes]."""
    counts = np.array([np.bincount(labels[hand], minlength=labels.max() + 1) for hand in hands])
    return counts / counts.sum(axis=1, keepdims=True)


def test_iid_sizes_differ_by_one_at_most():
    sizes = [len(hand) for hand in iid(103, 10, rng())]
    assert sorted(sizes) == [10] * 7 + [11] * 3


def test_iid_is_mixed():
    assert shares(iid(1000, 5, rng()), LABELS).max() < 0.2


def test_a_small_alpha_is_far_from_iid_and_a_large_one_near():
    skewed, even = (shares(dirichlet(LABELS, 10, rng(), alpha=a), LABELS).max(axis=1).mean() for a in (0.1, 1e4))
    assert skewed > 0.4
    assert even < 0.15


@pytest.mark.parametrize("alpha", [1e-9, 1e-3, 1e6])
def test_extreme_alphas_still_deal_everything(alpha):
    hands = dirichlet(LABELS, 7, rng(), alpha=alpha)
    assert sorted(np.concatenate(hands).tolist()) == list(range(1000))
    assert min(map(len, hands)) >= 1


def test_no_dirichlet_device_holds_almost_everything():
    for seed in range(20):
        sizes = [len(hand) for hand in dirichlet(LABELS, 10, rng(seed), alpha=0.1)]
        assert max(sizes) <= 100 + 100  # its even share, and one more label's examples


def test_dirichlet_keeps_its_promise_of_a_fewest():
    for seed in range(10):
        assert min(map(len, dirichlet(LABELS, 10, rng(seed), alpha=0.5, min_examples=20))) >= 20


def test_dirichlet_says_when_it_cannot():
    with pytest.raises(ConfigError, match=r"partition\.alpha = 0\.01 left some device of 100.*raise alpha"):
        dirichlet(LABELS, 100, rng(), alpha=0.01, min_examples=9)


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.inf, np.nan])
def test_impossible_alphas(alpha):
    with pytest.raises(ConfigError, match=r"partition\.alpha"):
        dirichlet(LABELS, 2, rng(), alpha=alpha)


def test_shards_give_few_labels_each():
    hands = shards(rng(3).permutation(LABELS), 10, rng(), shards_per_client=2)
    labels = rng(3).permutation(LABELS)
    assert all(len(np.unique(labels[hand])) <= 3 for hand in hands)
    assert [len(hand) for hand in hands] == [100] * 10


def test_shards_do_not_follow_the_files_order():
    first = {int(hand[0]) for seed in range(5) for hand in shards(LABELS, 2, rng(seed), shards_per_client=500)}
    assert len(first) > 2


def test_more_shards_than_examples():
    with pytest.raises(ConfigError, match=r"need 1200 examples, there are 1000.*shards_per_client"):
        shards(LABELS, 100, rng(), shards_per_client=12)
    with pytest.raises(ConfigError, match="shards"):
        shards(LABELS, 10, rng(), shards_per_client=0)


def test_natural_keeps_people_apart():
    ids = np.array([5, 7, 5, 9, 7, 5])
    hands = natural(ids, 3, rng())
    assert [ids[hand].tolist() for hand in hands] == [[5, 5, 5], [7, 7], [9]]


def test_natural_with_fewer_devices_chooses_by_chance():
    ids = np.repeat(np.arange(20), 3)
    chosen = {tuple(int(ids[hand[0]]) for hand in natural(ids, 4, rng(seed))) for seed in range(10)}
    assert len(chosen) > 5
    assert all(list(some) == sorted(some) for some in chosen)


def test_natural_leaves_out_ids_with_too_little():
    ids = np.array([1, 2, 2, 3, 3])
    assert [len(hand) for hand in natural(ids, 2, rng(), min_examples=2)] == [2, 2]
    with pytest.raises(ConfigError, match=r"partition\.clients is 3, but 2 of 3 ids have at least 2"):
        natural(ids, 3, rng(), min_examples=2)


def calls(clients, fewest):
    return [
        lambda: iid(20, clients, rng(), min_examples=fewest),
        lambda: dirichlet(LABELS[:20], clients, rng(), alpha=1.0, min_examples=fewest),
        lambda: shards(LABELS[:20], clients, rng(), shards_per_client=1, min_examples=fewest),
        lambda: natural(np.arange(20), clients, rng(), min_examples=fewest),
    ]


@pytest.mark.parametrize(("clients", "fewest"), [(21, 1), (11, 2), (0, 1), (-1, 1)])
def test_more_devices_than_examples(clients, fewest):
    for call in calls(clients, fewest):
        with pytest.raises(ConfigError, match=r"partition\.clients"):
            call()


def test_one_device_holds_everything():
    for call in calls(1, 1)[:3]:
        assert [hand.tolist() for hand in call()] == [list(range(20))]
