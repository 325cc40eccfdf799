"""A real Mosquitto, a real coordinator and a real device's agent, and members and strangers who attack them there."""

import asyncio
import socket
import ssl
import time
from contextlib import asynccontextmanager

import heads
import numpy as np
import pytest
from device_fleet import until
from hostile import Watch, key_of
from mqtt_fleet import SmallCa, require_mosquitto
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTProtocolVersion
from small_runs import small_digits

from fedmesh.cli import toml
from fedmesh.configuration.coordinator import CoordinatorConfig, TaskSection
from fedmesh.errors import DeliveryError
from fedmesh.fleet import device as fleet_device
from fedmesh.fleet.plan import Plan
from fedmesh.fleet.protocol import Abandon, Here, Reply
from fedmesh.fleet.service import CoordinatorService
from fedmesh.identity.packets import Signet
from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Ident, Whole, encode
from fedmesh.transport.mqtt import MqttTransport
from fedmesh.transport.parcels import pack

require_mosquitto()
HERE = Here("full", ("vision",), True, "", 0, "test")
MEMBERS = ("coordinator", "rogue", "pi-1", "mallory", "absent", "honest")


@pytest.fixture
def mesh(tmp_path):
    with LoopbackFleet(tmp_path, coordinators=("coordinator", "rogue")) as mesh:
        for name in MEMBERS:
            mesh.membership(name)
        mesh.spread()
        examples = heads.examples(0)
        np.savez(tmp_path / "data.npz", x=examples.x, y=examples.y)
        tables = {
            "tier": "lite",
            "coordinators": ["coordinator", "rogue"],
            "identity": {"folder": "pi-1"},
            "broker": {"host": "localhost", "port": mesh.broker.port},
            "state": {"folder": "state"},
            "data": {"kind": "npz", "path": "data.npz"},
        }
        (tmp_path / "device.toml").write_text(toml.dumps(tables))
        yield mesh


class Scene:
    """The coordinator's service and the device's agent, each with its metrics."""

    def __init__(self, mesh):
        self.mesh, self.server, self.client = mesh, Watch(), Watch()
        self.agent = self.mail = None
        scenario = small_digits(privacy__enabled=False, rounds=1)
        tables = {
            "identity": {"folder": str(mesh.folder / "coordinator")},
            "broker": {"host": "localhost", "port": mesh.broker.port},
            "data": {"folder": str(mesh.folder / "data")},
            "task": [{"scenario": "small"}],
        }
        config = CoordinatorConfig.parse(tables, source="test")
        plan = Plan.of(TaskSection.model_validate({"scenario": "small"}), scenario)
        self.service = CoordinatorService(config, [plan], events=self.server.observer.events, opener=self.opened)
        self.server.observer.metrics.refusals.watch("fleet", lambda: self.service.refused)

    async def opened(self, membership):
        self.mail = await MqttTransport.open(self.mesh.options("coordinator"))
        self.server.observer.metrics.refusals.watch("transport", lambda: self.mail.counts)
        return self.mail

    async def seized(self, agent):
        refusals = self.client.observer.metrics.refusals
        refusals.watch("fleet", lambda: agent.office.refused)
        refusals.watch("transport", lambda: agent.carrier.counts)
        self.agent = agent
        await asyncio.Event().wait()

    def told(self):
        """What both have counted; no second coordinator, and a busy machine's repetitions, are nobody's attack."""
        nobodys = {"no_subscribers", "duplicate", "answer_late"}
        counted = self.server.refused(), self.client.refused()
        return [{key: n for key, n in one.items() if key[1] not in nobodys} for one in counted]

    def there(self, name):
        with self.service.switchboard.roll() as roll:
            return roll.is_there(name, time.time())

    @asynccontextmanager
    async def playing(self):
        serving = asyncio.ensure_future(self.service.serve())
        device = fleet_device.load(self.mesh.folder / "device.toml")
        running = asyncio.ensure_future(
            fleet_device.run(device, beside=(self.seized,), events=self.client.observer.events)
        )
        try:
            await until(lambda: self.service.switchboard is not None and self.there("pi-1") and self.agent is not None)
            yield
        finally:
            self.service.stop()
            if self.agent is not None:
                self.agent.stop()
            await asyncio.wait([serving, running], timeout=120)
            await asyncio.gather(serving, running)


