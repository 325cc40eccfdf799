"""Nodes that train on their parts of the digits, and a run of theirs as an operator would start it."""

import asyncio
import hashlib
import secrets

import numpy as np
import torch
from mesh_nodes import Nodes, quick, until
from small_runs import small_digits

from fedmesh.federation.datasets import load as load_data
from fedmesh.federation.datasets import split_as
from fedmesh.federation.directory import PublicStart
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.start import restore
from fedmesh.fleet.kit import Kit
from fedmesh.fleet.mesh_start import begin
from fedmesh.mesh.rounds import Charter, Schedule, quorum_for, sign_charter
from fedmesh.peer.running import learning_of, load
from fedmesh.secagg import Identity

__all__ = ["SCHEDULE", "LearningNodes"]

SCHEDULE = Schedule(60.0, 15.0, 5.0)


class LearningNodes(Nodes):
    """Each has its part of the digits; the first has the right to start runs."""

    def __init__(self, folder, *names):
        super().__init__(folder, *names)
        self.mesh.issuer.grant(names[0], "runs")
        roster, _ = self.lists()
        for name in names:
            (folder / name / "roster.signed").write_bytes(roster)

    def configure(self, name, more="", **options):
        number = self.names.index(name)
        data = f'[data]\nkind = "dataset"\nname = "digits"\npartition = {number}\nof = {len(self.names)}\n'
        free = "[privacy]\nrequired = false\n"
        return super().configure(name, more=data + free + more, **options)

    async def enter(self, name, *, more="", **options):
        settings = quick(runs={"settle_s": 2.0, "spare_s": 0.0})
        learning = learning_of(load(self.configure(name, more)))
        return await super().enter(name, more=more, settings=settings, learning=learning, **options)

    async def enter_all(self, **more):
        """`more`: name -> tables of its file."""
        for name in self.names:
            await self.enter(name, more=more.get(name, ""))
        await until(lambda: all(set(self.view(name)) >= set(self.names) for name in self.names), 40.0)

    async def begin_run(self, *, rounds=3, schedule=SCHEDULE, **overrides):
        """Round 1 of a small run of all, begun at the first node: its charter, and its kit."""
        overrides = {"privacy__enabled": False, "client__batching": "never", "rounds": rounds, **overrides}
        folder, members = self.folder / "start", len(self.names)
        folder.mkdir()
        run = secrets.randbits(61)
        made = await asyncio.to_thread(begin, small_digits(**overrides), run=run, members=members, folder=folder)
        signer = self.nodes[self.names[0]]
        put, keys = signer.runs.blobs.put, signer.membership.roster.keys
        plain = Charter(
            "home", made.task, secrets.token_bytes(16), put(made.kit), {name: keys[name] for name in self.names},
            made.rounds, quorum_for(members), made.fewest, 6, put(made.model), put(made.state), schedule,
            self.names[0],
        )  # fmt: skip
        signer.runs.begin(sign_charter(plain, Identity(signer.membership.signing_key())))
        return made

    def accuracy(self, made, digest):
        """Of the model of this SHA-256, on examples that nobody trained on."""
        held = [made.model, *(node.runs.blobs.get(digest) for node in self.nodes.values())]
        weights = next(data for data in held if data is not None and hashlib.sha256(data).digest() == digest)
        kit = Kit.from_bytes(made.kit)
        scenario, task = Scenario.parse(kit.scenario, source="the kit"), kit.read_task()
        data = split_as(load_data(scenario.data.name), scenario)
        start = PublicStart(np.frombuffer(weights, "<f4"), dict(task.ranges))
        model = restore(scenario, start, data.public, len(data.classes))
        with torch.no_grad():
            found = model(torch.from_numpy(data.held_out.x)).argmax(1).numpy()
        return float((found == data.held_out.y).mean())

    def run_of(self, name):
        """The newest run, as this node has it."""
        return next(reversed(self.nodes[name].runs.all.values()), None)

    def results(self, name):
        run = self.run_of(name)
        return [] if run is None or run.member is None else [each.result for each in run.member.chain.since(1, 1000)]

    def is_over(self, *names):
        return all((run := self.run_of(name)) is not None and run.is_over for name in names)

    def stories(self):
        """For a test that waits in vain: where each is."""
        return {
            name: (self.run_of(name) and self.run_of(name).status, dict(node.runs.counts), self.events[name][-4:])
            for name, node in self.nodes.items()
        }
