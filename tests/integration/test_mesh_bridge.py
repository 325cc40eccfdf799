"""A mesh and a fleet with a real broker, and one member that is in both: what is signed crosses, and nothing else."""

import asyncio
import functools
import hashlib
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import pytest
from mesh_nodes import Nodes, until
from model_delivery import COORDINATOR, Shop, model
from mqtt_fleet import require_mosquitto

from fedmesh.errors import DeliveryError
from fedmesh.events import ListAccepted
from fedmesh.fleet.list_exchange import ListExchange
from fedmesh.identity.lists import MAX_LIST_BYTES
from fedmesh.mesh.swarm import Published, Swarm
from fedmesh.peer.exchange import Exchange
from fedmesh.registry.pointer import Pointer
from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.transport.list_gossip import VERSION
from fedmesh.transport.mqtt import MqttTransport
from fedmesh.transport.peers import PeerTransport
from fedmesh.wire import dumps, loads

require_mosquitto()
NAMES = ("gate", "anna", "bert")
DEVICE, LIAR = "pi-1", "mallory"
TAKES = '[registry]\ntrusted_root = "root.json"\n'


class World:
    """gate is in the mesh and a device of the fleet; the other `NAMES` are in the mesh alone, pi-1 in the fleet."""

    def __init__(self, folder):
        self.fleet = LoopbackFleet(folder)
        for name in (COORDINATOR, DEVICE, LIAR):
            self.fleet.membership(name)
        mesh = SimpleNamespace(enrol=self.fleet.membership, issuer=self.fleet.issuer)
        self.nodes = Nodes(folder, *NAMES, mesh=mesh)
        self.fleet.spread()
        self.shop = Shop(self.fleet)
        self.accepted = []
        self.bridge = f'[bridge]\nhost = "localhost"\nport = {self.fleet.broker.port}\n'

    async def accept(self):
        self.accepted.append(1)
        await self.shop.lists.publish()

    @asynccontextmanager
    async def coordinator(self):
        """Delivers, announces lists, and hears of newer ones."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.shop)
            pending = set()

            def accepted():
                pending.add(asyncio.ensure_future(self.accept()))

            membership = self.fleet.membership(COORDINATOR)
            self.exchange = ListExchange(membership, self.shop.transport, accepted=accepted)
            serving = asyncio.create_task(self.exchange.serve())
            try:
                yield
            finally:
                serving.cancel()
                await asyncio.gather(serving, *pending, return_exceptions=True)

    async def enter(self, *names):
        for name in names:
            more = TAKES + (self.bridge if name == "gate" else "")
            await self.nodes.enter(name, more=more, probe=lambda _path, _manifest: None)
        await until(lambda: all(self.view(name) == dict.fromkeys(names, "alive") for name in names))

    def view(self, name):
        return self.nodes.view(name)

    def runs(self, name):
        path = self.nodes.nodes[name].offering.part.current
        return None if path is None else path.read_bytes()

    def device(self, name=DEVICE):
        return MqttTransport.open(self.fleet.options(name), wait_s=30)

    def revoke(self, name):
        """The authority's lists, which nobody has yet."""
        self.fleet.issuer.revoke(name, time.time())
        return self.fleet.issuer.lists(time.time())


def scene(test):
    @functools.wraps(test)
    def run(tmp_path):
        async def main():
            world = World(tmp_path)
            try:
                async with asyncio.timeout(120), world.nodes:
                    await test(world)
            finally:
                world.fleet.close()

        asyncio.run(main())

    del run.__wrapped__  # pytest looks for `world` else
    return run


@scene
async def test_a_coordinators_models_reach_members_that_have_no_broker(world):
    async with world.coordinator():
        await world.enter(*NAMES)
        for seed in (1, 2):
            path = model(world.nodes.folder / f"{seed}.onnx", seed)
            version = await world.shop.deliver(path)
            want = path.read_bytes()
            await until(lambda want=want: all(world.runs(name) == want for name in NAMES), 60.0)
            await until(lambda version=version: world.nodes.nodes["anna"].offering.model == str(version))
        assert world.nodes.nodes["gate"].status["bridge"] == {COORDINATOR: True}
        for name in ("anna", "bert"):
            assert world.nodes.nodes[name].status["bridge"] is None
            assert not world.nodes.nodes[name].offering.part.refused


@scene
async def test_a_list_that_somebody_has_in_the_mesh_reaches_the_coordinator(world):
    async with world.coordinator(), await world.device() as device:
        await world.enter(*NAMES)
        await device.channel("fleet").send(COORDINATOR, b"before")
        _, revocations = world.revoke(DEVICE)
        (world.nodes.folder / "bert" / "revocations.signed").write_bytes(revocations)  # as fedmesh ca lists makes it
        await until(lambda: world.accepted)
        assert world.fleet.membership(COORDINATOR).signed_lists()["revocations"] == revocations
        with pytest.raises(DeliveryError):
            await device.channel("fleet").send(COORDINATOR, b"after", expires_in_s=1.0)
        assert world.shop.transport.counts["shunned"]
        told = [event for event in world.nodes.events["gate"] if isinstance(event, ListAccepted)]
        assert [(event.kind, event.source) for event in told] == [("revocations", "neighbour")]


