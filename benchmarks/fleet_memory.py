"""What an idle device holds: `fedmesh client run` of each tier, connected over Mosquitto with mutual TLS.

    python -m benchmarks.fleet_memory [--settle SECONDS]

RSS counts pages that processes share, such as the interpreter and OpenSSL, in each of them; PSS divides them; USS
leaves them out.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fleet_site import Site, memory_mb
from fedmesh.registry.founding import create
from fedmesh.testing.loopback_broker import free_port

__all__ = ["GOALS_MB", "measure"]

GOALS_MB = {"inference": 70, "inference, /predict": 70, "lite": 90, "full": 90}


def measure(*, settle_s: float = 5.0) -> dict[str, dict[str, float]]:
    """MiB of each, `settle_s` after it was connected; one process of fedmesh at a time, the benchmark's beside it."""
    found = {}
    with tempfile.TemporaryDirectory() as name, Site(Path(name), len(GOALS_MB)) as site:
        for device, label in zip(site.names, GOALS_MB, strict=True):
            tier = label.partition(",")[0]
            tables: dict[str, Any] = {}
            if tier == "inference":
                tables["registry"] = {"trusted_root": str(_root(site))}
            if "," in label:
                tables["inference"] = {"listen": f"127.0.0.1:{free_port()}"}
            process = site.start(site.configure(device, tier=tier, **tables))
            time.sleep(settle_s)
            found[label] = memory_mb(process.pid)
            process.terminate()
            process.wait()
    return found


def _root(site: Site) -> Path:
    """The first root of a registry."""
    folder = site.folder / "registry"
    if not folder.exists():
        create(folder)
    return next(folder.rglob("1.root.json"))


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settle", type=float, default=5.0)
    arguments = parser.parse_args()
    print(json.dumps({"load": os.getloadavg()[0], "mb": measure(settle_s=arguments.settle)}, indent=2))


if __name__ == "__main__":
    main()
