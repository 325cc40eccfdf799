"""Nodes of one mesh on loopback, in this process or as processes of their own, from files as an operator has them."""

import asyncio
import functools
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack

from coroutines import asynchronous
from json_events import told_in
from meshes import Mesh

from fedmesh.errors import ConfigError
from fedmesh.mesh.discovery import Settings as DiscoverySettings
from fedmesh.mesh.membership import Settings as MembershipSettings
from fedmesh.mesh.swarm import Settings as SwarmSettings
from fedmesh.peer.node import Node, Settings
from fedmesh.peer.offering import Offering
from fedmesh.peer.running import load
from fedmesh.peer.status import ask

PATIENCE_S = 120.0
QUICK_MEMBERSHIP = MembershipSettings(
    probe_s=0.2, probe_timeout_s=0.1, suspicion_alpha=2.0, suspicion_beta=2.0, gossip_s=0.05, reconnect_s=0.5
)


def quick(**more):
    return Settings(
        membership=QUICK_MEMBERSHIP,
        discovery=DiscoverySettings(gap_s=0.2, every_s=0.1),
        swarm=SwarmSettings(looks_s=0.1, announce_s=1.0),
        reconnect_s=0.05,
        reconnect_max_s=0.3,
        **more,
    )


class Nodes:
    """Members that know `seed` and nobody else; it is the first name."""

    def __init__(self, folder, *names, mesh=None):
        self.folder = folder
        self.mesh = mesh or Mesh(folder, begun=time.time() - 3_600)
        self.names = list(names)
        self.nodes, self.processes, self.stacks = {}, {}, {}
        self.ports = {}
        self.events = {name: [] for name in names}
        self.members = {name: self.mesh.enrol(name) for name in names}
        roster, revocations = self.lists()
        for name in names:
            (folder / name / "roster.signed").write_bytes(roster)
            (folder / name / "revocations.signed").write_bytes(revocations)

    def lists(self):
        return self.mesh.issuer.lists(time.time())

    def configure(self, name, more="", *, dead=False):
        """Its file; `dead`: where it says that it is, it is not."""
        seed = self.names[0]
        port = self.ports.get(name, 0)
        seeds = "" if name == seed else f'{seed} = ["127.0.0.1:{self.ports[seed]}"]'
        other = "" if name != seed else 'nobody = ["127.0.0.1:9"]'
        path = self.folder / f"{name}.toml"
        listen = f'listen = ["127.0.0.1:{port}"]\n' + ('addresses = ["127.0.0.1:9"]\n' if dead else "")
        path.write_text(
            f'[identity]\nfolder = "{name}"\n[mesh]\nfolder = "state-{name}"\n{listen}'
            f"[mesh.discovery]\nenabled = false\n[mesh.seeds]\n{seeds}{other}\n{more}"
        )
        return path

    def state(self, name):
        return self.folder / f"state-{name}"

    async def enter(self, name, *, more="", dead=False, settings=None, probe=None, learning=None):
        """A node in this process."""
        peer = load(self.configure(name, more, dead=dead))
        self.state(name).mkdir(exist_ok=True)

        def offering(*args, **options):
            return Offering(*args, **options, probe=probe)

        node = Node(
            peer.config, peer.membership, settings=settings or quick(), offering=offering, learning=learning,
            events=self.events[name].append,
        )  # fmt: skip
        self.stacks[name] = AsyncExitStack()
        await self.stacks[name].enter_async_context(node)
        self.ports[name] = node.transport.listening[0][1]
        self.nodes[name] = node
        return node

    async def leave(self, name):
        del self.nodes[name]
        await self.stacks.pop(name).aclose()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for node in self.nodes.values():
            if node._ended.done():
                node._ended.result()
        for process in self.processes.values():
            process.kill()
            process.wait()
        for name in list(self.nodes):
            await self.leave(name)

    def start(self, name, *, more=""):
        """A node as a process; its words go to NAME.log, its events to NAME.jsonl."""
        path = self.configure(name, more)
        command = ["peer", "run", str(path), "--json-events", str(self.folder / f"{name}.jsonl")]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "fedmesh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def told(self, name):
        return told_in(self.folder / f"{name}.jsonl")

    def said(self, name):
        path = self.folder / f"{name}.log"
        return path.read_text()[-3_000:] if path.exists() else ""

    def status(self, name):
        try:
            return ask(self.state(name))
        except ConfigError:
            return {
                "self": name,
                "members": [],
                "links": [],
                "relayed": {},
                "bridge": None,
                "round": None,
                "aggregator": None,
            }

    def view(self, name):
        """Name -> state, as this one sees it."""
        if name in self.nodes:
            return {one["name"]: one["state"] for one in self.nodes[name].status["members"]}
        return {one["name"]: one["state"] for one in self.status(name)["members"]}


async def until(done, within_s=PATIENCE_S, *, about=""):
    ends = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < ends, f"it did not come to pass within {within_s} s. {about() if about else ''}"
        await asyncio.sleep(0.02)


def in_loop(test):
    """A test that is a coroutine, within five minutes, that leaves no task behind."""

    @asynchronous
    @functools.wraps(test)
    async def alone(*args, **options):
        await test(*args, **options)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    return alone
