"""A coordinator's lists and certificate come from a real issuer over TLS; without one, it says so."""

import asyncio
import contextlib
import time
from collections import Counter

import pytest
from meshes import Mesh

from fedmesh.configuration.values import Address
from fedmesh.events import Notice
from fedmesh.fleet.housekeeping import Housekeeping
from fedmesh.fleet.roll import Roll
from fedmesh.fleet.switchboard import Switchboard
from fedmesh.identity.packets import Gate, Signet
from fedmesh.identity.servers import create_server
from fedmesh.testing.loopback_broker import free_port
from fedmesh.transport.issuing import IssuerServer
from fedmesh.transport.lists import ListsPublisher
from fedmesh.transport.memory import MemoryBroker


@contextlib.asynccontextmanager
async def issuing(mesh, port=0):
    """A real issuer on loopback; its port."""
    server = IssuerServer(mesh.issuer, mesh.ca)
    _, port = await server.start("127.0.0.1", port)
    try:
        yield port
    finally:
        await server.aclose()


class Post:
    """A coordinator with all that housekeeping looks after, and an issuer beside it."""

    def __init__(self, folder):
        self.mesh = Mesh(folder, begun=time.time())
        self.member = create_server(self.mesh.issuer, "coordinator", ["localhost"], folder / "coordinator", time.time())
        self.events = []

    def keeper(self, address):
        transport = MemoryBroker().join("coordinator", coordinator=True)
        gate = Gate(self.member.name, self.member.roster.keys.get)
        signet = Signet(self.member.name, self.member.signing_key())
        self.board = Switchboard(transport, signet, gate, Roll("home"))
        publisher = ListsPublisher(transport, self.member, None)
        return Housekeeping(self.member, address, self.board, publisher, transport, events=self.events.append)

    def names(self):
        with self.board.roll() as roll:
            return set(roll.names())

    @property
    def notices(self):
        return Counter(event.text for event in self.events if isinstance(event, Notice))


@pytest.fixture
def post(tmp_path):
    return Post(tmp_path)


def test_without_an_issuer_strangers_are_told_of_once(post):
    async def main():
        keeper = post.keeper(None)
        keeper.look_now()
        keeper.look_now()

    asyncio.run(main())
    ((text, times),) = post.notices.items()
    assert "name it in [issuer] address" in text
    assert times == 1


def test_who_enrols_later_is_found_at_the_issuer(post):
    async def main():
        async with issuing(post.mesh) as port:
            keeper = post.keeper(Address("localhost", port))
            keeper.take_over_roster()
            assert post.names() == set()
            post.mesh.enrol("device-1")
            serving = asyncio.create_task(keeper.serve())
            async with asyncio.timeout(120):
                while post.names() != {"device-1"}:
                    await asyncio.sleep(0.02)
            serving.cancel()

    asyncio.run(main())
    assert not post.notices


def test_who_enrolled_while_it_was_away_is_no_stranger_when_it_begins(post):
    async def main():
        async with issuing(post.mesh) as port:
            post.mesh.enrol("device-1")
            await post.keeper(Address("localhost", port)).begin()

    asyncio.run(main())
    assert post.names() == {"device-1"}


def test_an_issuer_that_is_away_is_told_of_once_and_its_return(post):
    async def main():
        port = free_port()
        keeper = post.keeper(Address("localhost", port))
        for _ in range(2):
            await keeper._look_at_identity()
        async with issuing(post.mesh, port):
            await keeper._look_at_identity()

    asyncio.run(main())
    away, back = sorted(post.notices.elements(), key=len, reverse=True)
    assert away.startswith("fresh lists did not come from the issuer")
    assert back == "issuer: all is well again"
