"""How soon a member that is killed is known to be dead to all others, and who is accused though nothing is wrong.

    python -m benchmarks.mesh.failures [--members 20] [--quiet SECONDS] [--kills 3]

`fedmesh peer run` with its defaults, each member a process on loopback. First nothing is done for a while, and every
suspicion and every death that a member tells of is false. Then one after the other is killed with SIGKILL.
"""

import argparse
import json
import os
import statistics
import time
from typing import Any

from benchmarks.mesh.members import names_of, running, until
from fedmesh.testing.mesh_peers import MeshPeers

__all__ = ["lines", "measure"]

_PATIENCE_S = 300.0
_SETTLE_S = 5.0


def measure(*, members: int = 20, quiet_s: float = 60.0, kills: int = 3) -> dict[str, Any]:
    """Seconds of detection, and how many were accused falsely."""
    with running(members) as peers:
        names = names_of(members)
        time.sleep(_SETTLE_S)
        accused = _quiet(peers, names, quiet_s)
        detections = [_killed(peers, name, names) for name in names[: -kills - 1 : -1]] if kills else []
    return {"members": members, "quiet_s": quiet_s, "false": accused, "detections": detections}


def _quiet(peers: MeshPeers, names: tuple[str, ...], quiet_s: float) -> dict[str, int]:
    began = time.time()
    time.sleep(quiet_s)
    told = _told(peers, names, began)
    return {state: sum(event["state"] == state for event in told) for state in ("suspect", "dead")}


def _killed(peers: MeshPeers, name: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Seconds until the first and the last of the others had somebody for suspect, and for dead."""
    others = [other for other in names if other != name and peers.processes[other].poll() is None]
    began = time.time()
    peers.kill(name)
    found: dict[str, dict[str, float]] = {"suspect": {}, "dead": {}}

    def done() -> bool:
        for other in [other for other in others if other not in found["dead"]]:
            for event in _told(peers, (other,), began):
                if event["device"] == name and event["state"] in found:
                    found[event["state"]].setdefault(other, event["time"] - began)
        return len(found["dead"]) == len(others)

    until(done, within_s=_PATIENCE_S, about=lambda: f"{len(found['dead'])} of {len(others)} found {name} dead")
    suspected, dead = ([round(at, 2) for at in found[state].values()] for state in ("suspect", "dead"))
    return {
        "first_suspects_s": min(suspected, default=None),
        "first_s": min(dead),
        "median_s": statistics.median(dead),
        "all_s": max(dead),
    }


def _told(peers: MeshPeers, names: tuple[str, ...], since: float) -> list[dict[str, Any]]:
    return [event for name in names for event in peers.told(name, "MemberChanged") if event["time"] >= since]


def lines(found: dict[str, Any]) -> list[str]:
    """A table."""
    told = ["| killed | first suspects it | first says dead | all say dead |", "|" + "---|" * 4]
    told += [
        f"| {number} | {row['first_suspects_s']} s | {row['first_s']} s | {row['all_s']} s |"
        for number, row in enumerate(found["detections"], 1)
    ]
    false, quiet_s = found["false"], found["quiet_s"]
    return [
        *told,
        "",
        f"{found['members']} members, {quiet_s:g} s without a fault: {false['suspect']} times one suspected another",
        f"falsely, {false['dead']} times one said of another that it is dead (goal: 0)",
    ]


def main() -> None:
    """Prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--quiet", type=float, default=60.0)
    parser.add_argument("--kills", type=int, default=3)
    told = parser.parse_args()
    found = measure(members=told.members, quiet_s=told.quiet, kills=told.kills)
    print(json.dumps({"load": os.getloadavg()[0], **found}, indent=2))


if __name__ == "__main__":
    main()
