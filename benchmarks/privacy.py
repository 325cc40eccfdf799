"""Privacy: a step of DP-SGD against Opacus, encoding with shared noise, and the epsilon of a long ledger.

    python -m benchmarks.privacy [--json] [--quick]

Every contender of a step is in a process of its own, on one thread, on the same quantization-aware model and the same
batch; they take turns, and the figures are medians of processor time (`--json` has wall time, too) and the bytes that a
process grew by at most. Opacus runs as it comes (layers that it does not know through functorch), told the quantized
layers' formulas, and told them in its ghost clipping. It draws its noise from torch's generator, fedmesh from AES. The
ratio is against the best of the three.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.privacy_peers import accounting, encoding
from benchmarks.privacy_peers.step_process import StepProcess
from benchmarks.privacy_peers.trainers import TRAINERS
from benchmarks.privacy_peers.workloads import MODELS
from benchmarks.secagg_peers.clocks import Cost, best_of
from fedmesh.privacy.skellam import decode

OURS = "fedmesh"
COORDINATES = 1 << 20
ROUNDS = 1000
ENCODE_GOAL_MS = 150
LEDGER_GOAL_S = 2


@dataclass(frozen=True, slots=True)
class Work:
    """How much is measured."""

    batches: tuple[int, ...] = (16, 64)
    models: tuple[str, ...] = tuple(MODELS)
    turns: int = 7
    steps: int = 3
    coordinates: int = COORDINATES
    rounds: int = ROUNDS


QUICK = Work(batches=(8,), models=("digits_cnn",), turns=1, steps=1, coordinates=1 << 14, rounds=3)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to take a step: medians, and the bytes that its process grew by at most."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Step:
    """One model and batch."""

    model: str
    batch: int
    contenders: dict[str, Contender]
    failures: dict[str, str]

    def ratio(self, figure: Callable[[Contender], float], peer: str | None = None) -> float:
        """How many times fedmesh's figure the peer's is; of the best peer, if none is named."""
        peers = [one for name, one in self.contenders.items() if name == peer or (peer is None and name != OURS)]
        return min(map(figure, peers)) / figure(self.contenders[OURS])


def measure_step(model: str, batch: int, work: Work) -> Step:
    """Every contender in turn, `work.turns` times."""
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        running: dict[str, StepProcess] = {}
        for name in TRAINERS:
            try:
                running[name] = stack.enter_context(StepProcess(name, model, batch))
            except Exception as error:  # a peer that cannot train a model is a result
                if name == OURS:
                    raise
                failures[name] = f"{type(error).__name__}: {error}"
        costs: dict[str, list[Cost]] = {name: [] for name in running}
        for _ in range(work.turns):
            for name, process in running.items():
                costs[name] += process.steps(work.steps)
    contenders = {name: _contender(costs[name], process.peak_bytes) for name, process in running.items()}
    return Step(model, batch, contenders, failures)


def _contender(costs: list[Cost], peak_bytes: int) -> Contender:
    cpu, wall = (statistics.median(values) for values in zip(*((c.cpu_s, c.wall_s) for c in costs), strict=True))
    return Contender(cpu, wall, peak_bytes)


def measure(work: Work) -> dict[str, Any]:
    """All figures, by name."""
    steps = []
    for model in work.models:
        for batch in work.batches:
            _say(f"{model}, batch {batch}")
            steps.append(measure_step(model, batch, work))
            _say(f"  {steps[-1].ratio(lambda one: one.cpu_s):.2f}x in time, {_memory(steps[-1]):.2f}x in memory")
    _say(f"encoding {work.coordinates:,} coordinates")
    values = encoding.vector(work.coordinates)
    encoded, peer = encoding.fedmesh(values), encoding.numpy_poisson(values)  # tables are made once in a process
    decoded = decode(encoded, gamma=encoding.GAMMA, seed_rotation=encoding.SEED, size=len(values))
    if len(peer) != len(encoded) or abs(float(decoded @ values) / 2 - 1) > 0.2:
        raise SystemExit("the encoded vector is not the vector: the benchmark is wrong")
    repeats = 7 if work.coordinates == COORDINATES else 1
    ours, theirs = (best_of(repeats, partial(way, values)) for way in (encoding.fedmesh, encoding.numpy_poisson))
    _say(f"a ledger of {work.rounds:,} rounds")
    ledger, epsilon = accounting.fedmesh(work.rounds)
    one_by_one, peer_epsilon = accounting.one_by_one(work.rounds)
    if abs(epsilon - peer_epsilon) > 1e-3 * peer_epsilon:
        raise SystemExit(f"epsilon {epsilon}, event by event {peer_epsilon}: they have to agree")
    return {
        "steps": steps,
        "encode": {"coordinates": work.coordinates, "fedmesh": ours, "numpy": theirs},
        "ledger": {"rounds": work.rounds, "epsilon": epsilon, "fedmesh": ledger, "dp_accounting": one_by_one},
        "load": os.getloadavg()[0],
    }


def plain(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures as JSON can hold them."""
    steps = [
        asdict(step)
        | {
            "time_ratio": step.ratio(lambda one: one.cpu_s),
            "memory_ratio": step.ratio(lambda one: one.peak_bytes),
            "stock_time_ratio": _against_stock(step, lambda one: one.cpu_s),
            "stock_memory_ratio": _against_stock(step, lambda one: one.peak_bytes),
        }
        for step in figures["steps"]
    ]
    encode, ledger = (
        {key: asdict(value) if isinstance(value, Cost) else value for key, value in figures[name].items()}
        for name in ("encode", "ledger")
    )
    return {**figures, "steps": steps, "encode": encode, "ledger": ledger}