def attacker(mesh, name, *, client_id=None, heard=None):
    """paho with the certificate of `name`, bound by nothing."""
    options = mesh.options(name)
    client = Client(CallbackAPIVersion.VERSION2, client_id or f"{name}-again", protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set(str(options.ca), str(options.certificate), str(options.key))
    if heard is not None:
        client.on_message = lambda _client, _data, message: heard.append(message.topic)
    client.connect(options.host, options.port)
    client.loop_start()
    return client


def framed(packet, number):
    """A packet as one parcel of the transport."""
    content = Content.of(packet, 1 << 18)
    return pack([encode(Whole(Ident(1, number), 1, int(time.time() * 1000) + 600_000, content.digest, packet))])


def sealed(mesh, writer, body, to="coordinator", **options):
    member = mesh.membership(writer)
    told = {"now": time.time(), "expires_in_s": 600.0, "fields": body.plain()}
    return Signet(member.name, key_of(member)).seal(to, body.kind, **{**told, **options})


def test_members_that_lie_at_the_broker_reach_nobody_or_are_refused(mesh):
    async def main():
        scene, heard = Scene(mesh), []
        async with scene.playing():
            lost = scene.agent.carrier.counts["connection_lost"]
            thief = attacker(mesh, "mallory", client_id="pi-1", heard=heard)
            await until(thief.is_connected)
            thief.subscribe([("#", 1), ("fm/up/+/#", 1), ("fm/down/pi-1/#", 1)])
            forged = framed(sealed(mesh, "mallory", HERE), 1)
            for topic in ("fm/up/pi-1/msg/coordinator", "fm/down/pi-1/msg/coordinator", "fm/all/coordinator/presence"):
                thief.publish(topic, forged, qos=1, retain=True)
            before = scene.told()
            await scene.agent.report("coordinator", 1, "installed")  # goes through, behind what was forged
            await asyncio.sleep(0.5)
            assert scene.told() == before, "its access rules let none of it through"
            assert {topic.split("/")[1] for topic in heard} <= {"all"}, "and it reads nothing that is not for all"
            assert scene.agent.carrier.counts["connection_lost"] == lost, "a stolen client id evicts nobody"
            own = "fm/up/mallory/msg/coordinator"
            for number, (packet, part, reason) in enumerate(
                [
                    (sealed(mesh, "pi-1", HERE), "fleet", "proof"),
                    (sealed(mesh, "mallory", HERE, to="pi-1"), "fleet", "name"),
                    (sealed(mesh, "mallory", Reply(1, "m", "policy")), "fleet", "unasked"),
                    (sealed(mesh, "mallory", Abandon(1, ("m",))), "fleet", "kind"),
                    (b"", "fleet", "malformed"),
                ]
            ):
                count = scene.server.count(part, reason)
                thief.publish(own, framed(packet, number + 1), qos=1)
                await until(lambda part=part, reason=reason, count=count: scene.server.count(part, reason) == count + 1)
            thief.publish(own, b"\xff" * 300, qos=1)
            await until(lambda: scene.server.count("transport", "malformed") == 1)
            thief.loop_stop()
            assert scene.there("pi-1")

    asyncio.run(main())


def test_nobody_gets_in_without_a_certificate_of_the_mesh(mesh, tmp_path):
    other = SmallCa(tmp_path / "elsewhere")
    pair = other.issue("pi-1")
    stranger = ssl.create_default_context(cafile=mesh.path)
    stranger.load_cert_chain(*pair)

    def knock(context):
        with (
            socket.create_connection(("127.0.0.1", mesh.broker.port), timeout=120) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as client,
        ):
            client.sendall(bytes.fromhex("101000044d5154540502003c000000036d6f65"))
            if not client.recv(100):
                raise ConnectionError("closed")

    for context in (ssl.create_default_context(cafile=mesh.path), stranger):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            knock(context)


def test_who_is_revoked_is_cut_off_on_both_sides_by_one_list_while_its_session_lives(mesh):
    async def main():
        scene = Scene(mesh)
        async with (
            scene.playing(),
            await MqttTransport.open(mesh.options("mallory")) as mallory,
            await MqttTransport.open(mesh.options("rogue")) as rogue,
            await MqttTransport.open(mesh.options("honest")) as honest,
        ):
            await mallory.send("coordinator", sealed(mesh, "mallory", HERE), expires_in_s=60)
            await rogue.send("pi-1", sealed(mesh, "rogue", Abandon(1, ()), to="pi-1"), expires_in_s=60)
            async with await MqttTransport.open(mesh.options("absent"), wait_s=60):
                pass  # its session stays at the broker
            waiting = await scene.mail.post("absent", b"what waits for it", expires_in_s=60)
            for name in ("mallory", "rogue", "absent"):
                mesh.issuer.revoke(name, time.time())
            service, switchboard = scene.service, scene.service.switchboard
            switchboard.take("mallory", sealed(mesh, "mallory", HERE))
            assert scene.there("mallory"), "nobody here knows it yet"
            assert scene.server.count("fleet", "name") == 0
            roster, revocations = mesh.issuer.lists(time.time())
            service.membership.accept(time.time(), revocations=revocations)
            switchboard.take("mallory", sealed(mesh, "mallory", HERE))
            assert scene.server.count("fleet", "name") == 1, "its key is good no more, whatever follows the list later"
            service.membership.accept(time.time(), roster=roster)
            service._housekeeping.take_over_roster()
            await service._housekeeping._announce()
            assert not scene.there("mallory")
            with pytest.raises(DeliveryError, match="absent is shunned"):
                await waiting.delivered()
            device = scene.agent.device.membership
            version = service.membership.revocations.header.version
            await until(lambda: device.revocations.header.version == version)
            assert scene.agent.office.opened("rogue", sealed(mesh, "rogue", Abandon(1, ()), to="pi-1")) is None
            assert scene.client.count("fleet", "name") == 1
            assert mallory.link.is_connected, "the session lives: the broker reads its list when it is told to"
            before = scene.told()
            sent = [
                asyncio.ensure_future(mallory.send("coordinator", sealed(mesh, "mallory", HERE))),
                asyncio.ensure_future(rogue.send("pi-1", sealed(mesh, "rogue", Abandon(1, ()), to="pi-1"))),
            ]
            shunned = ("transport", "shunned")
            await until(
                lambda: all(
                    then.get(shunned, 0) > seen.get(shunned, 0) for seen, then in zip(before, scene.told(), strict=True)
                )
            )
            assert not any(each.done() for each in sent), "nobody says that it has arrived"
            with pytest.raises(DeliveryError, match="shunned"):
                await scene.mail.send("mallory", b"secret")
            for seen, then in zip(before, scene.told(), strict=True):
                changes = {key: n - seen.get(key, 0) for key, n in then.items() if n != seen.get(key, 0)}
                assert changes.keys() == {shunned}, "and nothing of it got any further"
            for each in sent:
                each.cancel()
            async with await MqttTransport.open(mesh.options("absent"), wait_s=60) as late:
                with pytest.raises(DeliveryError):
                    await late.send("coordinator", sealed(mesh, "absent", HERE), expires_in_s=1.5)
            assert not scene.there("absent")
            await honest.send("coordinator", sealed(mesh, "honest", HERE), expires_in_s=60)
            await until(lambda: scene.there("honest"))
            assert scene.there("pi-1")

    asyncio.run(main())


def test_a_flood_of_one_member_keeps_nobody_else_waiting(mesh):
    async def main():
        scene = Scene(mesh)
        async with (
            scene.playing(),
            await MqttTransport.open(mesh.options("mallory")) as mallory,
            await MqttTransport.open(mesh.options("honest")) as honest,
        ):
            member = mesh.membership("mallory")
            signet = Signet(member.name, key_of(member))

            async def flooding():
                while True:
                    packet = signet.seal(
                        "coordinator", "here", now=time.time(), expires_in_s=60, fields={**HERE.plain(), "more": 1}
                    )
                    await mallory.post("coordinator", packet, expires_in_s=60)

            floods = [asyncio.ensure_future(flooding()) for _ in range(4)]
            await until(lambda: scene.server.count("fleet", "fields") > 500)
            for _ in range(3):
                await honest.send("coordinator", sealed(mesh, "honest", HERE), expires_in_s=60)
            assert scene.server.count("packet", "fields") <= 2, "a flood is told once a minute"
            for flood in floods:
                flood.cancel()
            await until(lambda: scene.there("honest"))

    asyncio.run(main())
