"""A coordinator that hears of newer lists from a device, over a broker in memory."""

import asyncio
import time
from collections import Counter

import pytest
from test_fleet_housekeeping import Post

from fedmesh.fleet.list_exchange import ListExchange
from fedmesh.transport.list_gossip import ListGossip
from fedmesh.transport.memory import MemoryBroker


class Hall:
    """A coordinator with its housekeeping, and devices on the same broker that tell of lists."""

    def __init__(self, folder):
        self.post = Post(folder)
        self.devices = {name: self.post.mesh.enrol(name) for name in ("gate", "pi-1", "pi-2")}
        roster, revocations = self.post.mesh.issuer.lists(time.time())
        for member in (self.post.member, *self.devices.values()):
            member.accept(time.time(), roster=roster, revocations=revocations)

    async def __aenter__(self):
        broker = MemoryBroker()
        self.keeper = self.post.keeper(None)
        self.transport = self.keeper._publisher._transport = broker.join("coordinator", coordinator=True)
        self.keeper._publisher.shunning._transport = self.transport
        self.exchange = ListExchange(self.post.member, self.transport, accepted=self.keeper.take_over_lists)
        self.serving = asyncio.create_task(self.exchange.serve())
        self.keeper.take_over_roster()
        self.broker = broker
        return self

    async def __aexit__(self, *_):
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
        await self.transport.aclose()

    def bridge(self, name):
        return Bridge(self.broker.join(name), self.devices[name])


class Bridge:
    """A device that tells of its lists, and hears."""

    def __init__(self, transport, membership):
        self.transport, self.accepted = transport, []
        self.gossip = ListGossip(membership, clock=time.time, accepted=lambda *what: self.accepted.append(what))
        self.channel = transport.channel("lists")

    async def __aenter__(self):
        await self.say(self.gossip.connected("coordinator"))
        self.task = asyncio.create_task(self.listen())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.transport.aclose()

    async def listen(self):
        async for peer, data in self.channel.receive():
            await self.say(self.gossip.received(peer, data, 1.0))

    async def say(self, outgoing):
        for item in outgoing:
            await self.channel.post(item.to, item.data)


@pytest.fixture
def hall(tmp_path):
    return Hall(tmp_path)


def running(test):
    async def main():
        async with asyncio.timeout(60):
            await test()

    asyncio.run(main())


async def until(holds):
    while not holds():
        await asyncio.sleep(0.01)


def test_a_devices_newer_list_counts_at_once_and_is_announced(hall):
    async def test():
        issuer = hall.post.mesh.issuer
        async with hall:
            assert hall.post.names() == {"gate", "pi-1", "pi-2"}
            issuer.revoke("pi-1", time.time())
            roster, revocations = issuer.lists(time.time())
            hall.devices["gate"].accept(time.time(), roster=roster, revocations=revocations)
            async with hall.bridge("gate"):
                await until(lambda: hall.post.names() == {"gate", "pi-2"})
                assert hall.post.member.signed_lists()["revocations"] == revocations
                await until(lambda: hall.keeper._publisher.counts["published"])
                assert hall.keeper._publisher.shunning.shunned == {"pi-1"}
                assert hall.exchange.counts == Counter()

    running(test)


def test_a_device_that_speaks_of_lists_is_told_of_the_coordinators(hall):
    async def test():
        issuer = hall.post.mesh.issuer
        async with hall, hall.bridge("gate") as gate:
            issuer.revoke("pi-2", time.time())
            roster, revocations = issuer.lists(time.time())
            hall.post.member.accept(time.time(), roster=roster, revocations=revocations)  # as the issuer gave them
            await until(lambda: ("revocations", hall.post.member.revocations.header.version) in gate.accepted)

    running(test)


def test_who_spoke_longest_ago_is_told_no_more(hall):
    async def test():
        async with hall:
            told = [len(hall.exchange._met(f"device-{number}")) for number in range(65)]
            assert told == [1] * 65
            assert len(hall.exchange._speaking) == len(hall.exchange._gossip._theirs) == 64
            assert "device-0" not in hall.exchange._gossip._theirs
            assert hall.exchange._met("device-1") == []

    running(test)
