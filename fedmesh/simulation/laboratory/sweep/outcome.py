"""What a sweep takes from a finished run."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmesh.errors import ConfigError
from fedmesh.simulation.laboratory.sweep.cells import Cell

__all__ = ["Outcome", "read_outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one cell.

    Attributes:
        mode: privacy mode, or ``none``.
        epsilon: budget; infinite without privacy.
        delta: of the promise; None without privacy.
        seed: of the run.
        accuracy_int8: of the final int8 model on held-out examples.
        accuracy_float: of the same weights in float32.
        public_only: accuracy of the int8 model before the first round, which only public data has shaped.
        gain: `accuracy_int8` less `public_only`.
        epsilon_spent: the most that any device's ledger shows; None without privacy.
        rounds: of the run, and of these `lost_rounds` left the model as it was.
        noise_multiplier: None without privacy.
        bytes_up: measured payload bytes of one device over the run.
        seconds: wall time of the command that finished the run.
        data: SHA-256 of the data, as it was dealt.
        versions: what it was run with.
    """

    mode: str
    epsilon: float
    delta: float | None
    seed: int
    accuracy_int8: float
    accuracy_float: float | None
    public_only: float
    gain: float
    epsilon_spent: float | None
    rounds: int
    lost_rounds: int
    noise_multiplier: float | None
    bytes_up: float
    seconds: float
    data: str
    versions: Mapping[str, str]


def read_outcome(cell: Cell, folder: Path) -> Outcome:
    """The figures of the finished run in `folder`.

    Raises:
        ConfigError: what is there is not a run's result.
    """
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return _outcome(cell, result, str(run["data_sha256"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{folder / 'result.json'} is not the result of a run ({type(error).__name__}: {error}): "
            "delete the folder, and it is run anew"
        ) from error


def _outcome(cell: Cell, result: Mapping[str, Any], data: str) -> Outcome:
    final, rounds = result["final"], result["rounds"]
    accuracy, public_only = float(final["accuracy_int8"]), float(result["start"]["accuracy_int8"])
    private = math.isfinite(cell.epsilon)
    multiplier = result["privacy"].get("noise_multiplier") if private else None
    return Outcome(
        mode=cell.mode,
        epsilon=cell.epsilon,
        delta=float(final["delta"]) if private else None,
        seed=cell.seed,
        accuracy_int8=accuracy,
        accuracy_float=final["accuracy_float"],
        public_only=public_only,
        gain=accuracy - public_only,
        epsilon_spent=float(final["epsilon"]) if private else None,
        rounds=len(rounds),
        lost_rounds=sum(1 for row in rounds if row.get("failed")),
        noise_multiplier=None if multiplier is None else float(multiplier),
        bytes_up=float(sum(row["bytes_up"] or 0.0 for row in rounds)),
        seconds=float(result["seconds"]),
        data=data,
        versions=dict(result["versions"]),
    )
