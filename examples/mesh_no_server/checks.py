"""What has to come of it: one model everywhere, which reads digits, and ledgers that say its price."""

import json
from collections.abc import Iterable

import numpy as np
from members import LATE, PUBLISHER, TRAINING
from stage import fedmesh, until

from fedmesh.federation import scenarios
from fedmesh.federation.datasets import load, split_as
from fedmesh.inference import Engine
from fedmesh.registry import Slots
from fedmesh.testing.mesh_peers import MeshPeers


def delivered(peers: MeshPeers, names: Iterable[str]) -> str:
    """Waits until all but the publisher run one version, which the last round's model is; its number."""
    others = [name for name in names if name != PUBLISHER]

    def same() -> str | None:
        published = peers.models(PUBLISHER).get(PUBLISHER)
        running = {peers.models(name).get(name) for name in others}
        rounds = [fact["round"] for fact in peers.told(PUBLISHER, "ModelChecked")]
        return published if published and running == {published} and rounds and rounds[-1] == 3 else None

    return str(until(peers, "the last model runs on all", same))


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
