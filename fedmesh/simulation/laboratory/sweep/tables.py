"""sweep.csv and sweep.json: every cell, and the means over seeds. Their schema is in docs/laboratory.md.

CSV writes the budget of a run without privacy as ``inf``, as it is given; JSON, which has no such number, as null.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedmesh.federation.scenario import Scenario
from fedmesh.simulation.laboratory.sweep.cells import Cell
from fedmesh.simulation.laboratory.sweep.outcome import Outcome
from fedmesh.simulation.laboratory.sweep.runner import Sweep

__all__ = ["COLUMNS", "as_csv", "as_json", "describe"]

COLUMNS = (
    "mode",
    "epsilon",
    "delta",
    "seed",
    "accuracy_int8",
    "accuracy_float",
    "public_only",
    "gain",
    "epsilon_spent",
    "rounds",
    "noise_multiplier",
    "bytes_up",
    "seconds",
)


def as_csv(outcomes: Sequence[Outcome]) -> str:
    """One row for each finished cell; what a cell does not have is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for outcome in outcomes:
        writer.writerow(["" if (value := getattr(outcome, name)) is None else value for name in COLUMNS])
    return text.getvalue()


def as_json(content: Mapping[str, Any]) -> str:
    """The text of sweep.json."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def describe(sweep: Sweep, cells: Sequence[Cell], scenario: Scenario, told: Mapping[str, Any]) -> dict[str, Any]:
    """The content of sweep.json.

    Args:
        sweep: what came out.
        cells: the plan.
        scenario: of the sweep, with its tables.
        told: dotted key -> value that the command was told.
    """
    folders = {(cell.mode, cell.epsilon, cell.seed): f"runs/{cell.name}" for cell in cells}
    return {
        "format": 1,
        "name": scenario.name,
        "epsilons": sorted({cell.epsilon for cell in cells if math.isfinite(cell.epsilon)}),
        "modes": list(dict.fromkeys(cell.mode for cell in cells)),
        "seeds": sorted({cell.seed for cell in cells}),
        "cells": [_cell(outcome, folders) for outcome in sweep.outcomes],
        "aggregates": [_without_infinity(asdict(point)) for point in sweep.points],
        "failures": [
            {**_without_infinity({"mode": cell.mode, "epsilon": cell.epsilon}), "seed": cell.seed, "reason": reason}
            for cell, reason in sweep.failures
        ],
        "versions": _versions(sweep.outcomes),
        "scenario": scenario.model_dump(mode="json"),
        "set": dict(told),
    }


def _cell(outcome: Outcome, folders: Mapping[tuple[str, float, int], str]) -> dict[str, Any]:
    figures = asdict(outcome)
    del figures["versions"]
    figures["data_sha256"] = figures.pop("data")
    return {**_without_infinity(figures), "run": folders[outcome.mode, outcome.epsilon, outcome.seed]}


def _without_infinity(figures: dict[str, Any]) -> dict[str, Any]:
    return {**figures, "epsilon": figures["epsilon"] if math.isfinite(figures["epsilon"]) else None}


def _versions(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """What the cells were run with; of a package that changed on the way all versions, with commas between them."""
    found: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        for package, version in outcome.versions.items():
            found.setdefault(package, {})[version] = None
    return {package: ", ".join(versions) for package, versions in found.items()}
