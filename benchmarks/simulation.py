"""Clients a second: fedmesh's engine against Flower's Ray simulation and pfl, on the same work.

    python -m benchmarks.simulation [--flower-python PATH] [--pfl-python PATH] [--repeats N] [--json]

The work: the 62k-parameter network of Flower's PyTorch quickstart on 50 clients, each with 50 images of 3x32x32, batch
10, one epoch of SGD with momentum, float32; all of them in every round. Each contender runs in processes of its own,
one contender at a time, taking turns; a figure is the median over all rounds but a run's first. pfl and Flower's Ray
need environments of their own (pfl's dependencies contradict ours); without them their rows are left out.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "simulation_peers"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Contender:
    """One row: a script, the interpreter that runs it, and what it is told besides the common work."""

    label: str
    script: str
    python: str
    told: dict[str, Any] = field(default_factory=dict)


def run(contender: Contender, work: dict[str, Any]) -> dict[str, Any]:
    """The figures of one run in fresh processes, timed from their very start."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "PYTHONPATH"))}
    environment["FEDMESH_BENCHMARK"] = json.dumps({**work, **contender.told, "started": time.time()})
    with tempfile.TemporaryDirectory() as folder:  # peers litter
        done = subprocess.run(
            [contender.python, str(PEERS / contender.script)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=folder,
            timeout=TIMEOUT_S,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{contender.label} failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return figures


def contenders(arguments: argparse.Namespace, cores: int) -> list[Contender]:
    """The rows that this machine can measure."""
    quantized = {"training": "qat", "codec": "integer", "ranges": quantization_ranges()}
    rows = [
        Contender("fedmesh, float32", "fedmesh_workers.py", sys.executable, {"workers": cores}),
        Contender(
            "fedmesh, QAT and int8 deltas", "fedmesh_workers.py", sys.executable, {"workers": cores, **quantized}
        ),
        Contender("fedmesh, float32, one worker", "fedmesh_workers.py", sys.executable, {"workers": 1}),
    ]
    if arguments.flower_python or importlib.util.find_spec("ray"):
        rows.append(Contender("Flower, Ray", "flower_ray.py", arguments.flower_python or sys.executable))
    if arguments.pfl_python or importlib.util.find_spec("pfl"):
        python = arguments.pfl_python or sys.executable
        rows.append(Contender("pfl, one process, one thread", "pfl_process.py", python, {"threads": 1}))
        rows.append(Contender(f"pfl, one process, {cores} threads", "pfl_process.py", python, {"threads": cores}))
    return rows


def quantization_ranges() -> dict[str, tuple[float, int]]:
    """Activation ranges for the quantized row, calibrated on noise like the data."""
    import torch

    from fedmesh.client.task import Task
    from fedmesh.client.trainer import build_model
    from fedmesh.quantization import calibrate, fake_quantization

    model = build_model(Task(name="benchmark", model="lenet", input_shape=(3, 32, 32), classes=10, training="float"))
    fake_quantization(model, enabled=True)
    noise = torch.randn(256, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return calibrate(model, torch.split(noise, 64))


def measure(rows: Sequence[Contender], work: dict[str, Any], repeats: int) -> dict[str, dict[str, float]]:
    """Clients a second and seconds to the end of the first round, by row; the contenders take turns."""
    rounds: dict[str, list[float]] = {row.label: [] for row in rows}
    firsts: dict[str, list[float]] = {row.label: [] for row in rows}
    for _ in range(repeats):
        for row in rows:
            figures = run(row, work)
            rounds[row.label] += figures["rounds_s"][1:]
            firsts[row.label].append(figures["first_round_s"])
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        row.label: {
            "clients_per_s": work["clients"] / statistics.median(rounds[row.label]),
            "best_clients_per_s": work["clients"] / min(rounds[row.label]),
            "first_round_s": statistics.median(firsts[row.label]),
        }
        for row in rows
    }


def main() -> None:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower-python", help="interpreter of an environment with flwr[simulation] and torch")
    parser.add_argument("--pfl-python", help="interpreter of an environment with pfl and torch")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    work = {
        "clients": 50,
        "examples": 50,
        "batch": 10,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "rounds": arguments.rounds,
        "seed": 0,
        "cores": cores,
        "training": "float",
        "codec": "float32",
        "ranges": {},
    }
    table = measure(contenders(arguments, cores), work, arguments.repeats)
    if arguments.json:
        print(json.dumps({"cores": cores, "load": os.getloadavg()[0], "rows": table}, indent=2))
        return
    ours = table["fedmesh, float32"]
    print(f"{f'{cores} cores':34}{'clients/s':>10}{'best':>8}{'fedmesh is':>12}{'first round':>13}")
    for label, row in table.items():
        ratio = ours["clients_per_s"] / row["clients_per_s"]
        speed = f"{row['clients_per_s']:>10.1f}{row['best_clients_per_s']:>8.1f}{ratio:>11.2f}x"
        print(f"{label:34}{speed}{row['first_round_s']:>11.1f} s")


if __name__ == "__main__":
    main()
