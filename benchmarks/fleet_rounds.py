"""Empty rounds of two real agents over Mosquitto with mutual TLS, and Flower's own deployment beside it.

    python -m benchmarks.fleet_rounds [--rounds N] [--no-flower]

Three processes of ours besides the broker: the coordinator and two agents, each with its training process. The client
app answers at once. Flower's SuperLink and SuperNodes speak without TLS.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.fleet_coordinator import Told
from benchmarks.fleet_peers import flower_deployment
from benchmarks.fleet_site import Site

__all__ = ["coordinated", "measure", "versus_flower"]

_FIRST = 2
"""Rounds that are not counted: processes start in them."""


def coordinated(site: Site, *, rounds: int, parameters: int = 0, secure: bool = False) -> dict[str, Any]:
    """What a coordinator's process says of its rounds with all devices of the site."""
    with tempfile.TemporaryDirectory(dir=site.folder) as place:
        port, devices = site.fleet.broker.port, len(site.names)
        told = Told(str(site.folder / "coordinator"), port, place, devices, rounds, parameters, secure=secure)
        command = [sys.executable, "-m", "benchmarks.fleet_coordinator", told.argument()]
        done = subprocess.run(command, env=site.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the coordinator failed:\n{done.stdout}\n{done.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure(*, devices: int = 2, rounds: int = 30) -> dict[str, Any]:
    """Seconds of rounds with `devices` real agents; the first ones, in which processes start, are apart."""
    with tempfile.TemporaryDirectory() as name, Site(Path(name), devices) as site:
        for device in site.names:
            site.start(site.configure(device))
        figures = coordinated(site, rounds=_FIRST + rounds)
    took = figures.pop("round_s")
    return {
        **figures,
        "first_s": took[:_FIRST],
        "p50_s": round(statistics.median(took[_FIRST:]), 4),
        "worst_s": max(took[_FIRST:]),
    }


def versus_flower(*, rounds: int = 30, flower: bool = True) -> dict[str, Any]:
    """Both, in turn."""
    figures: dict[str, Any] = {"load": os.getloadavg()[0], "fedmesh": measure(rounds=rounds)}
    if flower:
        try:
            peer = flower_deployment.measure(devices=2, rounds=5)
        except RuntimeError as error:
            return {**figures, "flower": None, "why_no_flower": str(error)}
        peer["p50_s"] = round(statistics.median(peer["round_s"]), 3)
        figures |= {"flower": peer, "ratio": round(peer["p50_s"] / figures["fedmesh"]["p50_s"], 1)}
    return figures


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--no-flower", action="store_true")
    arguments = parser.parse_args()
    print(json.dumps(versus_flower(rounds=arguments.rounds, flower=not arguments.no_flower), indent=2))


if __name__ == "__main__":
    main()
