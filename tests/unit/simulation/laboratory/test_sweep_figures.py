"""Means and errors against numbers worked out by hand; CSV, JSON and PNG."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from sweeping import FakeCrew, outcome, scenario

from fedmesh.simulation.laboratory.sweep import tables
from fedmesh.simulation.laboratory.sweep.cells import plan_cells
from fedmesh.simulation.laboratory.sweep.means import Mean, mean_of, points_of, public_only
from fedmesh.simulation.laboratory.sweep.plot import draw, fill
from fedmesh.simulation.laboratory.sweep.runner import run_sweep

COLUMNS = ("mode", "epsilon", "delta", "seed", "accuracy_int8", "accuracy_float", "public_only", "gain",
           "epsilon_spent", "rounds", "noise_multiplier", "bytes_up", "seconds")  # fmt: skip


def close(mean: Mean | None, value: float, error: float | None) -> bool:
    assert mean is not None
    same_error = mean.standard_error == error if error is None else mean.standard_error == pytest.approx(error)
    return mean.mean == pytest.approx(value) and same_error


def test_a_mean_and_its_error_by_hand() -> None:
    # mean 0.92; deviations -0.02, 0, 0.02; sum of squares 8e-4; /2 = 4e-4; /3 = 1.3333e-4; root 0.0115470
    assert close(mean_of([0.90, 0.92, 0.94]), 0.92, 0.011547005383792516)
    assert close(mean_of([1.0, 2.0]), 1.5, 0.5)
    assert close(mean_of([0.7]), 0.7, None)
    assert close(mean_of([0.1] * 10), 0.1, 0.0)


def test_gains_and_gaps_are_of_the_same_seed() -> None:
    # Seeds differ by ten points, and all of it cancels but 0, 1 and 2 points.
    rows = [
        *(outcome("none", math.inf, seed, 0.70 + 0.1 * seed, public=0.5 + 0.1 * seed) for seed in range(3)),
        *(outcome("local", 1.0, seed, 0.60 + 0.11 * seed, public=0.5 + 0.1 * seed) for seed in range(3)),
    ]
    free, local = points_of(rows)
    assert close(free.gain, 0.2, 0.0)
    assert free.gap is None
    assert close(local.accuracy_int8, 0.71, 0.11 / math.sqrt(3))
    assert close(local.public_only, 0.6, 0.1 / math.sqrt(3))
    assert close(local.gain, 0.11, 0.01 / math.sqrt(3))
    assert close(local.gap, 0.09, 0.01 / math.sqrt(3))


def test_a_gap_takes_the_seeds_that_have_a_run_without_privacy() -> None:
    rows = [outcome("none", math.inf, 1, 0.9), outcome("local", 1.0, 1, 0.8), outcome("local", 1.0, 2, 0.1)]
    assert close(points_of(rows)[1].gap, 0.1, None)
    assert points_of(rows[1:])[0].gap is None


def test_points_are_in_the_order_of_modes_and_budgets() -> None:
    rows = [outcome(mode, 3.0, 1, 0.8) for mode in ("central", "client", "shared", "local")]
    rows += [outcome("local", 1.0, 1, 0.8), outcome("local", 20.0, 1, 0.8), outcome("none", math.inf, 1, 0.9)]
    assert [(point.mode, point.epsilon) for point in points_of(rows)] == [
        ("none", math.inf),
        ("local", 1.0),
        ("local", 3.0),
        ("local", 20.0),
        ("shared", 3.0),
        ("client", 3.0),
        ("central", 3.0),
    ]


@pytest.mark.parametrize(
    ("gains", "hopeless"),
    [
        ([0.03, 0.05], False),  # 0.04, error 0.01: 0.02 is left
        ([0.01, 0.05], True),  # 0.03, error 0.02: below 0
        ([-0.2, -0.1], True),
        ([0.0, 0.0], True),
        ([0.001, 0.001], False),
        ([0.01], False),
        ([-0.01], True),
    ],
)
def test_hopeless_is_what_is_not_above_public_data_by_two_errors(gains: list[float], hopeless: bool) -> None:
    (point,) = points_of([outcome("local", 1.0, seed, 0.5 + gain) for seed, gain in enumerate(gains)])
    assert point.hopeless is hopeless


def test_the_budget_spent_is_the_most_of_any_run() -> None:
    (point,) = points_of([outcome("local", 8.0, 1, 0.6, spent=6.5), outcome("local", 8.0, 2, 0.6, spent=7.5)])
    assert point.epsilon_spent == 7.5
    assert (point.delta, point.seeds) == (1e-5, (1, 2))


def test_public_data_alone_is_the_best_that_a_part_starts_from() -> None:
    points = points_of([outcome("local", 1.0, 1, 0.6, public=0.4), outcome("shared", 1.0, 1, 0.6, public=0.55)])
    assert public_only(points, 1.0) == Mean(0.55, None)
    assert public_only(points, 3.0) is None


def test_the_csv_has_a_row_for_each_cell_in_the_promised_columns() -> None:
    text = tables.as_csv([outcome("none", math.inf, 1, 0.875), outcome("local", 1.0, 2, 0.625, spent=0.5)])
    assert text.splitlines() == [
        ",".join(COLUMNS),
        "none,inf,,1,0.875,0.875,0.5,0.375,,3,,1000.0,2.0",
        "local,1.0,1e-05,2,0.625,0.625,0.5,0.125,0.5,3,1.25,1000.0,2.0",
    ]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["epsilon"]) for row in rows] == [math.inf, 1.0]


def test_the_json_holds_cells_aggregates_failures_and_the_scenario(tmp_path: Path) -> None:
    base = scenario(sweep=[{"mode": "none", "set": {"rounds": 6}}])
    cells = plan_cells(base, epsilons=[1.0, math.inf], modes=["local"], seeds=2)
    crew = FakeCrew(fails={"local-eps1-seed2": ("it rained", "RoundError")})
    sweep = run_sweep(cells, tmp_path, crew)
    content = json.loads(tables.as_json(tables.describe(sweep, cells, base, {"rounds": 4})))
    assert content["format"] == 1
    assert (content["name"], content["epsilons"], content["modes"]) == ("tiny", [1.0], ["none", "local"])
    assert content["seeds"] == [1, 2]
    assert [cell["run"] for cell in content["cells"]] == [
        f"runs/{name}" for name in ("none-epsinf-seed1", "local-eps1-seed1", "none-epsinf-seed2")
    ]
    assert content["cells"][0].keys() == {*COLUMNS, "lost_rounds", "data_sha256", "run"}
    assert [cell["epsilon"] for cell in content["cells"]] == [None, 1.0, None]
    assert content["cells"][0]["rounds"] == 6
    free, local = content["aggregates"]
    assert (free["mode"], free["epsilon"], free["gap"], local["seeds"]) == ("none", None, None, [1])
    assert local["accuracy_int8"] == {"mean": pytest.approx(0.611), "standard_error": None}
    assert local["gap"]["mean"] == pytest.approx(0.289)
    assert content["failures"] == [{"mode": "local", "epsilon": 1.0, "seed": 2, "reason": "it rained"}]
    assert content["versions"] == {"fedmesh": "0.1.0"}
    assert content["set"] == {"rounds": 4}
    assert content["scenario"]["sweep"] == [{"mode": "none", "epsilon": None, "set": {"rounds": 6}}]


@pytest.mark.parametrize("modes", [["none"], ["local"], ["none", "local", "shared", "client", "central"]])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_plot_is_drawn_of_whatever_there_is(modes: list[str], seeds: int) -> None:
    rows = [
        outcome(mode, epsilon, seed, 0.5 + 0.01 * seed)
        for mode in modes
        for epsilon in ([math.inf] if mode == "none" else [0.5, 1.0, 8.0])
        for seed in range(seeds)
    ]
    png = draw(points_of(rows), title="a $title$ with & <everything>")
    assert png.startswith(b"\x89PNG")
    assert png == draw(points_of(rows), title="a $title$ with & <everything>")


def test_a_plot_of_one_budget_and_of_different_public_starts() -> None:
    assert draw(points_of([outcome("local", 3.0, 1, 0.6)]), title="one").startswith(b"\x89PNG")
    rows = [outcome("local", epsilon, 1, 0.6, public=0.1 * epsilon) for epsilon in (1.0, 3.0)]
    assert draw(points_of(rows), title="two").startswith(b"\x89PNG")


def test_a_mode_that_is_far_below_public_data_does_not_squeeze_the_others() -> None:
    rows = [outcome("local", 1.0, 1, 0.6), outcome("client", 1.0, 1, 0.1), outcome("none", math.inf, 1, 0.7)]
    figure = Figure()
    ax = figure.add_subplot()
    fill(ax, points_of(rows))
    low, high = ax.get_ylim()
    assert 0.1 < low < 0.5
    assert high > 0.7
    assert "▾ client 10%" in [text.get_text() for text in ax.texts]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "∞"]
