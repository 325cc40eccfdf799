"""What happens among the members, in their own words."""

import signal
from collections.abc import Iterable
from typing import Any

from members import TRAINING
from stage import until

from fedmesh.testing.mesh_peers import MeshPeers


def have_met(peers: MeshPeers, names: Iterable[str]) -> bool:
    """Whether each of these holds all of them alive."""
    wanted = set(names)
    return all(wanted <= {other for other, how in peers.view(name).items() if how == "alive"} for name in wanted)


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


def leave(peers: MeshPeers, name: str) -> None:
    """A member is switched off, with a goodbye."""
    peers.kill(name, signal.SIGTERM)
