"""Who is shunned, by the lists alone."""

import asyncio

import pytest
from meshes import NOW, Mesh

from fedmesh.errors import DecodeError, PeerError
from fedmesh.transport.lists import ListsPublisher, Shunning, _read_pointer, pointer, revoked_parties
from fedmesh.transport.memory import MemoryBroker
from fedmesh.wire import dumps


@pytest.fixture
def mesh(tmp_path):
    return Mesh(tmp_path)


def test_a_revoked_party_is_shunned_before_the_roster_says_so_and_not_with_a_new_certificate(mesh):
    member = mesh.enrol("device-1")
    mesh.enrol("device-2")
    member.accept(NOW, roster=mesh.issuer.lists(NOW)[0])
    assert revoked_parties(member) == set()
    mesh.issuer.revoke("device-2", NOW)
    roster, revocations = mesh.issuer.lists(NOW)
    member.accept(NOW, revocations=revocations)
    assert "device-2" in member.roster.enrolled
    assert revoked_parties(member) == {"device-2"}
    member.accept(NOW, roster=roster)
    assert revoked_parties(member) == {"device-2"}
    (mesh.folder / "device-2").rename(mesh.folder / "stolen")
    mesh.enrol("device-2", again=True)
    roster, revocations = mesh.issuer.lists(NOW)
    member.accept(NOW, roster=roster, revocations=revocations)
    assert "device-2" in member.revocations.serials.values()
    assert revoked_parties(member) == set()


def test_shunning_is_told_to_the_transport_once_each_way(mesh):
    async def main():
        member = mesh.enrol("device-1")
        mesh.enrol("device-2")
        transport = MemoryBroker().join("device-1")
        shunning = Shunning(transport, member)
        assert shunning.apply() == set()
        mesh.issuer.revoke("device-2", NOW)
        member.accept(NOW, revocations=mesh.issuer.lists(NOW)[1])
        assert shunning.apply() == {"device-2"}
        assert shunning.apply() == set()
        assert transport._endpoint.is_shunned("device-2")
        (mesh.folder / "device-2").rename(mesh.folder / "stolen")
        mesh.enrol("device-2", again=True)
        member.accept(NOW, roster=mesh.issuer.lists(NOW)[0])
        assert shunning.apply() == set()
        assert not transport._endpoint.is_shunned("device-2")

    asyncio.run(main())


def test_what_a_publisher_serves_and_announces(mesh):
    async def main():
        member = mesh.enrol("coordinator")
        publisher = ListsPublisher(MemoryBroker().join("coordinator", coordinator=True), member, None)
        lists = member.signed_lists()
        assert publisher.read("lists/roster", max_bytes=1 << 20) == lists["roster"]
        assert publisher.read("lists/revocations", max_bytes=1 << 20) == lists["revocations"]
        with pytest.raises(LookupError):
            publisher.read("lists/keys", max_bytes=1 << 20)
        with pytest.raises(PeerError, match="10 are served"):
            publisher.read("lists/roster", max_bytes=10)
        assert not await publisher.refresh()
        assert set(_read_pointer(pointer(member))) == {"roster", "revocations"}

    asyncio.run(main())


@pytest.mark.parametrize(
    "plain",
    [
        [2, [1, bytes(32)], [1, bytes(32)]],
        [1, [1, bytes(31)], [1, bytes(32)]],
        [1, [1, bytes(32)]],
        [1, ["1", bytes(32)], [1, bytes(32)]],
        {"roster": bytes(32)},
        [1, [1, bytes(32)], [1, bytes(32)], 1],
    ],
)
def test_what_is_no_pointer(plain):
    with pytest.raises(DecodeError):
        _read_pointer(dumps(plain))
