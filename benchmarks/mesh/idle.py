"""What an idle member takes in a mesh of 50: memory, traffic, processor time.

    python -m benchmarks.mesh.idle [--members 50] [--seconds 60]

Each is a process, `fedmesh peer run` with its defaults and no models, all on a loopback that nobody else uses where
there are network namespaces. As many run as the free memory holds. RSS counts what processes share in each of them, PSS
divides it. Traffic is all that goes over that loopback, with the heads of TCP and IP.
"""

import argparse
import json
import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.fleet_site import memory_mb, processor_s
from benchmarks.mesh.members import apart, names_of, running
from fedmesh.testing.mesh_peers import MeshPeers

__all__ = ["GOALS", "lines", "measure"]

GOALS = {"rss_mb": 75.0, "bytes_per_s": 1000.0}
_MEMBER_MB, _SPARED_MB = 90, 1024
_SETTLE_S = 45.0
"""Who has just met compares views, and finds out who else is there; behind a minute it is quiet."""


def measure(*, members: int = 50, seconds: float = 60.0, settle_s: float = _SETTLE_S) -> dict[str, Any]:
    """Figures of a member: the median, and the worst."""
    fit = max(3, (_available_mb() - _SPARED_MB) // _MEMBER_MB)
    members = min(members, fit)
    with ExitStack() as stack:
        before = apart(stack)
        peers = stack.enter_context(running(members, before=before))
        time.sleep(settle_s)
        pids = [peers.processes[name].pid for name in names_of(members)]
        began, used, sent = time.monotonic(), processor_s(pids), _traffic(peers)
        time.sleep(seconds)
        took = time.monotonic() - began
        used, sent = (
            (processor_s(pids) - used) / took,
            [after - at for after, at in zip(_traffic(peers), sent, strict=True)],
        )
        memory = [memory_mb(pid) for pid in pids]
        links = [len(peers.status(name).get("links", ())) for name in names_of(members)]
    return {
        "members": members,
        "links": statistics.median(links),
        "own_loopback": bool(before),
        **{f"{kind}_mb": _spread([each[kind] for each in memory]) for kind in ("rss", "pss", "uss")},
        "bytes_per_s": round(sent[0] / took / members),
        "packets_per_s": round(sent[1] / took / members, 1),
        "processor_percent": round(used / members * 100, 2),
    }


def _spread(found: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(found), 1), "worst": max(found)}


def _available_mb() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) // 1024


def _traffic(peers: MeshPeers) -> list[int]:
    """Bytes and packets that went over the members' loopback."""
    any_of_them = next(iter(peers.processes.values())).pid
    lines = Path(f"/proc/{any_of_them}/net/dev").read_text().splitlines()
    sent = next(line.split(":")[1].split() for line in lines if line.strip().startswith("lo:"))[8:]
    return [int(sent[0]), int(sent[1])]


def lines(found: dict[str, Any]) -> list[str]:
    """A table."""
    shared = "" if found["own_loopback"] else " (and all else on this loopback: there are no namespaces here)"
    rss, pss = found["rss_mb"], found["pss_mb"]
    return [
        f"| {found['members']} members, {found['links']:g} links each | median | worst | goal |",
        "|" + "---|" * 4,
        f"| RSS | {rss['median']} MB | {rss['worst']} MB | {GOALS['rss_mb']:g} MB |",
        f"| PSS | {pss['median']} MB | {pss['worst']} MB | |",
        f"| sent by each | {found['bytes_per_s']} bytes a second{shared} | | {GOALS['bytes_per_s']:g} |",
        f"| packets | {found['packets_per_s']} a second | | |",
        f"| processor | {found['processor_percent']} % of a core | | |",
    ]


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--settle", type=float, default=_SETTLE_S)
    told = parser.parse_args()
    found = measure(members=told.members, seconds=told.seconds, settle_s=told.settle)
    print(json.dumps({"load": os.getloadavg()[0], **found}, indent=2))


if __name__ == "__main__":
    main()
