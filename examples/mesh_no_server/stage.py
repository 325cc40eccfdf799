"""Commands that are run, and what is waited for."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from members import PUBLISHER, TRAINING

from fedmesh.testing.mesh_peers import MeshPeers

PATIENCE_S = 600.0


def fedmesh(peers: MeshPeers, *words: str) -> str:
    """Runs a command of fedmesh to its end; what it printed."""
    command = [sys.executable, "-m", "fedmesh", *words]
    done = subprocess.run(command, cwd=peers.folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def until(peers: MeshPeers, what: str, found: Callable[[], Any]) -> Any:
    """Waits until something is found; what was."""
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE_S:
        if result := found():
            return result
        time.sleep(0.2)
    said = "\n".join(f"{name}: {peers.said(name, 400)}" for name in TRAINING)
    raise SystemExit(f"not within {PATIENCE_S:.0f} s: {what}\n{said}")


def begin(peers: MeshPeers) -> str:
    """Three rounds of the digits among all that are here, started as an operator does; who is in it."""
    where = ["--mesh", "--config", f"{PUBLISHER}.toml", "--json"]
    begun = json.loads(fedmesh(peers, "run", "start", "digits", "--rounds", "3", *where))
    return f"{begun['rounds']} rounds of {begun['task']} by {', '.join(begun['members'])}; quorum {begun['quorum']}"
