"""Gossip averaging learns what FedAvg learns, on real digits, with a fifth of the devices missing in every step."""

import json

import numpy as np
import pytest

from benchmarks.gossip import Setup, expected, fedavg, gossip, main, run, show, spread
from fedmesh.mesh.gossip import contraction


def test_it_comes_to_fedavgs_accuracy_with_a_fifth_missing():
    setup = Setup(members=18, smallest=6, steps=12, missing=0.2, seed=1)
    ours, theirs = run(setup, gossip), run(setup, fedavg)
    assert theirs[-1].accuracy > 0.9
    assert ours[-1].accuracy > theirs[-1].accuracy - 0.03
    assert ours[-1].worst > theirs[-1].accuracy - 0.08
    assert np.mean([p.shrank for p in ours]) == pytest.approx(np.mean([p.theory for p in ours]), rel=0.2)


def test_the_theory_of_who_is_missing_is_that_of_all_where_nobody_is():
    rng = np.random.default_rng(1)
    models = list(rng.integers(-99, 99, (10, 4)))
    assert expected(models, [True] * 10, 3) == pytest.approx(contraction(10, 3))
    here = [number >= 3 for number in range(10)]
    shrunk = []
    for _ in range(3000):
        order, after = rng.permutation(range(3, 10)), np.array(models, np.float64)
        for group in (order[:4], order[4:]):
            after[group] = after[group].mean(axis=0)
        shrunk.append(spread(list(after)) / spread(models))
    assert np.mean(shrunk) == pytest.approx(expected(models, here, 2), rel=0.02)


@pytest.mark.parametrize("mode", ["local", "shared"])
def test_private_modes_learn(mode):
    setup = Setup(members=16, smallest=8, steps=6, missing=0.0, seed=1, mode=mode)
    points = run(setup, gossip)
    assert points[-1].accuracy > 0.75
    assert points[-1].accuracy > points[0].accuracy


def test_the_benchmark_prints_its_figures(capsys):
    main(["--members", "12", "--steps", "2", "--private-steps", "2", "--seeds", "1", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert [len(runs["gossip"]) for runs in figures.values()] == [2, 2, 2, 2]
    show(figures)
    assert capsys.readouterr().out.count("| step | FedAvg |") == 4
