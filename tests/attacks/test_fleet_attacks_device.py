"""Packets, offers, replays and floods of a hostile broker or coordinator at a real agent: refused, unpaid, counted."""

import asyncio
import time
from dataclasses import replace

import heads
import pytest
from attacked_devices import OTHER, attacked, conversing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from device_fleet import RUN, private_task
from hostile import HostileBroker, Watch, changed, head_of, key_of, rebuilt

from fedmesh.client.journal import MAX_MESSAGES
from fedmesh.fleet.protocol import Abandon, End, Instruct, Offer
from fedmesh.identity import Name
from fedmesh.identity.packets import Signet
from fedmesh.wire import dumps


@pytest.fixture
def site(tmp_path):
    return attacked(tmp_path)


def watching(watch, agent):
    watch.observer.metrics.refusals.watch("fleet", lambda: agent.office.refused)


def packet(site, body, parts=(), *, writer=None, called=None, key=None, **options):
    member = writer or site.coordinator
    told = {"to": site.device_name, "kind": body.kind, "now": time.time(), "expires_in_s": 60.0, "fields": body.plain()}
    return Signet(called or member.name, key or key_of(member)).seal(**{**told, **options}, parts=parts)


def offer_of(task, run=RUN, client="lite"):
    return Offer(run, task.name, "ab" * 32, 3, client), [dumps(task.to_plain()), b""]


def forgeries(site):
    """(name, who the broker says it is from, packet, reason)."""
    key = key_of(site.coordinator)
    body, parts = offer_of(private_task())
    good = packet(site, body, parts)
    head, _, _ = head_of(good)
    for field, value in {
        "format": 2,
        "mesh": "other",
        "kind": "end",
        "from": OTHER,
        "to": OTHER,
        "id": bytes(16),
        "sent": head["sent"] + 1,
        "expires": head["expires"] + 1,
        "fields": head["fields"] | {"run": 8},
        "parts": head["parts"][::-1],
        "digest": bytes(32),
    }.items():
        yield f"altered {field}", "coordinator", changed(good, **{field: value}), "proof"
    yield "other parts", "coordinator", good[:-20] + bytes(20), "proof"
    yield "cut off", "coordinator", good[:-1], "malformed"
    yield "cut off in its head", "coordinator", good[:40], "malformed"
    yield "nested deeply", "coordinator", rebuilt(b"\x81" * 60_000 + b"\x80", b"", key), "malformed"
    yield "of a member that is no coordinator", OTHER, packet(site, body, parts, writer=site.other), "name"
    yield (
        "of a member in the coordinator's name",
        "coordinator",
        packet(site, body, parts, writer=site.other, called=site.coordinator.name),
        "proof",
    )
    yield "of the device itself", site.device_name, packet(site, body, parts, writer=site.membership), "name"
    yield "of a stranger", "stranger", packet(site, body, parts, called=Name("home", "stranger")), "name"
    yield "for another", "coordinator", packet(site, body, parts, to=OTHER), "name"
    yield (
        "under a key of another mesh",
        "coordinator",
        packet(site, body, parts, key=Ed25519PrivateKey.generate()),
        "proof",
    )
    yield "expired", "coordinator", packet(site, body, parts, now=time.time() - 120), "expired"
    yield "from the future", "coordinator", packet(site, body, parts, now=time.time() + 600), "early"
    yield (
        "an instruction of a device",
        OTHER,
        packet(site, Instruct(RUN, "m", "train", 1), [b"x"], writer=site.other),
        "name",
    )
    yield "an end from a stranger", OTHER, packet(site, End(RUN), writer=site.other), "name"
    yield "a kind that a device does not take", "coordinator", packet(site, body, parts, kind="here"), "malformed"
    yield "other fields", "coordinator", changed(good, key, fields={"run": 1}), "malformed"
    yield (
        "too many messages to abandon",
        "coordinator",
        changed(good, key, kind="abandon", fields={"run": RUN, "messages": ["m"] * 300}),
        "malformed",
    )
    yield "an offer without a task", "coordinator", packet(site, body, [b"\xff", b""]), "malformed"
    yield "an offer without parts", "coordinator", packet(site, body, []), "malformed"


def test_each_forgery_is_refused_and_counted_and_the_honest_offer_is_taken(site):
    watch, broker_found = Watch(), {}

    async def main():
        broker = HostileBroker()
        async with conversing(site, watch, broker) as (voice, agent):
            watching(watch, agent)
            for name, sender, data, reason in forgeries(site):
                before = watch.refused("fleet")
                broker.forge(sender, site.device_name, data)
                await broker.settled()
                after = watch.refused("fleet")
                counted = {key[1]: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0)}
                broker_found[name] = reason, counted
            assert not agent._works
            for _ in ("without a task", "without parts"):
                assert not (await voice.hear("answer"))[0]["accepted"]
            assert (await voice.offer(private_task()))["accepted"]
            offered = next(
                data for sender, to, data in broker.heard if (sender, to) == ("coordinator", site.device_name)
            )
            broker.forge("coordinator", site.device_name, offered)
            await broker.settled()
            broker.forge(OTHER, site.device_name, packet(site, End(RUN), writer=site.other))
            await broker.settled()
            assert watch.count("fleet", "replay") == 1
            assert RUN in agent._works, "nobody but its coordinator ends a run"

    asyncio.run(main())
    assert {name: counted for name, (reason, counted) in broker_found.items() if counted != {reason: 1}} == {}
    assert site.charges() == 0
    assert 0 < watch.count("packet", "proof") <= 2, "told once a minute, counted each time"


