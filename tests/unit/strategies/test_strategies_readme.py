"""The strategy in strategies/README.md runs, and its state survives an interruption."""

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from flower_apps import LAYOUT, delta_app

from fedmesh.coordinator import Coordinator, Journal
from fedmesh.flower import FleetGrid, InlineFleet
from fedmesh.flower.arrays import vector_record
from fedmesh.quantization.codec import relative_ranges
from fedmesh.types import Float32
from fedmesh_strategies.fedavg import FedAvg

README = Path(__file__).parents[3] / "strategies" / "README.md"
START = vector_record("model", np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))


def run(rounds: int, journal: Journal) -> bytes:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"FedAvg": FedAvg, "np": np, "Any": Any, "Float32": Float32}
    exec(textwrap.dedent(block), names)
    strategy = names["Momentum"](momentum=0.5, layout=LAYOUT, ranges=relative_ranges(0.5))
    result = Coordinator(strategy, FleetGrid(InlineFleet(delta_app(), 4)), journal).run(START, rounds)
    return result.arrays["model"].numpy().tobytes()


def test_the_example_runs_and_resumes(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for rounds in (2, 4):
        with Journal(path) as journal:
            parts = run(rounds, journal)
    assert parts == run(4, Journal())
    plain = FedAvg(layout=LAYOUT, ranges=relative_ranges(0.5))
    without = Coordinator(plain, FleetGrid(InlineFleet(delta_app(), 4)), Journal()).run(START, 4)
    assert parts != without.arrays["model"].numpy().tobytes()