def _against_stock(step: Step, figure: Callable[[Contender], float]) -> float | None:
    return step.ratio(figure, "Opacus") if "Opacus" in step.contenders else None


def show(figures: dict[str, Any]) -> None:
    """Tables."""
    console = Console(width=max(110, Console().width))
    console.print(_table(figures["steps"], "a step of DP-SGD, ms of processor time", lambda one: one.cpu_s * 1e3))
    console.print(_table(figures["steps"], "memory at its peak, MB", lambda one: one.peak_bytes / 1e6))
    for step in figures["steps"]:
        for name, why in step.failures.items():
            console.print(f"{name} on {step.model}, batch {step.batch}: {why}")
    encode, ledger = figures["encode"], figures["ledger"]
    ours, theirs = (encode[name].cpu_s * 1e3 for name in ("fedmesh", "numpy"))
    print(f"Skellam encoding of {encode['coordinates']:,} coordinates: {ours:.0f} ms (goal {ENCODE_GOAL_MS}),", end=" ")
    print(f"numpy's Poissons and a plain Hadamard {theirs:.0f} ms ({theirs / ours:.1f}x), neither exact nor secret")
    ours, theirs = (ledger[name].cpu_s for name in ("fedmesh", "dp_accounting"))
    print(f"PLD of a ledger of {ledger['rounds']:,} rounds: {ours:.2f} s (goal {LEDGER_GOAL_S}),", end=" ")
    print(f"dp-accounting told one by one {theirs:.1f} s ({theirs / ours:.0f}x); epsilon {ledger['epsilon']:.4f}")


def _table(steps: list[Step], title: str, figure: Callable[[Contender], float]) -> Table:
    table = Table(title=title)
    for column in ("model", "batch", *TRAINERS, "fedmesh is"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for step in steps:
        cells = [f"{figure(step.contenders[name]):,.1f}" if name in step.contenders else "-" for name in TRAINERS]
        table.add_row(step.model, str(step.batch), *cells, f"{step.ratio(figure):.2f}x")
    return table


def _memory(step: Step) -> float:
    return step.ratio(lambda one: one.peak_bytes)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Prints tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of tables")
    parser.add_argument("--quick", action="store_true", help="little work: that everything runs, not how fast")
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=None)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    work = QUICK if options.quick else Work(models=tuple(options.models or MODELS))
    figures = measure(work)
    if options.json:
        print(json.dumps(plain(figures), indent=2))
    else:
        show(figures)


if __name__ == "__main__":
    main()
