"""Laws of dealing: disjoint, complete, enough for everyone, and repeatable."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmesh.errors import ConfigError
from fedmesh.federation.datasets import Dataset, split
from fedmesh.federation.partition import dirichlet, iid, natural, shards
from fedmesh.federation.scenario import PartitionSection
from fedmesh.types import Examples

KINDS = ("iid", "dirichlet", "shards", "natural")
seeds = st.integers(0, 2**32)


def deal(kind, labels, ids, *, clients, seed, fewest, alpha):
    rng = np.random.default_rng(seed)
    match kind:
        case "iid":
            return iid(len(labels), clients, rng, min_examples=fewest)
        case "dirichlet":
            return dirichlet(labels, clients, rng, alpha=alpha, min_examples=fewest)
        case "shards":
            return shards(labels, clients, rng, shards_per_client=2, min_examples=fewest)
        case "natural":
            return natural(ids, clients, rng, min_examples=fewest)


@given(
    kind=st.sampled_from(KINDS),
    examples=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=80),
    clients=st.integers(1, 12),
    seed=seeds,
    fewest=st.integers(1, 3),
    alpha=st.floats(1e-3, 1e3),
)
@settings(max_examples=150, deadline=None)
def test_hands_are_disjoint_complete_and_large_enough(*, kind, examples, **arguments):
    labels, ids = (np.array([pair[i] for pair in examples], np.int64) for i in (0, 1))
    try:
        hands = deal(kind, labels, ids, **arguments)
    except ConfigError:
        return
    assert len(hands) == arguments["clients"]
    assert min(map(len, hands)) >= arguments["fewest"]
    dealt = np.concatenate(hands)
    assert len(np.unique(dealt)) == len(dealt)
    assert all(hand.dtype == np.int64 and (np.diff(hand) > 0).all() for hand in hands)
    if kind == "natural":
        assert all(len(np.unique(ids[hand])) == 1 for hand in hands)
        assert sum(len(hand) for hand in hands) == np.isin(ids, [ids[hand[0]] for hand in hands]).sum()
    else:
        assert len(dealt) == len(examples)
    again = deal(kind, labels, ids, **arguments)
    assert all(np.array_equal(a, b) for a, b in zip(hands, again, strict=True))


@given(
    kind=st.sampled_from(KINDS),
    clients=st.integers(1, 6),
    seed=seeds,
    public=st.floats(0.05, 0.5),
    local=st.floats(0, 0.6),
    has_test=st.booleans(),
    has_blocks=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_no_example_is_in_two_parts(*, kind, clients, seed, public, local, has_test, has_blocks):
    rng = np.random.default_rng(seed)
    count = 120
    x = np.arange(count, dtype=np.float32)[:, np.newaxis]  # an example is its own serial number
    y = rng.integers(0, 3, count)
    groups = rng.integers(0, 10, count)
    blocks = groups * 10 + rng.integers(0, 4, count) if has_blocks else None
    test = Examples(x + 1000, y) if has_test else None
    dataset = Dataset("d", x, y, ("a", "b", "c"), groups=groups, blocks=blocks, test=test)
    section = PartitionSection(kind=kind, clients=clients, min_examples=2)
    arguments = {"public_fraction": public, "local_held_out_fraction": local, "partition": section, "seed": seed}
    try:
        parts = split(dataset, **arguments)
    except ConfigError:
        return
    held = [*parts.devices, *parts.local, parts.public] + ([parts.held_out] if has_test else [])
    serial = np.concatenate([part.x[:, 0] for part in held]).astype(int)
    assert len(np.unique(serial)) == len(serial)
    assert all(len(part) >= 1 for part in parts.devices)
    assert len(parts.held_out) > 0
    for part in held:
        of_part = part.x[:, 0].astype(int) % 1000
        assert np.array_equal(part.y, y[of_part])
    if kind != "natural":
        assert len(serial) == count * (1 + has_test)
    if not has_test:
        assert sorted(parts.held_out.x[:, 0]) == sorted(np.concatenate([part.x[:, 0] for part in parts.local]))
    if has_blocks:
        for device, local_part in zip(parts.devices, parts.local, strict=True):
            train, out = (set(blocks[part.x[:, 0].astype(int)]) for part in (device, local_part))
            assert not train & out
    again = split(dataset, **arguments)
    assert all(np.array_equal(a.x, b.x) for a, b in zip(parts.devices, again.devices, strict=True))
