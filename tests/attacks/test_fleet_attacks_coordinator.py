"""A hostile broker and hostile members against a real coordinator: nothing changes, everything is counted."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fleet_devices import COORDINATOR, Home, StandIn
from hostile import HostileBroker, Watch, changed, head_of, key_of, rebuilt
from small_runs import small_digits

from fedmesh.client.identities import device_name
from fedmesh.configuration.coordinator import TaskSection
from fedmesh.events import OfTask, RoundFinished
from fedmesh.federation import datasets
from fedmesh.fleet.plan import Plan
from fedmesh.fleet.protocol import Abandon, Answer, End, Here, Instruct, Reply, Report
from fedmesh.fleet.service import CoordinatorService
from fedmesh.identity import Name
from fedmesh.identity.packets import Signet

HONEST, MALLORY, FLOODER = 4, "device-4", "device-5"
PATIENCE_S = 600


class Hall:
    """A coordinator, four honest devices and Mallory, a member, at a broker that is Mallory's as well."""

    def __init__(self, home, scenario, **tables):
        section = TaskSection.model_validate({"scenario": "small", "round": {"deadline_s": 120.0}, **tables})
        self.home, self.plan, self.broker, self.watch = home, Plan.of(section, scenario), HostileBroker(), Watch()
        self.examples = datasets.split_as(datasets.load("digits"), scenario).devices
        self.rounds, self.tasks, self.devices, self.members = [], [], [], {}
        self.pool = ThreadPoolExecutor(1)

    async def opener(self, membership):
        return self.broker.join(membership.name.id, coordinator=True)

    def tell(self, event):
        self.watch.observer.events(event)
        fact = event.event if isinstance(event, OfTask) else event
        self.rounds += [fact] if isinstance(fact, RoundFinished) else []

    def join(self, number, kind=StandIn):
        name = device_name(number)
        device = kind(
            self.home.membership(name),
            self.broker.join(name),
            self.examples[number % HONEST],
            number % HONEST,
            HONEST,
            self.pool,
        )
        self.devices.append(device)
        self.tasks.append(asyncio.ensure_future(device.serve()))
        return device

    @asynccontextmanager
    async def serving(self):
        service = CoordinatorService(self.home.config(), [self.plan], events=self.tell, opener=self.opener, once=True)
        self.watch.observer.metrics.refusals.watch("fleet", lambda: service.refused)
        self.running = asyncio.ensure_future(service.serve())
        try:
            yield service
        finally:
            service.stop()
            await asyncio.wait([self.running], timeout=120)
            for device in self.devices:
                await device.mail.aclose()
            await asyncio.gather(*self.tasks)
            self.pool.shutdown()

    def sealed(self, writer, body, parts=(), *, called=None, key=None, **options):
        """A packet as the member `writer` writes it, perhaps under another name or key."""
        if writer not in self.members:
            self.members[writer] = self.home.membership(writer)
        member = self.members[writer]
        signet = Signet(called or member.name, key or key_of(member))
        told = {"to": COORDINATOR, "kind": body.kind, "now": time.time(), "expires_in_s": 600.0, "fields": body.plain()}
        return signet.seal(**{**told, **options}, parts=parts)


HERE = Here("full", ("vision",), True, "", 0, "test")
DAY_S = 86_400_000


def nested(depth):
    return b"\x81" * depth + b"\x80"


