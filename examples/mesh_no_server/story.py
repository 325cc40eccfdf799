"""What the example does, and what has to come of it: one result, one model everywhere, ledgers that say its price."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from members import LATE, PUBLISHER, TRAINING

from fedmesh.federation import scenarios
from fedmesh.federation.datasets import load, split_as
from fedmesh.inference import Engine
from fedmesh.registry import Slots
from fedmesh.testing.mesh_peers import MeshPeers

PATIENCE_S = 200.0


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


def have_met(peers: MeshPeers, names: Iterable[str]) -> bool:
    """Whether each of these holds all of them alive."""
    wanted = set(names)
    return all(wanted <= {other for other, how in peers.view(name).items() if how == "alive"} for name in wanted)


def begin(peers: MeshPeers) -> str:
    """Three rounds of the digits among all that are here, started as an operator does; who is in it."""
    where = ["--mesh", "--config", f"{PUBLISHER}.toml", "--json"]
    begun = json.loads(fedmesh(peers, "run", "start", "digits", "--rounds", "3", *where))
    return f"{begun['rounds']} rounds of {begun['task']} by {', '.join(begun['members'])}; quorum {begun['quorum']}"


def certified(peers: MeshPeers, name: str, number: int) -> dict[str, Any]:
    """The result of a round as this member has it."""

    def found() -> dict[str, Any] | None:
        told = [fact for fact in peers.told(name, "RoundCertified") if fact["round"] == number]
        return told[-1] if told else None

    return until(peers, f"round {number} is certified for {name}", found)


def round_line(fact: dict[str, Any]) -> str:
    """A round in a line."""
    if fact["is_void"]:
        return f"round {fact['round']}: given up, and all agree on that"
    how = f"attempt {fact['attempt'] + 1}, {fact['survivors']} in the sum, epsilon {fact['epsilon']:.2f}"
    return f"round {fact['round']}: certified; {how}"


def coordinator_of(peers: MeshPeers, number: int) -> str:
    """Who coordinates this round, as soon as most say the same."""

    def agreed() -> str | None:
        told = [peers.status(name) for name in TRAINING]
        named = [found["aggregator"] for found in told if found.get("round") == number]
        return named[0] if len(named) >= len(TRAINING) - 1 and len(set(named)) == 1 else None

    return str(until(peers, f"somebody coordinates round {number}", agreed))


def delivered(peers: MeshPeers, names: Iterable[str]) -> str:
    """Waits until all but the publisher run one version, which the last round's model is; its number."""
    others = [name for name in names if name != PUBLISHER]

    def same() -> str | None:
        published = peers.models(PUBLISHER).get(PUBLISHER)
        running = {peers.models(name).get(name) for name in others}
        rounds = [fact["round"] for fact in peers.told(PUBLISHER, "ModelChecked")]
        return published if published and running == {published} and rounds and rounds[-1] == 3 else None

    return str(until(peers, "the last model runs on all", same))


def leave(peers: MeshPeers, name: str) -> None:
    """A member is switched off, with a goodbye."""
    peers.kill(name, signal.SIGTERM)


def show(peers: MeshPeers, version: str, killed: str) -> None:
    """The late one has the model, it reads digits, and nobody paid more than was promised, not even who was killed."""
    until(peers, f"{LATE} has version {version}", lambda: peers.models(LATE).get(LATE) == version)
    print(f"{LATE} has version {version} from its neighbours")
    fedmesh(peers, "model", "verify", f"state-{LATE}/registry")
    for name in TRAINING:
        ledger = f"state-{name}/ledgers/{name}.ledger"
        told = json.loads(fedmesh(peers, "ledger", "show", ledger, "--json"))
        assert told["error"] is None, told
        assert told["epsilon"] <= told["budget"], told
        print(f"  {name:5} {told['charges']} rounds paid, epsilon {told['epsilon']:.2f} of {told['budget']:g}")
    anchor = ["--anchor", f"{killed}/{killed}.anchor"]
    fedmesh(peers, "ledger", "verify", f"state-{killed}/ledgers/{killed}.ledger", *anchor)
    data = split_as(load("digits"), scenarios.load("digits", {"partition.clients": len(TRAINING)})).held_out
    (model,) = Slots(peers.folder / f"state-{LATE}/registry/slots").files().values()
    right = int((np.argmax(Engine(model).run(data.x), 1) == data.y).sum())
    assert right > 0.75 * len(data), f"{right} of {len(data)} digits are right: no better than before"
    print(f"it reads {right} of {len(data)} real digits right that nobody trained on")