DP = heads.DP
DOWNGRADES = {
    "no privacy": ({"dp": None}, "policy"),
    "less noise than the device's": ({"dp": replace(DP, noise_multiplier=0.01)}, "policy"),
    "more epsilon than a task may ask for": ({"dp": replace(DP, epsilon=9.0)}, "budget"),
    "a larger delta than the device's": ({"dp": replace(DP, delta=0.1)}, "budget"),
    "another mode": ({"mode": "shared"}, "policy"),
    "noise that only the sum completes, without the sum": ({"mode": "open sum"}, "policy"),
    "error feedback past the clip": ({"error_feedback": True}, "policy"),
    "weights that tell how many examples": ({"weighting": "examples"}, "policy"),
    "huge work": ({"dp": replace(DP, steps=10**9)}, "limits"),
    "a task that is not listed": ({"name": "other"}, "policy"),
    "a task with the name of a ledger's line": ({"name": "head/1"}, "policy"),
    "a model that is not installed": ({"model": "os.system"}, "client"),
    "a client app that is not installed": ({"client": "os:system"}, "client"),
    "a client app that is not allowed": ({"client": "vision"}, "client"),
    "text for a number": ({"plain": {"batch_size": "many"}}, "policy"),
    "no number": ({"plain": {"learning_rate": float("nan")}}, "policy"),
    "a list for a name": ({"plain": {"name": ["head"]}}, "policy"),
    "ranges that are none": ({"plain": {"ranges": [1]}}, "policy"),
    "privacy that is none": ({"plain": {"dp": 7}}, "policy"),
    "keys that there are not": ({"plain": {"command": "rm"}}, "policy"),
}


@pytest.mark.parametrize("name", DOWNGRADES)
def test_a_downgraded_task_is_declined_and_nothing_is_charged(site, name):
    changes, why = DOWNGRADES[name]
    changes, watch = dict(changes), Watch()
    site.write(
        privacy={"required": True, "modes": ["local", "client"], "min_noise_multiplier": 1.0, "max_task_epsilon": 8.0},
    )
    site.path.write_text('tasks = ["head", "head/1"]\n' + site.path.read_text())
    client, plain = changes.pop("client", "lite"), changes.pop("plain", {})
    match changes.pop("mode", ""):
        case "shared":
            task = heads.summed_task("example")
        case "open sum":
            task = replace(heads.summed_task("client"), secure_aggregation=False)
        case _:
            task = replace(private_task(), **changes)

    async def main():
        async with conversing(site, watch) as (voice, agent):
            body = Offer(RUN, "head", "ab" * 32, 3, client)
            await voice.say(body, dumps(task.to_plain() | plain), b"")
            assert (await voice.hear("answer"))[0] == {"run": RUN, "accepted": False, "why": why}
            reply, _ = await voice.round(1)
            assert reply.error == "run", "who has declined a run does nothing of it"
            assert not agent._works
            assert (await voice.offer(private_task(), run=8))["accepted"], "the honest offer beside it is taken"

    asyncio.run(main())
    assert watch.count("offer", why) == 1
    assert watch.count("instruction", "run") == 1
    assert site.charges() == 0


def test_a_task_outside_of_secure_aggregation_is_declined_where_the_device_insists(site):
    watch = Watch()
    site.write(privacy={"required": False}, secure_aggregation={"required": True})

    async def main():
        async with conversing(site, watch) as (voice, _):
            assert (await voice.offer(private_task()))["why"] == "policy"

    asyncio.run(main())
    assert watch.count("offer", "policy") == 1


def test_replays_after_a_restart_are_answered_by_the_journal_and_paid_once(site):
    """The gate forgets what it has seen with its process; the journal does not."""
    watch, broker = Watch(), []

    async def first():
        made = HostileBroker()
        broker.append(made)
        async with conversing(site, watch, made) as (voice, _):
            assert (await voice.offer(private_task()))["accepted"]
            _, answer = await voice.round(1)
            assert not answer.has_error()
        return [data for sender, to, data in made.heard if to == site.device_name]

    async def second(old):
        made = HostileBroker()
        async with conversing(site, watch, made) as (voice, _):
            for data in old * 2:
                made.forge("coordinator", site.device_name, data)
            fields, _ = await voice.hear("reply")
            assert fields["error"] == ""
            await made.settled()
            assert site.charges() == 1
            watching(watch, voice.agent)
            assert watch.count("fleet", "replay") == len(old)

    asyncio.run(second(asyncio.run(first())))
    assert site.charges() == 1


def test_a_coordinator_cannot_fill_the_devices_disk_or_time(site):
    watch = Watch()

    async def main():
        async with conversing(site, watch) as (voice, agent):
            watching(watch, agent)
            for run in range(1, 12):
                answer = await voice.offer(private_task(name=f"t{run}"), run=run)
                assert answer["accepted"] is (run <= 8), answer
            gate = asyncio.Event()

            async def held():
                await gate.wait()
                return "battery"

            agent._readiness.why_not = held  # nothing is begun

            async def read():
                """Returns when the device has read what was said: it answers in order, and refuses a run it has not."""
                await voice.say(Instruct(99, "last", "train", 1), b"x")
                assert (await voice.reply())[0].error == "run"

            for number in range(MAX_MESSAGES + 10):
                await voice.say(Instruct(1, f"m{number}", "train", 1), b"x")
            await read()
            assert len(agent._journal.outstanding(1)) == MAX_MESSAGES
            for number in range(MAX_MESSAGES + 10):
                await voice.say(Abandon(1, (f"m{number}",)))
            await read()
            assert agent._journal.outstanding(1) == []
            gate.set()

    asyncio.run(main())
    assert watch.count("offer", "busy") == 3
    assert watch.count("fleet", "malformed") == 10
    assert site.charges() == 0