def forgeries(hall, run, message):
    """(name, who the broker says it is from, packet, reason) of everything that is no packet of that sender."""
    key = key_of(hall.home.membership("device-0"))
    good = hall.sealed("device-0", HERE)
    head, _, _ = head_of(good)
    now = int(time.time() * 1000)
    other = {
        "format": 2,
        "mesh": "other",
        "kind": "report",
        "from": "device-1",
        "to": "device-1",
        "id": bytes(16),
        "sent": head["sent"] + 1,
        "expires": head["expires"] + 60_000,
        "fields": {**head["fields"], "available": False},
        "parts": [1],
        "digest": bytes(32),
    }
    for field, value in other.items():
        yield f"altered {field}", "device-0", changed(good, **{field: value}), "proof"
    signed = [
        ("format", 2, "malformed"),
        ("mesh", "other", "name"),
        ("kind", "hello", "kind"),
        ("from", "device-1", "name"),
        ("to", "device-1", "name"),
        ("id", b"short", "malformed"),
        ("sent", now + 600_000, "early"),
        ("sent", -1, "malformed"),
        ("expires", now - 1, "expired"),
        ("expires", now + 2 * DAY_S, "expired"),
        ("expires", "never", "malformed"),
        ("fields", {**head["fields"], "more": 1}, "fields"),
        ("fields", {**head["fields"], "tier": "huge"}, "fields"),
        ("fields", {**head["fields"], "software": "x" * 10_000}, "fields"),
        ("fields", {**head["fields"], "clients": ["x"] * 5_000}, "fields"),
        ("fields", {**head["fields"], "model": -1}, "fields"),
        ("fields", [], "malformed"),
        ("parts", [1 << 62], "malformed"),
        ("parts", [0] * 2_000, "malformed"),
        ("digest", bytes(32), "proof"),
    ]
    for number, (field, value, reason) in enumerate(signed):
        yield f"signed {field} {number}", "device-0", changed(good, key, **{field: value}), reason
    yield (
        "signed, a field less",
        "device-0",
        rebuilt({k: v for k, v in head.items() if k != "to"}, b"", key),
        "malformed",
    )
    yield "signed, nested deeply", "device-0", rebuilt(nested(60_000), b"", key), "malformed"
    yield "signed, no CBOR", "device-0", rebuilt(b"\xff" * 100, b"", key), "malformed"
    yield "signed, more behind it", "device-0", changed(good, key) + b"more", "malformed"
    for end in (0, 1, 2, 60, len(good) - 1):
        yield f"cut off at {end}", "device-0", good[:end], "malformed"
    yield "a head as long as can be said", "device-0", b"\xff\xff" + good[2:], "malformed"
    yield "of one member in the name of another", "device-0", hall.sealed(MALLORY, HERE), "proof"
    yield (
        "of one member as another, under its own key",
        "device-0",
        changed(good, key_of(hall.home.membership(MALLORY))),
        "proof",
    )
    yield "of a stranger", "stranger", hall.sealed(MALLORY, HERE, called=Name("home", "stranger")), "name"
    yield "of the coordinator itself", COORDINATOR, hall.sealed(COORDINATOR, HERE), "name"
    yield "for another member", "device-0", hall.sealed("device-0", HERE, to="device-1"), "name"
    yield (
        "of a mesh of the same names",
        "device-0",
        hall.sealed("device-0", HERE, key=Ed25519PrivateKey.generate()),
        "proof",
    )
    sent = next(data for sender, to, data in hall.broker.heard if (sender, to) == ("device-0", COORDINATOR))
    yield "a second time", "device-0", sent, "replay"
    yield "older than what was said", "device-0", hall.sealed("device-0", HERE, now=time.time() - 30), "stale"
    yield "an answer to no offer", "device-0", hall.sealed("device-0", Answer(99, True, "")), "stale"
    yield (
        "an answer older than the last",
        "device-0",
        hall.sealed("device-0", Answer(run, False, "policy"), now=time.time() - 30),
        "stale",
    )
    yield "a reply to nothing", "device-0", hall.sealed("device-0", Reply(run, "nothing", "policy")), "unasked"
    yield "a reply in another run", "device-0", hall.sealed("device-0", Reply(run + 1, message, "policy")), "unasked"
    yield "a reply to another's message", MALLORY, hall.sealed(MALLORY, Reply(run, message, "policy")), "unasked"
    yield "an end of the run", MALLORY, hall.sealed(MALLORY, End(run)), "kind"
    yield "an instruction", MALLORY, hall.sealed(MALLORY, Instruct(run, "m", "train", 1), [b"x"]), "kind"
    yield "an abandonment", MALLORY, hall.sealed(MALLORY, Abandon(run, (message,))), "kind"
    yield (
        "a report of another word",
        MALLORY,
        hall.sealed(MALLORY, HERE, kind="report", fields=Report(1, "installed").plain() | {"outcome": "owned"}),
        "fields",
    )


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """The forgeries, thrown at a round that waits for a reply which the broker holds back; what was counted of each."""
    scenario = small_digits(
        privacy__enabled=False, client__batching="never", rounds=2, secure_aggregation__enabled=False
    )
    home = Home(tmp_path_factory.mktemp("forged"), HONEST + 2)
    asked = [device_name(number) for number in range(HONEST + 1)]
    held = []

    def hold(message):
        """A reply of device-0 in round 1 stays with the broker."""
        if message[:2] == ("device-0", COORDINATOR) and head_of(message[2])[0]["kind"] == "reply" and not held:
            held.append(message)
            return []
        return [message]

    async def scene():
        found = {}
        hall = Hall(home, scenario, devices=asked, round={"deadline_s": 600.0})
        hall.broker.meddle = hold
        async with hall.serving() as service:
            for number in range(HONEST + 1):
                hall.join(number)
            async with asyncio.timeout(PATIENCE_S):
                while not held:
                    await asyncio.sleep(0.02)
            fields = head_of(held[0][2])[0]["fields"]
            for name, sender, packet, reason in forgeries(hall, fields["run"], fields["message"]):
                before = hall.watch.refused("fleet")
                hall.broker.forge(sender, COORDINATOR, packet)
                await hall.broker.settled()
                after = hall.watch.refused("fleet")
                found[name] = reason, {k[1]: n - before.get(k, 0) for k, n in after.items() if n != before.get(k, 0)}
            assert not hall.rounds, "nothing that was forged has ended the wait"
            for number in range(5_000):  # a flood of one member, each packet good by itself
                hall.broker.forge(FLOODER, COORDINATOR, hall.sealed(FLOODER, Answer(number, True, "")))
            await hall.broker.settled()
            hall.broker.forge(*held[0])
            hall.broker.forge(*held[0])
            await asyncio.wait_for(hall.running, PATIENCE_S)
        return hall, found, service.results[hall.plan.name]

    return asyncio.run(scene())


