"""Devices for tests of a coordinator: a Flower node and packets, in the test's own process, and a mesh of such."""

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshes import Mesh

from fedmesh.client.enrolling import pinned_roster
from fedmesh.client.home import SimulatedHomes
from fedmesh.client.task import Task
from fedmesh.configuration.coordinator import CoordinatorConfig
from fedmesh.errors import DeliveryError
from fedmesh.fleet.prepared import ONE_AT_A_TIME
from fedmesh.fleet.protocol import Abandon, Answer, End, Here, Instruct, Offer, Reply, node_id_of
from fedmesh.flower.envelope import Envelope, fold, unfold
from fedmesh.flower.node import Node
from fedmesh.identity import Membership
from fedmesh.identity.packets import Gate, Packet, Signet
from fedmesh.identity.servers import create_server
from fedmesh.transport.memory import MemoryBroker
from fedmesh.types import Examples
from fedmesh.wire import loads
from fedmesh_clients import vision

COORDINATOR = "coordinator"
SEED = 7


def seeded(task: Task) -> Task:
    """The task with a simulation's randomness, so that two fleets can be compared."""
    return replace(task, keyed_noise_seed=SEED)


@dataclass
class StandIn:
    """A device: answers offers and instructions as the agent does, one message at a time, and remembers nothing.

    Attributes:
        membership: the device's. mail: its transport. examples: what it trains on; partition: its number.
        trouble: is shown every instruction, and says what to do instead of answering: ``"silent"``; None: answers.
        pool: where it trains; shared by devices of one process, since Flower's idea of who we are is the process's.
    """

    membership: Membership
    mail: Any
    examples: Examples
    partition: int
    of: int
    pool: ThreadPoolExecutor
    trouble: Callable[[str, Instruct], str | None] = lambda name, body: None
    accepts: bool = True
    tier: str = "full"
    clients: tuple[str, ...] = ("vision",)
    abandoned: list[str] = field(default_factory=list)
    asked: list[Instruct] = field(default_factory=list)
    offers: list[Offer] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    nodes: dict[int, Node] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)
    greetings: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.membership.name.id
        self.signet = Signet(self.membership.name, self.membership.signing_key())
        self.gate = Gate(self.membership.name, self.membership.roster.keys.get)

    def noticed(self, peer: str, there: bool) -> None:
        if peer == COORDINATOR and there:  # perhaps another process, which knows nobody
            self.greetings.append(asyncio.ensure_future(self.here()))

    async def serve(self) -> None:
        self.mail.on_presence = self.noticed
        await self.here()
        async for sender, data in self.mail.receive():
            await self.take(self.gate.open(data, sender=sender, now=time.time()))

    async def here(self, *, available: bool = True, why: str = "") -> None:
        await self.say(Here(self.tier, self.clients, available, why, 0, "test"))

    async def say(self, body: Any, parts: Any = ()) -> None:
        data = self.signet.seal(
            COORDINATOR, body.kind, now=time.time(), expires_in_s=600, fields=body.plain(), parts=parts
        )
        self.sent.append(data)
        with suppress(DeliveryError):  # the test is over
            await self.mail.post(COORDINATOR, data, expires_in_s=600)

    async def take(self, packet: Packet) -> None:
        match packet.kind:
            case Offer.kind:
                await self.offered(Offer.read(packet.fields), packet)
            case Instruct.kind:
                await self.instructed(Instruct.read(packet.fields), packet)
            case Abandon.kind:
                self.abandoned += Abandon.read(packet.fields).messages
            case End.kind:
                self.ended.append(End.read(packet.fields).run)

    async def offered(self, offer: Offer, packet: Packet) -> None:
        self.offers.append(offer)
        if self.accepts:
            task = seeded(Task.from_plain(loads(packet.parts[0], max_bytes=1 << 20)))
            app = await self.in_pool(lambda: self.app(task))
            config = {"partition-id": self.partition, "num-partitions": self.of}
            self.nodes.setdefault(offer.run, Node(node_id_of(self.membership.name), app, config))
        await self.say(Answer(offer.run, self.accepts, "" if self.accepts else "policy"))

    def app(self, task: Task) -> Any:
        return vision.build(task, lambda _: self.examples, homes=SimulatedHomes(identities=self.membership.folder))

    async def instructed(self, body: Instruct, packet: Packet) -> None:
        self.asked.append(body)
        if self.trouble(self.name, body) == "silent":
            return
        if body.run not in self.nodes:
            await self.say(Reply(body.run, body.message, "run"))
            return
        message = unfold(Envelope(bytes(packet.parts[0]), packet.parts[1:]))
        reply = fold(await self.in_pool(lambda: self.nodes[body.run].handle(message)))
        await self.say(Reply(body.run, body.message, ""), [reply.meta, *reply.buffers])

    async def in_pool(self, work: Callable[[], Any]) -> Any:
        def alone() -> Any:
            with ONE_AT_A_TIME:  # a device of its own has a process of its own
                return work()

        return await asyncio.get_running_loop().run_in_executor(self.pool, alone)


class Home:
    """A mesh in a folder: a coordinator, and devices ``device-0`` on; nothing runs yet."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.mesh = Mesh(folder, begun=time.time())
        self.folder = folder
        self.names = tuple(f"device-{number}" for number in range(devices))
        for name in self.names:
            self.mesh.enrol(name)
        create_server(self.mesh.issuer, COORDINATOR, ["localhost"], folder / COORDINATOR, time.time())
        self.spread()

    def spread(self) -> None:
        """Everybody takes over the authority's present lists."""
        roster, revocations = self.mesh.issuer.lists(time.time())
        for name in (COORDINATOR, *self.names):
            member = self.membership(name)
            member.accept(time.time(), roster=roster, revocations=revocations)
            (member.folder / "roster.cbor").write_bytes(pinned_roster(member).to_bytes())  # as a client app wants it

    def membership(self, name: str) -> Membership:
        return Membership(self.folder / name)

    def config(self, *, port: int = 8883, **tables: Any) -> CoordinatorConfig:
        given = {
            "identity": {"folder": str(self.folder / COORDINATOR)},
            "broker": {"host": "localhost", "port": port},
            "data": {"folder": str(self.folder / "data")},
            "task": [{"scenario": "small"}],
        }
        return CoordinatorConfig.parse({**given, **tables}, source="test")


def memory_broker() -> MemoryBroker:
    """One that does no harm."""
    return MemoryBroker(chance=random.Random(1))
