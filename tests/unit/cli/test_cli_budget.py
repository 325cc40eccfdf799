"""`privacy epsilon` and `privacy noise`: their figures are the accountants', and every option is used or named."""

import json
from typing import Any

import pytest

from fedmesh.cli import main
from fedmesh.privacy import epsilon as accounted
from fedmesh.privacy import noise_multiplier, skellam_noise_multiplier
from fedmesh.privacy.accountant import gaussian, sampled_gaussian
from fedmesh.privacy.calibration import distributed_skellam, sampled_epsilon

Capture = pytest.CaptureFixture[str]

SUM = ["--clients", "100", "--dimension", "1000000", "--bits", "16"]


def told(capsys: Capture, command: str, mechanism: str, *options: str) -> dict[str, Any]:
    assert main(["privacy", command, "--mechanism", mechanism, *options, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.parametrize(
    ("bits", "dimension", "figure"),
    [(12, 2**14, 4.82), (12, 2**20, 7.11), (14, 2**24, 7.09), (16, 2**24, 4.91), (20, 2**20, 4.75)],
)
def test_the_table_of_ring_bits(bits: int, dimension: int, figure: float, capsys: Capture) -> None:
    options = ["--clients", "100", "--noise-multiplier", "1", "--rounds", "1", "--delta", "1e-5"]
    found = told(capsys, "epsilon", "skellam", *options, "--dimension", str(dimension), "--bits", str(bits))
    assert found["epsilon"] == pytest.approx(figure, rel=0.01)


def test_fewer_survivors_have_less_noise(capsys: Capture) -> None:
    options = ["--noise-multiplier", "2", "--rounds", "3"]
    event, gamma = distributed_skellam(
        noise_multiplier=2.0, clients=100, survivors=80, dimension=1_000_000, bits=16, rounds=3
    )
    found = told(capsys, "epsilon", "skellam", *SUM, *options, "--survivors", "80")
    assert found["epsilon"] == found["rdp"] == accounted([event], 1e-5, "rdp")
    assert found["pld"] is None
    assert (found["gamma"], found["dimension"], found["survivors"]) == (gamma, 2**20, 80)
    assert found["epsilon"] > told(capsys, "epsilon", "skellam", *SUM, *options)["epsilon"]
    assert found["continuous_gaussian"] == accounted([gaussian(2 * 0.8**0.5, 3)], 1e-5, "rdp")


def test_a_sampled_sum_is_warned_of(capsys: Capture) -> None:
    options = ["--noise-multiplier", "2", "--rounds", "3", "--sample-rate", "0.1"]
    event, _gamma = distributed_skellam(noise_multiplier=2.0, clients=100, dimension=1_000_000, bits=16, rounds=3)
    found = told(capsys, "epsilon", "skellam", *SUM, *options)
    assert found["epsilon"] == sampled_epsilon(event, 0.1, 1e-5)
    assert "only if nobody but the sampled" in found["warnings"][0]
    assert main(["privacy", "epsilon", "--mechanism", "skellam", *SUM, *options]) == 0
    assert "note --sample-rate: the figure holds only if" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rate", "multiplier", "steps", "figure"), [("0.01", "1", "1000", 1.828), ("0.05", "1", "200", 4.766)]
)
def test_dpsgd_is_reported_by_pld(rate: str, multiplier: str, steps: str, figure: float, capsys: Capture) -> None:
    options = ["--sample-rate", rate, "--noise-multiplier", multiplier, "--rounds", steps]
    found = told(capsys, "epsilon", "dpsgd", *options)
    assert found["epsilon"] == found["pld"] == pytest.approx(figure, rel=1e-3)
    assert found["rdp"] == accounted([sampled_gaussian(float(rate), 1.0, int(steps))], 1e-5, "rdp")
    assert found["warnings"] == []


def test_a_central_gaussian(capsys: Capture) -> None:
    found = told(capsys, "epsilon", "gaussian", "--noise-multiplier", "4", "--rounds", "2", "--delta", "1e-6")
    assert found["epsilon"] == accounted([gaussian(4.0, 2)], 1e-6)
    fewer = told(
        capsys, "epsilon", "gaussian", "--noise-multiplier", "4", "--rounds", "2", "--clients", "4", "--survivors", "1"
    )
    assert fewer["rdp"] == accounted([gaussian(2.0, 2)], 1e-5, "rdp")
    sampled = told(capsys, "epsilon", "gaussian", "--noise-multiplier", "4", "--rounds", "2", "--sample-rate", "0.5")
    assert sampled["epsilon"] < found["epsilon"]
    assert sampled["warnings"]


def test_the_noise_for_a_budget(capsys: Capture) -> None:
    options = ["--epsilon", "3", "--rounds", "7"]
    found = told(capsys, "noise", "skellam", *SUM, *options)
    wanted = skellam_noise_multiplier(epsilon=3.0, delta=1e-5, rounds=7, clients=100, dimension=1_000_000, bits=16)
    assert found["noise_multiplier"] == wanted
    assert found["budget"] == 3.0 >= found["epsilon"] > 2.99
    fewer = told(capsys, "noise", "skellam", *SUM, *options, "--survivors", "80")
    assert fewer["noise_multiplier"] > wanted
    assert 2.99 < fewer["epsilon"] <= 3.0
    steps = told(capsys, "noise", "dpsgd", *options, "--sample-rate", "0.25")
    assert steps["noise_multiplier"] == noise_multiplier(3.0, 1e-5, 0.25, 7)
    central = told(capsys, "noise", "gaussian", *options, "--clients", "100", "--survivors", "25")
    assert central["noise_multiplier"] == pytest.approx(2 * noise_multiplier(3.0, 1e-5, 1.0, 7))
    assert 2.99 < central["rdp"] <= 3.0


def test_options_that_a_mechanism_does_not_use_are_named(capsys: Capture) -> None:
    options = ["--sample-rate", "0.1", "--noise-multiplier", "1", "--rounds", "5"]
    plain, more = told(capsys, "epsilon", "dpsgd", *options), told(capsys, "epsilon", "dpsgd", *options, *SUM)
    assert more["ignored"] == ["--clients", "--dimension", "--bits"]
    assert {**more, "ignored": []} == plain
    assert main(["privacy", "epsilon", "--mechanism", "dpsgd", *options, *SUM]) == 0
    assert "not used by dpsgd: --clients, --dimension, --bits" in capsys.readouterr().out


def test_the_tables_hold_the_figures(capsys: Capture) -> None:
    assert main(["privacy", "epsilon", "--mechanism", "skellam", *SUM, "--noise-multiplier", "1", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "4.763 at delta 1e-5" in shown
    assert "100 of 100 devices' noise, 1,048,576 values of 16 bits" in shown
    assert main(["privacy", "noise", "--mechanism", "gaussian", "--epsilon", "3", "--rounds", "5"]) == 0
    shown = capsys.readouterr().out
    assert "clips, all noise together" in shown
    assert "gaussian, 5 rounds" in shown
    assert (
        main(["privacy", "noise", "--mechanism", "dpsgd", "--epsilon", "3", "--rounds", "5", "--sample-rate", "0.1"])
        == 0
    )
    assert "dpsgd, 5 steps, each on a sample of 0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["epsilon", "--mechanism", "skellam"], "Missing option"),
        (["epsilon", "--mechanism", "laplace", "--rounds", "1", "--noise-multiplier", "1"], "'laplace' is not one of"),
        (["epsilon", "--mechanism", "skellam", "--rounds", "1", "--noise-multiplier", "1"], "--dimension, --bits"),
        (["epsilon", "--mechanism", "dpsgd", "--rounds", "1", "--noise-multiplier", "1"], "missing: --sample-rate"),
        (["epsilon", "--mechanism", "gaussian", "--rounds", "0", "--noise-multiplier", "1"], "'--rounds'"),
        (["epsilon", "--mechanism", "gaussian", "--rounds", "1", "--noise-multiplier", "0"], "--noise-multiplier is"),
        (["epsilon", "--mechanism", "gaussian", "--rounds", "1", "--noise-multiplier", "nan"], "--noise-multiplier is"),
        (
            ["epsilon", "--mechanism", "gaussian", "--rounds", "1", "--noise-multiplier", "1", "--delta", "0"],
            "delta is 0",
        ),
        (
            ["epsilon", "--mechanism", "gaussian", "--rounds", "1", "--noise-multiplier", "1", "--sample-rate", "2"],
            "--sample-rate is 2",
        ),
        (
            ["epsilon", "--mechanism", "gaussian", "--rounds", "1", "--noise-multiplier", "1", "--survivors", "2"],
            "say with --clients",
        ),
        (
            [
                "epsilon",
                "--mechanism",
                "skellam",
                *SUM,
                "--rounds",
                "1",
                "--noise-multiplier",
                "1",
                "--survivors",
                "101",
            ],
            "at least as many",
        ),
        (["noise", "--mechanism", "gaussian", "--rounds", "1", "--epsilon", "0"], "finite number above 0"),
        (
            ["noise", "--mechanism", "skellam", *SUM[:-1], "12", "--rounds", "10", "--epsilon", "1"],
            "raise the bits to 16",
        ),
    ],
)
def test_mistakes(arguments: list[str], said: str, capsys: Capture) -> None:
    assert main(["privacy", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["dpsgd", "--sample-rate", "0.1", "--noise-multiplier", "0.0001", "--rounds", "1"],
        ["dpsgd", "--sample-rate", "0.1", "--noise-multiplier", "1", "--rounds", "1000000000000"],
        ["gaussian", "--noise-multiplier", "0.0001", "--rounds", "1"],
        ["skellam", *SUM, "--noise-multiplier", "0.00001", "--rounds", "1", "--json"],
    ],
)
def test_noise_that_promises_nothing(arguments: list[str], capsys: Capture) -> None:
    assert main(["privacy", "epsilon", "--mechanism", *arguments]) == 2
    assert "promises nothing" in capsys.readouterr().err


def test_a_figure_too_large_for_a_distribution_is_rdps(capsys: Capture) -> None:
    found = told(capsys, "epsilon", "gaussian", "--noise-multiplier", "0.01", "--rounds", "1")
    assert found["pld"] is None
    assert found["epsilon"] == found["rdp"] > 256
