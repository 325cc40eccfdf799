"""Laws of the dealing, of the grid and of the accounting of gossip averaging."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmesh.errors import ConfigError
from fedmesh.mesh.gossip import Grid, contraction, deal, group_of, group_sizes, split, takeover

models = st.lists(st.integers(-99, 99), min_size=6, max_size=6)
sizes = st.tuples(st.integers(4, 70), st.integers(4, 12)).filter(lambda pair: pair[0] >= pair[1])


@given(sizes=sizes, step=st.integers(0, 1 << 39), seed=st.integers(0, 999))
def test_everybody_is_in_one_group_whoever_deals(sizes, step, seed):
    count, smallest = sizes
    names = [f"m{number}" for number in range(count)]
    groups = deal(b"r", step, names, smallest)
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert all(smallest <= len(group) < 2 * smallest for group in groups)
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    assert group_sizes(count, smallest) == (min(map(len, groups)), max(map(len, groups)))
    shuffled = np.random.default_rng(seed).permutation(names).tolist()
    assert deal(b"r", step, shuffled, smallest) == groups
    assert deal(b"r", step + 1, names, smallest) != groups or count == smallest
    assert names[0] in group_of(groups, names[0])


def test_too_few_are_not_dealt():
    with pytest.raises(ConfigError, match="at least 3"):
        deal(b"r", 0, "abcdefgh", 3)
    with pytest.raises(ConfigError, match="3 members"):
        deal(b"r", 0, "abc", 4)
    with pytest.raises(ConfigError, match="'z'"):
        group_of(deal(b"r", 0, "abcd", 4), "z")


@given(rows=st.lists(models, min_size=1, max_size=9), turn=st.integers(0, 1000))
def test_an_average_loses_nothing_and_stays_between(rows, turn):
    inputs = np.array(rows, np.int64)
    parts = np.stack([split(inputs.sum(axis=0), len(rows), place, turn) for place in range(len(rows))])
    assert parts.sum(axis=0).tolist() == inputs.sum(axis=0).tolist()
    assert (parts.max(axis=0) - parts.min(axis=0)).max() <= 1
    assert (parts >= inputs.min(axis=0)).all()
    assert (parts <= inputs.max(axis=0)).all()


def test_who_rounds_up_takes_turns():
    total = np.full(40, 2, np.int64)
    taken = sum(split(total, 5, 0, turn) for turn in range(5))
    assert taken.tolist() == [2] * 40


@given(codes=st.lists(st.integers(-2047, 2047), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_models_on_the_grid_stay(codes, seed):
    grid = Grid(2.0**-9, 12)
    given_codes = np.array(codes, np.int64)
    assert grid.codes(grid.weights(given_codes), np.random.default_rng(seed)).tolist() == codes


def test_rounding_has_no_bias():
    grid = Grid(0.5, 12)
    codes = grid.codes(np.full(40_000, 0.35, np.float32), np.random.default_rng(1))
    assert set(codes.tolist()) == {0, 1}
    assert codes.mean() == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(("unit", "bits"), [(0.3, 8), (0.0, 8), (math.nan, 8), (0.5, 1), (0.5, 17)])
def test_a_grid_that_cannot_be_is_refused(unit, bits):
    with pytest.raises(ConfigError):
        Grid(unit, bits)


@pytest.mark.parametrize(("members", "smallest", "away"), [(24, 6, 0), (25, 6, 5), (16, 4, 3), (13, 5, 0)])
def test_the_spread_shrinks_as_the_theory_says(members, smallest, away):
    names = [f"m{number:02}" for number in range(members)]
    rng = np.random.default_rng(3)
    shrunk, expected = [], []
    for step in range(600):
        values = rng.standard_normal(members)
        gone = set(rng.choice(members, away, replace=False).tolist())
        groups = [[names.index(n) for n in g if names.index(n) not in gone] for g in deal(b"r", step, names, smallest)]
        after = values.copy()
        for group in groups:
            after[group] = values[group].mean()
        shrunk.append(after.var() / values.var())
        expected.append(contraction(members, len([g for g in groups if g]) + away))
    assert np.mean(shrunk) == pytest.approx(np.mean(expected), rel=0.06)


def test_random_pairs_shrink_it_by_half_only():
    assert contraction(24, 12) == pytest.approx(0.478, abs=1e-3)
    assert contraction(24, 4) == pytest.approx(0.130, abs=1e-3)
    assert contraction(24, 24) == 1.0
    assert contraction(24, 1) == 0.0


def test_how_likely_a_league_meets_is_what_counting_says():
    assert takeover(8, 2, 4, 1) == pytest.approx(15 / 70)
    assert takeover(8, 2, 4, 2) == 0.0
    names = [f"m{number:02}" for number in range(24)]
    league = set(names[:4])
    seen = [len(league & set(group_of(deal(b"r", step, names, 6), names[9]))) > 1 for step in range(3000)]
    given_group = takeover(23, 4, 5, 1)  # of one who is in it and honest
    assert np.mean(seen) == pytest.approx(given_group, abs=0.03)
