"""What a round costs in a mesh, against the same round by a coordinator over MQTT.

    python -m benchmarks.mesh.rounds [--devices 6] [--rounds 6]

One after the other, each with all of its processes on a loopback of its own where there are network namespaces. The
same scenario, schedule of training, parts of the data, and deliveries, see `benchmarks.mesh.round_sites`; the first
round, in which processes load torch, is apart. *Without training* is what a round takes beside the step in which
devices train, with the messages of that step. Every byte is counted once, also of what a broker passes on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.mesh.members import apart

__all__ = ["compare", "lines", "run_apart"]

SITES = ("fleet", "mesh")
_FIGURES = ("round_s", "without_training_s", "processor_s", "bytes", "packets")


def run_apart(site: str, *, devices: int, rounds: int) -> tuple[dict[str, Any], bool]:
    """What `benchmarks.mesh.round_sites` says of one of them; whether its loopback was nobody else's."""
    with ExitStack() as stack:
        before = apart(stack)
        command = [*before, sys.executable, "-m", "benchmarks.mesh.round_sites", site]
        sizes = ["--devices", str(devices), "--rounds", str(rounds)]
        done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the rounds of the {site} failed:\n{done.stdout}{done.stderr[-3_000:]}")
    watched: dict[str, Any] = json.loads(done.stdout)
    return watched, bool(before)


def compare(
    *, devices: int = 6, rounds: int = 6, run: Callable[..., tuple[dict[str, Any], bool]] = run_apart
) -> dict[str, Any]:
    """Both, in turn, and how many times as much the mesh takes. `run`: how one of them is run."""
    found: dict[str, Any] = {site: {} for site in SITES}
    for site in SITES:
        load, (watched, own) = os.getloadavg()[0], run(site, devices=devices, rounds=rounds)
        found[site] = {"load": round(load, 1), **figures(watched, devices)}
    ratio = {name: round(found["mesh"][name] / found["fleet"][name], 2) for name in _FIGURES if found["fleet"][name]}
    return {"devices": devices, "rounds": rounds, "own_loopback": own, **found, "ratio": ratio}


def figures(watched: dict[str, Any], devices: int) -> dict[str, Any]:
    """Medians of a round; traffic for each device."""
    steps = watched["steps_s"]
    without = [took - step.get("train", 0.0) for took, step in zip(watched["round_s"], steps, strict=True)]
    names = list(dict.fromkeys(name for step in steps for name in step))
    return {
        "first_s": watched["first_s"],
        "round_s": round(statistics.median(watched["round_s"]), 3),
        "without_training_s": round(statistics.median(without), 3),
        "worst_s": max(watched["round_s"]),
        "steps_s": {name: round(statistics.median(step.get(name, 0.0) for step in steps), 3) for name in names},
        "processor_s": watched["processor_s"],
        "bytes": round(watched["bytes"] / devices),
        "packets": round(watched["packets"] / devices),
        "repeated": watched["repeated"],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """A table, and where the time goes."""
    fleet, mesh, ratio = found["fleet"], found["mesh"], found["ratio"]

    def row(label: str, name: str, unit: str) -> str:
        times = f"{ratio[name]}x" if name in ratio else ""
        return f"| {label} | {fleet[name]} {unit} | {mesh[name]} {unit} | {times} |"

    def steps(figures: dict[str, Any]) -> str:
        return ", ".join(f"{name} {seconds}" for name, seconds in figures["steps_s"].items())

    shared = "" if found["own_loopback"] else ", and all else on this loopback: there are no namespaces here"
    sites = f"fleet, load {fleet['load']} | mesh, load {mesh['load']}"
    return [
        f"| {found['devices']} devices, a round behind the first | {sites} | |",
        "|" + "---|" * 4,
        row("median", "round_s", "s"),
        row("without training", "without_training_s", "s"),
        row("processor time of all processes", "processor_s", "s"),
        row(f"sent for each device{shared}", "bytes", "bytes"),
        row("packets for each device", "packets", ""),
        row("the worst", "worst_s", "s"),
        row("the first, from the command on", "first_s", "s"),
        row("rounds not whole in one attempt", "repeated", ""),
        "",
        f"seconds, fleet: {steps(fleet)}",
        f"seconds, mesh: {steps(mesh)}",
    ]


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=6)
    told = parser.parse_args()
    print(json.dumps({"load": os.getloadavg()[0], **compare(devices=told.devices, rounds=told.rounds)}, indent=2))


if __name__ == "__main__":
    main()
