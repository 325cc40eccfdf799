"""Signed lists over a real broker: a revoked party with a live session is refused within one list update."""

import asyncio
import hashlib
import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from mqtt_fleet import require_mosquitto

from fedmesh.errors import DeliveryError
from fedmesh.identity import Enrolment, Membership
from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.transport.file_server import FileServer, routed
from fedmesh.transport.files import RemoteFiles
from fedmesh.transport.issuing import IssuerServer
from fedmesh.transport.limits import Limits
from fedmesh.transport.lists import ListsFollower, ListsPublisher, pointer
from fedmesh.transport.mqtt import MqttTransport
from fedmesh.wire import dumps

require_mosquitto()
QUICK = Limits(retry_s=0.5, retry_max_s=2.0)


@pytest.fixture
def fleet(tmp_path):
    with LoopbackFleet(tmp_path / "fleet", coordinators=("coordinator", "other")) as fleet:
        for name in ("coordinator", "other", "device-1", "device-2"):
            fleet.membership(name)
        fleet.spread()
        yield fleet


def run(main):
    async def bounded():
        async with asyncio.timeout(240):
            await main()

    asyncio.run(bounded())


async def until(true):
    while not true():
        await asyncio.sleep(0.01)


def opened(fleet, name):
    return MqttTransport.open(fleet.options(name), limits=QUICK, wait_s=60)


@asynccontextmanager
async def publishing(fleet, *, issuer=None):
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(await opened(fleet, "coordinator"))
        publisher = ListsPublisher(transport, fleet.membership("coordinator"), issuer, every_s=0.1)
        read = routed({"lists": publisher.read})
        await stack.enter_async_context(FileServer(transport.channel("files"), read))
        await stack.enter_async_context(publisher)
        yield transport, publisher


@asynccontextmanager
async def following(fleet, name="device-1"):
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(await opened(fleet, name))
        files = await stack.enter_async_context(RemoteFiles(transport.channel("files"), "coordinator"))
        follower = ListsFollower(transport, fleet.membership(name), files, pause_s=0.05)
        await stack.enter_async_context(follower)
        yield transport, follower


def test_a_revoked_device_with_a_live_session_is_refused_at_the_next_list(fleet):
    async def main():
        server = IssuerServer(fleet.issuer, fleet.folder / "ca")
        address = await server.start("127.0.0.1", 0)
        async with (
            publishing(fleet, issuer=address) as (coordinator, publisher),
            await opened(fleet, "device-2") as lost,
        ):
            await lost.send("coordinator", b"a member still")
            fleet.issuer.revoke("device-2", time.time())
            await until(lambda: publisher.shunning.shunned == {"device-2"})
            assert coordinator.channel("main").take() is None  # what it had sent and nobody had taken is gone
            refused = coordinator.counts["shunned"]
            assert refused >= 1
            assert lost.link.is_connected  # the session lives
            with pytest.raises(DeliveryError, match="expired"):
                await lost.send("coordinator", b"secret", expires_in_s=1)
            assert coordinator.counts["shunned"] > refused
            with pytest.raises(DeliveryError, match="is shunned"):
                await coordinator.send("device-2", b"secret")
        await server.aclose()

    run(main)


def test_devices_take_the_lists_over_and_shun_a_revoked_coordinator(fleet):
    async def main():
        async with (
            publishing(fleet) as (_, publisher),
            following(fleet) as (device, follower),
            await opened(fleet, "other") as other,
        ):
            await other.announce("model", b"trust me")
            await until(lambda: ("other", "model") in device.announced)
            fleet.issuer.revoke("other", time.time())
            roster, revocations = fleet.issuer.lists(time.time())
            fleet.membership("coordinator").accept(time.time(), roster=roster, revocations=revocations)
            await publisher.publish()
            await until(lambda: follower.shunning.shunned == {"other"})
            assert ("other", "model") not in device.announced
            await other.announce("model", b"trust me again")
            await until(lambda: device.counts["shunned"] > 0)
            assert ("other", "model") not in device.announced
            await until(lambda: follower.counts["accepted"] == 2)
            again = Membership(fleet.folder / "device-1")
            assert again.signed_lists() == {"roster": roster, "revocations": revocations}

    run(main)


def test_a_device_that_has_the_lists_already_hears_that_its_coordinator_has_them_too(fleet):
    async def main():
        heard = []
        async with publishing(fleet) as (_, publisher), following(fleet) as (_device, follower):
            follower.on_announced = lambda: heard.append(dict(follower.counts))
            fleet.issuer.revoke("other", time.time())
            roster, revocations = fleet.issuer.lists(time.time())
            for name in ("device-1", "coordinator"):
                fleet.membership(name).accept(time.time(), roster=roster, revocations=revocations)
            heard.clear()
            await publisher.publish()
            await until(lambda: heard)
        assert heard[0].get("accepted", 0) == 0

    run(main)


def test_a_device_that_was_away_and_one_that_enrolls_anew(fleet):
    async def main():
        async with publishing(fleet) as (_, publisher):
            fleet.issuer.revoke("device-2", time.time())
            await _published(fleet, publisher)
            async with following(fleet) as (_device, follower):  # later
                await until(lambda: follower.shunning.shunned == {"device-2"})
                token = fleet.issuer.token("device-2", time.time(), ttl_s=60, again=True)
                enrolment, hello = Enrolment.begin(fleet.folder / "again", token), fleet.issuer.hello()
                now = time.time()
                request = enrolment.request(token.secret, hello.nonce)
                enrolment.finish(fleet.issuer.handle(request, None, hello.nonce, now), now)
                await _published(fleet, publisher)
                assert publisher.shunning.shunned == set()
                await until(lambda: follower.shunning.shunned == set())
                assert follower.counts["accepted"] >= 2

    run(main)


async def _published(fleet, publisher):
    roster, revocations = fleet.issuer.lists(time.time())
    fleet.membership("coordinator").accept(time.time(), roster=roster, revocations=revocations)
    await publisher.publish()


def test_lists_that_are_forged_old_or_not_there_change_nothing(fleet, tmp_path):
    old = fleet.membership("device-1").signed_lists()

    async def main():
        fleet.issuer.revoke("device-2", time.time())
        fleet.spread()
        before = fleet.membership("device-1").signed_lists()
        served = {"lists/roster": b"forged", "lists/revocations": old["revocations"]}
        async with await opened(fleet, "coordinator") as coordinator:
            async with following(fleet) as (_, follower):
                await coordinator.announce("lists", b"junk")
                await until(lambda: follower.counts["malformed"])
                await coordinator.announce("lists", _pointer(served))
                await until(lambda: follower.counts["unreachable"] == 0 and coordinator.channel("files")._inbox)
            read = lambda name, *, max_bytes: served[name]  # noqa: E731
            async with FileServer(coordinator.channel("files"), read), following(fleet) as (_, follower):
                await until(lambda: follower.counts["malformed"] and follower.counts["rollback"])
                assert fleet.membership("device-1").signed_lists() == before
                asked = follower._files.counts.copy()
                await coordinator.announce("lists", b"")
                await coordinator.announce("lists", _pointer(served))  # what was refused is not fetched again
                await asyncio.sleep(0.3)
                assert follower.counts["rollback"] == 1
                assert follower._files.counts == asked

    run(main)


def _pointer(served):
    return dumps([1, *[[1 << 40, hashlib.sha256(data).digest()] for data in served.values()]])


def test_what_is_announced_is_small(fleet):
    assert len(pointer(fleet.membership("coordinator"))) < 100
