"""The benchmark on little work: every contender runs, and they do the same."""

import json
import warnings

import numpy as np
import pytest

from benchmarks.privacy import QUICK, Contender, Step, main
from benchmarks.privacy_peers import accounting, encoding
from benchmarks.privacy_peers.trainers import TRAINERS
from fedmesh.privacy.skellam import decode


@pytest.mark.slow
def test_the_benchmark_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--json"])
    figures = json.loads(capsys.readouterr().out)
    (step,) = figures["steps"]
    assert (step["model"], step["batch"]) == ("digits_cnn", QUICK.batches[0])
    assert not step["failures"]
    assert list(step["contenders"]) == list(TRAINERS)
    assert step["time_ratio"] > 0
    assert figures["encode"]["fedmesh"]["cpu_s"] > 0
    assert figures["ledger"]["rounds"] == QUICK.rounds


@pytest.mark.parametrize("name", TRAINERS)
def test_every_contender_takes_steps(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and Opacus's own
        registries = _registries()
        try:
            step = TRAINERS[name]("digits_cnn", 3)
            step()
            step()
        finally:
            for registry, before in registries:
                registry.clear()
                registry.update(before)


def _registries() -> list[tuple[dict[type, object], dict[type, object]]]:
    from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping

    registries = [GradSampleHooks.GRAD_SAMPLERS, GradSampleHooksFastGradientClipping.NORM_SAMPLERS]
    return [(registry, dict(registry)) for registry in registries]


def test_both_encodings_are_of_the_same_vector() -> None:
    values = encoding.vector(1 << 12)
    ours = decode(encoding.fedmesh(values), gamma=encoding.GAMMA, seed_rotation=encoding.SEED, size=len(values))
    noise = ours - values / 2
    assert float(noise.std()) == pytest.approx(encoding.SIGMA_LOCAL, rel=0.1)
    theirs = encoding.numpy_poisson(values)
    deviation = np.hypot(encoding.CLIP / len(values) ** 0.5, encoding.SIGMA_LOCAL) / encoding.GAMMA
    assert float(theirs.std()) == pytest.approx(deviation, rel=0.1)


def test_both_accountants_agree() -> None:
    assert accounting.fedmesh(6)[1] == pytest.approx(accounting.one_by_one(6)[1], rel=1e-3)


def test_ratios_are_of_the_best_peer_unless_one_is_named() -> None:
    step = Step("m", 1, {"fedmesh": Contender(2, 2, 2), "Opacus": Contender(6, 6, 6), "other": Contender(3, 3, 8)}, {})
    assert step.ratio(lambda one: one.cpu_s) == 1.5
    assert step.ratio(lambda one: one.cpu_s, "Opacus") == 3
    assert step.ratio(lambda one: one.peak_bytes) == 3