@scene
async def test_a_list_that_the_coordinator_has_cuts_off_members(world):
    async with world.coordinator():
        await world.enter(*NAMES)
        roster, revocations = world.revoke("bert")
        world.fleet.membership(COORDINATOR).accept(time.time(), roster=roster, revocations=revocations)
        left = dict.fromkeys(("gate", "anna"), "alive")
        await until(lambda: world.view("gate") == world.view("anna") == left, 60.0)
        await until(lambda: not world.nodes.nodes["bert"].transport.links)


@scene
async def test_a_bridge_that_lies_is_not_believed(world):
    """It is a device with a certificate, and says of lists whatever it likes."""
    async with world.coordinator(), await world.device("gate") as liar:
        membership = world.fleet.membership(COORDINATOR)
        before = membership.signed_lists()
        forged = bytearray(before["revocations"])
        forged[-1] ^= 1
        channel = liar.channel("lists")

        async def say(*what):
            await channel.send(COORDINATOR, dumps([VERSION, *what]), expires_in_s=30)

        heard = channel.receive()
        newest = [1 << 40, 1 << 40, hashlib.sha256(bytes(forged)).digest()]
        await say(2, "revocations", bytes(forged))  # nobody has asked
        await until(lambda: world.exchange.counts["unasked"] == 1)
        await say(0, newest, newest)
        wanted = [1]
        while wanted[1:2] != [1]:  # it tells what it has, and asks for what is newer
            _, data = await anext(heard)
            wanted = loads(data, max_bytes=MAX_LIST_BYTES)
        await say(2, wanted[2], bytes(forged))
        await until(lambda: sum(world.exchange.counts.values()) == 2)
        await say(0, newest, newest)
        await until(lambda: world.exchange.counts["banned"] == 1)
        assert membership.signed_lists() == before
        assert not world.accepted


@scene
async def test_a_bridge_that_lies_in_the_mesh_is_banned_there(world):
    """It announces more than there is, and gives what it altered; the others have an honest bridge too."""
    repository = world.shop.repository

    def altered(name, most):
        data = repository.read(name, most)
        return data if name.endswith("root.json") else bytes([*data[:-10], data[-10] ^ 1, *data[-9:]])

    async with world.coordinator():
        path = model(world.nodes.folder / "1.onnx", 1)
        await world.shop.deliver(path)
        await world.nodes.enter("gate", more=TAKES)  # not a bridge yet: who lies is heard first
        await world.nodes.enter("anna", more=TAKES, probe=lambda _path, _manifest: None)
        newest = Pointer.of(1 << 20, b"", 9).encode()
        lies = Published(altered, lambda: newest, lambda: [one.manifest for one in repository.versions()])
        address = world.nodes.nodes["anna"].transport.listening
        async with await PeerTransport.open(world.fleet.membership(LIAR), lambda _: address) as transport:
            exchange = Exchange(Swarm(lies, rng=random.Random(1), origin=True), transport.channel("swarm"))
            serving = asyncio.create_task(exchange.receive())
            await transport.connect("anna", wait_s=30)
            exchange.connected("anna")
            anna = world.nodes.nodes["anna"].offering.part
            await until(lambda: anna.exchange.swarm.neighbours.is_banned(LIAR, anna.exchange.now), 60.0)
            assert world.runs("anna") is None
            await world.nodes.leave("gate")
            await world.nodes.enter("gate", more=TAKES + world.bridge, probe=lambda _path, _manifest: None)
            await until(lambda: world.runs("anna") == path.read_bytes(), 60.0)
            assert anna.exchange.swarm.counts["metadata"] == 1
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await exchange.aclose()


@scene
async def test_a_coordinator_or_broker_that_lies_is_not_believed_either(world):
    """A model that was altered on its way is not installed, and not passed on."""
    honest = world.shop.read

    def altered(name, *, max_bytes):
        data = honest(name, max_bytes=max_bytes)
        return bytes([*data[:-1], data[-1] ^ 1]) if name.startswith("chunks/") else data

    world.shop.read = altered
    async with world.coordinator():
        await world.enter(*NAMES)
        await world.shop.deliver(model(world.nodes.folder / "1.onnx", 1))
        swarm = world.nodes.nodes["gate"].offering.part.exchange.swarm
        await until(lambda: swarm.counts["chunk"] == 1, 60.0)
        assert not any(world.runs(name) for name in NAMES)
        assert swarm.neighbours.is_banned(COORDINATOR, world.nodes.nodes["gate"].offering.part.exchange.now)


@scene
async def test_without_a_coordinator_the_mesh_is_as_it_was(world):
    world.fleet.broker.kill()
    await world.enter(*NAMES)
    assert world.nodes.nodes["gate"].status["bridge"] == {COORDINATOR: False}