def test_each_forgery_is_refused_for_its_reason_and_counted_once(forged):
    _, found, _ = forged
    assert len(found) > 50
    assert {name: counted for name, (reason, counted) in found.items() if counted != {reason: 1}} == {}


def test_the_federation_goes_on_with_everybody(forged):
    hall, _, result = forged
    assert [(event.round, event.survivors, event.failed) for event in hall.rounds] == [(1, 5, None), (2, 5, None)]
    assert result["failures"] == []


def test_a_flood_is_bounded_and_told_a_few_times(forged):
    hall, _, _ = forged
    refused = hall.watch.refused()
    assert refused["fleet", "limit"] > 800, "ids of one member are remembered up to a bound"
    assert refused["packet", "limit"] <= 2, "it is counted packet by packet, and told once a minute"
    assert len(hall.watch.refused("packet")) > 8
    assert refused["fleet", "replay"] >= 2, "the reply that was held back counted once"


class Mallory(StandIn):
    """Answers each round's training with what the round's number asks for."""

    last = None

    async def say(self, body, parts=()):
        if isinstance(body, Reply) and parts and self.asked[-1].what == "train":
            number = self.asked[-1].round
            if number <= len(LIES):
                body, parts = LIES[number - 1][1](self, body, list(parts))
            if number == 1:
                self.first = parts
        await super().say(body, parts)


def metadata(**values):
    """The envelope's metadata names something else than the packet."""

    def lie(self, body, parts):
        from flwr.proto.message_pb2 import Message

        proto = Message.FromString(bytes(parts[0]))
        for name, value in values.items():
            setattr(proto.metadata, name, value)
        return body, [proto.SerializeToString(), *parts[1:]]

    return lie


def update(values):
    """The envelope is right, what it holds is not: `values` of the good array's length."""

    def lie(self, body, parts):
        from fedmesh.flower.arrays import pack

        return body, [parts[0], pack(values(len(bytes(parts[1])))).data]

    return lie


def floats(value):
    def values(length):
        import numpy as np

        packet = np.zeros((length - 128) // 4, "<f4")
        packet[3:] = value
        return packet.view(np.uint8)

    return values


def of_type(kind, length=100):
    def values(_):
        import numpy as np

        return np.zeros(length, kind)

    return values


LIES = [
    ("fleet malformed", metadata(run_id=99)),
    ("fleet malformed", metadata(src_node_id=4)),
    ("fleet malformed", metadata(reply_to_message_id="another")),
    ("fleet malformed", metadata(message_type="evaluate")),
    ("fleet malformed", metadata(dst_node_id=77)),
    ("fleet malformed", lambda self, body, parts: (body, self.first)),
    ("fleet malformed", lambda self, body, parts: (body, [bytes(parts[0])[:40], *parts[1:]])),
    ("fleet malformed", lambda self, body, parts: (body, [*parts, b"one more"])),
    ("fleet malformed", lambda self, body, parts: (body, parts[:1])),
    ("fleet oversized", lambda self, body, parts: (body, [*parts, bytes(3 << 20)])),
    ("fleet fields", lambda self, body, parts: (body, [])),
    ("fleet fields", lambda self, body, parts: (Reply(body.run, body.message, "limits"), parts)),
    ("update unusable", update(of_type("float32"))),
    ("update unusable", update(of_type("uint8", 5))),
    ("update unusable", update(of_type("uint8", 400_000))),
    ("update unusable", lambda self, body, parts: (body, [parts[0], b"\x93NUMPY\x01\x00" + b"A" * 200])),
    ("update unusable", lambda self, body, parts: (body, [parts[0], b"\x80\x04cos\nsystem\n."])),
    ("update unusable", update(floats(float("nan")))),
    ("update unusable", update(floats(float("inf")))),
]


def test_what_a_member_answers_costs_that_member_the_round_and_nobody_else(tmp_path):
    scenario = small_digits(
        privacy__enabled=False,
        client__batching="never",
        rounds=len(LIES) + 1,
        secure_aggregation__enabled=False,
        delta__codec="float32",
        strategy__quorum=4,
    )
    home = Home(tmp_path, HONEST + 1)

    async def scene():
        hall = Hall(home, scenario, round={"deadline_s": 120.0, "min_devices": 5})
        async with hall.serving() as service:
            for number in range(HONEST):
                hall.join(number)
            hall.join(HONEST, Mallory)
            await asyncio.wait_for(hall.running, PATIENCE_S)
        return hall, service.results[hall.plan.name]

    hall, result = asyncio.run(scene())
    assert [event.survivors for event in hall.rounds] == [4] * len(LIES) + [5]
    assert [entry["round"] for entry in result["failures"]] == list(range(1, len(LIES) + 1))
    assert {entry["device"] for entry in result["failures"]} == {4}
    wanted = {tuple(reason.split()) for reason, _ in LIES}
    counted = {key: n for key, n in hall.watch.refused().items() if key in wanted}
    assert counted == {key: sum(reason == " ".join(key) for reason, _ in LIES) for key in wanted}
    assert result["final"]["accuracy_int8"] > 0.4
