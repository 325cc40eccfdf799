"""A coordinator that a device listens to, and that turns: it is answered a few times, and not at all once revoked."""

import asyncio
import time

import pytest
from device_fleet import RUN, Site, conversation, enrolled, private_task, until
from hostile import HostileBroker, Watch, key_of

from fedmesh.fleet.protocol import End, Instruct, Offer
from fedmesh.identity.packets import Signet
from fedmesh.wire import dumps

ROGUE = "device-2"
FLOOD, ANSWERED = 1_500, 64
"""More than a transport holds for one peer; what a device answers a coordinator out of hand within a minute."""


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    made.rogue = enrolled(made.mesh, ROGUE)
    roster, revocations = made.mesh.issuer.lists(made.mesh.begun)
    for member in (made.coordinator, made.membership, made.rogue):
        member.accept(made.mesh.begun, roster=roster, revocations=revocations)
    made.write(coordinators=["coordinator", ROGUE])
    return made


def sealed(site, body, *parts):
    """Of the rogue, which takes nothing that it is sent."""
    signet = Signet(site.rogue.name, key_of(site.rogue))
    told = {"now": time.time(), "expires_in_s": 3_600.0, "fields": body.plain()}
    return signet.seal(site.device_name, body.kind, **told, parts=parts)


@pytest.mark.parametrize("what", ["instructions in a run that there is not", "offers that are declined"])
def test_a_flood_is_answered_a_few_times_and_the_honest_coordinator_at_once(site, what):
    watch, declined = Watch(), dumps(private_task().to_plain())

    async def main():
        broker = HostileBroker()
        async with conversation(site, broker=broker, events=watch.observer.events) as (voice, agent):
            watch.observer.metrics.refusals.watch("fleet", lambda: agent.office.refused)
            for number in range(FLOOD):
                if what.startswith("offers"):
                    packet = sealed(site, Offer(number, "head", "ab" * 32, 3, "none"), declined, b"")
                else:
                    packet = sealed(site, Instruct(99, f"m{number}", "train", 1), b"x")
                broker.forge(ROGUE, site.device_name, packet)
            assert (await voice.offer(private_task()))["accepted"]

    asyncio.run(main())
    told = watch.count("offer", "client") + watch.count("instruction", "run")
    assert told == ANSWERED
    assert watch.count("fleet", "limit") == FLOOD - ANSWERED
    assert watch.count("packet", "limit") == 1, "it is told once a minute"


def test_a_reply_that_is_asked_for_again_and_again_is_sent_a_few_times(site):
    """A short question has a long answer: the model's update, as it was sent before."""
    watch = Watch()

    async def main():
        async with conversation(site, broker=HostileBroker(), events=watch.observer.events) as (voice, agent):
            watch.observer.metrics.refusals.watch("fleet", lambda: agent.office.refused)
            assert (await voice.offer(private_task()))["accepted"]
            message = voice.train(1)
            await voice.instruct(message)
            first, _ = await voice.reply()
            await voice.instruct(message)
            assert (await voice.reply())[0] == first
            for _ in range(200):
                await voice.say(Instruct(RUN, message.metadata.message_id, "train", 1), b"x")
            await until(lambda: watch.count("fleet", "limit") == 200 + 2 - ANSWERED)  # with the offer and the first
            await asyncio.sleep(0.5)
            again = [packet for packet, _ in voice.heard if packet.kind == "reply"]
            assert 1 <= len(again) <= ANSWERED

    asyncio.run(main())
    assert site.charges() == 1


def test_a_coordinator_is_heard_no_more_from_the_list_that_revokes_it_on(site):
    """Whatever still carries what it sends: the key that its packets are signed with is good no more."""
    watch = Watch()

    async def main():
        broker = HostileBroker()
        async with conversation(site, broker=broker, events=watch.observer.events) as (voice, agent):
            watch.observer.metrics.refusals.watch("fleet", lambda: agent.office.refused)
            assert (await voice.offer(private_task()))["accepted"]
            broker.forge(ROGUE, site.device_name, sealed(site, Instruct(99, "m", "train", 1), b"x"))
            await until(lambda: watch.count("instruction", "run") == 1)
            site.mesh.issuer.revoke(ROGUE, time.time())
            revocations = site.mesh.issuer.lists(time.time())[1]
            agent.device.membership.accept(time.time(), revocations=revocations)  # the roster still has it
            broker.forge(ROGUE, site.device_name, sealed(site, Instruct(99, "m", "train", 1), b"x"))
            await until(lambda: watch.count("fleet", "name") == 1)
            assert watch.count("instruction", "run") == 1
            await voice.say(End(RUN))
            await until(lambda: RUN not in agent._works)  # the other one is heard

    asyncio.run(main())
