"""An enrolled device with data, and a coordinator that says what a test wants it to, with real keys and packets."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import heads
import numpy as np
import training
from flwr.app import Message
from meshes import Mesh

from fedmesh.cli import toml
from fedmesh.client.enrolling import begin_enrolment
from fedmesh.client.journal import DeviceJournal
from fedmesh.client.task import Task
from fedmesh.fleet.agent import Agent, Device
from fedmesh.fleet.device import JOURNAL, load
from fedmesh.fleet.protocol import Abandon, End, Instruct, Offer, Reply, node_id_of
from fedmesh.flower.envelope import Envelope, fold, unfold
from fedmesh.identity import Membership
from fedmesh.identity.packets import Gate, Packet, Signet
from fedmesh.privacy.statement import Statement
from fedmesh.transport.memory import MemoryBroker
from fedmesh.wire import dumps

RUN = 7
PATIENCE_S = 120.0  # for a process to start on a machine that does much else


def enrolled(mesh: Mesh, name: str) -> Membership:
    """As `fedmesh enroll` does it: with the anchor of its ledgers."""
    token = mesh.issuer.token(name, mesh.begun, ttl_s=3_600)
    enrolment, hello = begin_enrolment(mesh.folder / name, token), mesh.issuer.hello()
    request = enrolment.request(token.secret, hello.nonce)
    return enrolment.finish(mesh.issuer.handle(request, None, hello.nonce, mesh.begun), mesh.begun)


async def until(holds: Callable[[], object]) -> None:
    """Returns when it does: what other processes do raises no event here."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


def is_there(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


@dataclass
class Site:
    """A mesh of a coordinator and one device, in folders, whose configuration is `tables`."""

    folder: Path
    tables: dict[str, Any] = field(default_factory=dict)
    device_name: str = "device-1"

    def __post_init__(self) -> None:
        self.mesh = Mesh(self.folder, begun=time.time() - 60)
        self.coordinator = enrolled(self.mesh, "coordinator")
        self.membership = enrolled(self.mesh, self.device_name)
        roster, revocations = self.mesh.issuer.lists(self.mesh.begun)
        for member in (self.coordinator, self.membership):
            member.accept(self.mesh.begun, roster=roster, revocations=revocations)
        examples = heads.examples(0)
        np.savez(self.folder / "data.npz", x=examples.x, y=examples.y)
        self.write()

    def write(self, **changes: Any) -> Path:
        """The configuration's file, with `changes` of whole tables."""
        base = {
            "tier": "lite",
            "identity": {"folder": self.device_name},
            "broker": {"host": "localhost", "port": 1},
            "state": {"folder": "state"},
            "data": {"kind": "npz", "path": "data.npz"},
            "privacy": {"required": False},
            "secure_aggregation": {"required": False},
        }
        self.path.write_text(toml.dumps({**base, **self.tables, **changes}))
        return self.path

    @property
    def path(self) -> Path:
        return self.folder / "device.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def device(self) -> Device:
        device = load(self.path)
        device.config.state.folder.mkdir(mode=0o700, exist_ok=True)
        return device

    @property
    def node_id(self) -> int:
        return node_id_of(self.membership.name)

    def charges(self) -> int:
        """What the device's ledger says was charged."""
        path = self.state / "ledgers" / f"{self.device_name}.ledger"
        return Statement(path).whole().charges if path.exists() else 0


def private_task(**changes: Any) -> Task:
    """Of a linear head with noise on the device; 8 rounds fit into its budget."""
    return heads.task(dp=heads.DP, **changes)


@dataclass
class Voice:
    """What a coordinator says and hears, with any carrier of `post` and `receive`."""

    site: Site
    carrier: Any
    heard: list[tuple[Packet, list[bytes]]] = field(default_factory=list)
    agent: Agent | None = None

    def __post_init__(self) -> None:
        membership = self.site.coordinator
        self.signet = Signet(membership.name, membership.signing_key())
        self.gate = Gate(membership.name, membership.roster.keys.get)
        self.news = asyncio.Event()
        self.listening = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        async for sender, data in self.carrier.receive():
            packet = self.gate.open(data, sender=sender, now=time.time())
            self.heard.append((packet, [bytes(part) for part in packet.parts]))
            self.news.set()

    async def say(self, body: Any, *parts: bytes, life_s: float = 120.0) -> None:
        packet = self.signet.seal(
            self.site.device_name, body.kind, now=time.time(), expires_in_s=life_s, fields=body.plain(), parts=parts
        )
        await self.carrier.post(self.site.device_name, packet, expires_in_s=life_s)

    async def hear(self, kind: str, *, skip: int = 0) -> tuple[Mapping[str, Any], list[bytes]]:
        """The next packet of a kind, which is then forgotten."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = [item for item in self.heard if item[0].kind == kind]
                if len(found) > skip:
                    self.heard.remove(found[skip])
                    return found[skip][0].fields, found[skip][1]
                self.news.clear()
                await self.news.wait()

    async def say_offer(self, task: Task, *, client: str = "lite", run: int = RUN, features: bytes = b"") -> None:
        await self.say(Offer(run, task.name, "ab" * 32, 3, client), dumps(task.to_plain()), features)

    async def offer(self, task: Task, **options: Any) -> Mapping[str, Any]:
        """The answer to the offer of a run."""
        await self.say_offer(task, **options)
        return (await self.hear("answer"))[0]

    def train(self, number: int, *, run: int = RUN) -> Message:
        """An instruction to train."""
        message = training.train_message(self.site.node_id, heads.start(), number=number, tensors=1)
        message.metadata.__dict__["_run_id"] = run
        return message

    async def instruct(
        self, message: Message, *, life_s: float = 120.0, what: str | None = None, number: int = 1
    ) -> None:
        envelope, metadata = fold(message), message.metadata
        body = Instruct(metadata.run_id, metadata.message_id, what or metadata.message_type, number)
        await self.say(body, envelope.meta, *(bytes(buffer) for buffer in envelope.buffers), life_s=life_s)

    async def reply(self) -> tuple[Reply, Message | None]:
        """The next reply, and its message where there is one."""
        fields, parts = await self.hear("reply")
        return Reply.read(fields), unfold(Envelope(parts[0], tuple(parts[1:]))) if parts else None

    async def round(self, number: int) -> tuple[Reply, Message | None]:
        await self.instruct(self.train(number), number=number)
        return await self.reply()

    async def abandon(self, *messages: str, run: int = RUN) -> None:
        await self.say(Abandon(run, messages))

    async def end(self, run: int = RUN) -> None:
        await self.say(End(run))

    async def close(self) -> None:
        self.listening.cancel()
        with suppress(asyncio.CancelledError):
            await self.listening


@asynccontextmanager
async def conversation(site: Site, **options: Any) -> AsyncIterator[tuple[Voice, Agent]]:
    """A coordinator's voice, and the device's agent that runs meanwhile, over a broker in memory, or over `broker`."""
    broker = options.pop("broker", None) or MemoryBroker()
    voice = Voice(site, broker.join("coordinator"))
    device = site.device()
    journal = DeviceJournal(site.state / JOURNAL)
    once = options.pop("once", False)
    carrier = broker.join(site.device_name)
    agent = voice.agent = Agent(device, carrier, journal, **options)
    running = asyncio.ensure_future(agent.run(once=once))
    try:
        yield voice, agent
        agent.stop()
        async with asyncio.timeout(PATIENCE_S):
            await running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        journal.close()
        await voice.close()
