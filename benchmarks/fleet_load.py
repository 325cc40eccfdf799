"""What a coordinator takes against the number of its devices: processor time a round, and memory.

    python -m benchmarks.fleet_load [--devices N ...] [--parameters N] [--rounds N]

The coordinator is a process of its own; the devices are simulated, `PER_PROCESS` to a process, each with a connection
of its own to one Mosquitto (mutual TLS 1.3), its own keys and signatures. Secure aggregation off and on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.fleet_rounds import coordinated
from benchmarks.fleet_site import Site
from benchmarks.fleet_swarm import SwarmTold

__all__ = ["DEVICES", "PER_PROCESS", "measure"]

DEVICES = (10, 100, 500)
PER_PROCESS = 250
"""More only make the processes busy with each other."""
_RAM_DISK = Path("/dev/shm")


def measure(
    devices: int, *, parameters: int, rounds: int, secure: Sequence[bool] = (False, True)
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label and figures of the coordinator's process."""
    place = _RAM_DISK if _RAM_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as name, Site(Path(name), devices) as site:
        for is_secure in secure:
            with _swarm(site, devices, parameters, secure=is_secure):
                label = "secure aggregation" if is_secure else "plain"
                found = coordinated(site, rounds=rounds, parameters=parameters, secure=is_secure)
                took = sorted(found.pop("round_s"))
                yield label, {**found, "median_s": took[len(took) // 2]}


@contextmanager
def _swarm(site: Site, devices: int, parameters: int, *, secure: bool) -> Iterator[None]:
    started: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory(dir=site.folder) as stores:
        try:
            for first in range(0, devices, PER_PROCESS):
                count = min(PER_PROCESS, devices - first)
                told = SwarmTold(
                    str(site.folder), stores, site.fleet.broker.port, first, count, parameters, secure=secure
                )
                command = [sys.executable, "-m", "benchmarks.fleet_swarm", told.argument()]
                process = subprocess.Popen(command, env=site.environment, stdout=subprocess.PIPE, text=True)
                started.append(process)
            for process in started:
                if process.stdout is None or process.stdout.readline() != "ready\n":
                    raise RuntimeError("a swarm did not start")
            yield
        finally:
            for process in started:
                process.kill()
                process.wait()


def main() -> None:
    """Prints a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, nargs="+", default=list(DEVICES))
    parser.add_argument("--parameters", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    for devices in arguments.devices:
        for label, row in measure(devices, parameters=arguments.parameters, rounds=arguments.rounds):
            print(json.dumps({"devices": devices, "kind": label, "load": os.getloadavg()[0], **row}), flush=True)


if __name__ == "__main__":
    main()
