"""Nodes that average by gossip: what each has on its disk, and what its ledger says."""

import asyncio
import hashlib
import secrets

import numpy as np
from mesh_learning import LearningNodes
from mesh_nodes import until
from small_runs import small_digits

from fedmesh.client.identities import anchor_path
from fedmesh.events import StepAveraged
from fedmesh.fleet.mesh_start import begin
from fedmesh.mesh.rounds import Charter, Schedule, quorum_for, sign_charter
from fedmesh.peer.averaging import terms_of
from fedmesh.peer.averaging_memory import Memory
from fedmesh.privacy import Anchor
from fedmesh.secagg import Identity

__all__ = ["SCHEDULE", "AveragingNodes"]

SCHEDULE = Schedule(90.0, 10.0, 5.0)


class AveragingNodes(LearningNodes):
    """As `LearningNodes`, with a run of gossip averaging; ledgers have anchors, as `fedmesh enroll` makes them."""

    def __init__(self, folder, *names):
        super().__init__(folder, *names)
        for name in names:
            Anchor.create(anchor_path(folder / name, name))

    async def begin_run(self, *, steps=3, schedule=SCHEDULE, members=None, **overrides):
        settings = {
            "strategy__name": "gossip", "strategy__options": {"group": 4}, "privacy__enabled": False,
            "client__batching": "never", "rounds": steps, **overrides,
        }  # fmt: skip
        names = members or self.names
        folder = self.folder / "start"
        folder.mkdir()
        scenario = small_digits(**settings)
        made = await asyncio.to_thread(begin, scenario, run=7, members=len(names), folder=folder)
        signer = self.nodes[self.names[0]]
        put, keys = signer.runs.blobs.put, signer.membership.roster.keys
        self.charter = sign_charter(
            Charter(
                "home", made.task, secrets.token_bytes(16), put(made.kit), {name: keys[name] for name in names},
                made.rounds, quorum_for(len(names)), made.fewest, 1, put(made.model), put(made.state), schedule,
                self.names[0], kind=made.kind,
            ),
            Identity(signer.membership.signing_key()),
        )  # fmt: skip
        self.made = made
        signer.runs.begin(self.charter)
        return made

    def learning_folder(self, name):
        return self.state(name) / "runs" / self.charter.run.hex() / "learning"

    def saved(self, name):
        return Memory(self.learning_folder(name)).load()

    def steps(self, name):
        """Step -> outcome and names, as its events say it."""
        told = [event for event in self.events[name] if isinstance(event, StepAveraged)]
        return {event.step: (event.outcome, event.names.split(", ")) for event in told}

    def accuracy_of(self, name):
        """Of a member's own model, on examples that nobody trained on."""
        _, terms = terms_of(self.charter, self.made.kit)
        model = terms.grid.weights(self.saved(name).codes).astype("<f4").tobytes()
        return self.accuracy(self.made, self.nodes[name].runs.blobs.put(model))

    def accuracy_at_first(self):
        return self.accuracy(self.made, hashlib.sha256(self.made.model).digest())

    def models(self, *names):
        return np.stack([self.saved(name).codes for name in names or self.names])

    def stories(self):
        return {
            name: (self.run_of(name) and self.run_of(name).status, dict(node.runs.counts), self.events[name][-6:])
            for name, node in self.nodes.items()
        }

    async def ends(self, *names, within_s=240.0):
        await until(lambda: self.is_over(*names or self.names), within_s, about=self.stories)
