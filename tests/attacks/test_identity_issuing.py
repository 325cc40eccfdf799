"""The issuer at its own door, over real TLS 1.3: whom it hangs up on, whom it serves, and who only poses as it."""

import asyncio
import time
from pathlib import Path

import pytest
from identity_doors import HOST, LONG_S, forged, issuing, said
from meshes import Mesh, der, leaf

from fedmesh.errors import IdentityError, PeerError
from fedmesh.identity import Enrolment, Membership, open_issuer, replace_issuer
from fedmesh.identity.certificates import DAY_S
from fedmesh.identity.membership import LISTS_REQUEST
from fedmesh.identity.requests import MAX_REQUEST_BYTES, Hello
from fedmesh.transport.framing import read_frame, write_frame
from fedmesh.transport.issuing import IssuerServer, enrol, fetch_lists, renew
from fedmesh.transport.tls import accepting, connected, peer_leaf, pinning
from fedmesh.wire import loads


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path, begun=time.time() - 3_600)


def test_an_oversized_frame_is_not_read(mesh):
    """It is hung up on at once, not when its time is over."""

    async def run():
        async with issuing(mesh, timeout_s=100 * LONG_S) as address:
            reader, writer = await connected(*address, pinning(), timeout_s=LONG_S)
            Hello.from_bytes(await read_frame(reader, max_bytes=1 << 16))
            writer.write((MAX_REQUEST_BYTES + 1).to_bytes(4, "big"))
            with pytest.raises(PeerError):
                await asyncio.wait_for(read_frame(reader, max_bytes=1 << 16), LONG_S)
            writer.close()
            assert await said(address, pinning())

    asyncio.run(run())


@pytest.mark.parametrize("sent", [b"", b"\x00\x00", b"\x00\x00\x00\x10abc"])
def test_who_says_nothing_or_half_of_it_is_hung_up_on(mesh, sent):
    async def run():
        async with issuing(mesh, timeout_s=0.5) as address:
            reader, writer = await connected(*address, pinning(), timeout_s=LONG_S)
            await read_frame(reader, max_bytes=1 << 16)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), LONG_S) == b""
            writer.close()

    asyncio.run(run())


def test_one_conversation_has_one_request(mesh):
    async def twice(reader, writer):
        await write_frame(writer, LISTS_REQUEST)
        await read_frame(reader, max_bytes=1 << 16)

    async def run():
        async with issuing(mesh) as address:
            reader, writer = await connected(*address, pinning(), timeout_s=LONG_S)
            await read_frame(reader, max_bytes=1 << 16)
            await write_frame(writer, LISTS_REQUEST)
            assert loads(await read_frame(reader, max_bytes=1 << 16), max_bytes=1 << 16)["refused"] == "usage"
            with pytest.raises(PeerError):
                await twice(reader, writer)
            writer.close()

    asyncio.run(run())


def test_a_certificate_that_is_not_as_it_should_be_is_told_so(mesh):
    async def run():
        device = mesh.enrol("device-1")
        device.tls_path.write_bytes(forged(mesh, common="device-9").read_bytes())
        async with issuing(mesh) as address:
            with pytest.raises(IdentityError) as caught:
                await fetch_lists(device, address)
            assert caught.value.code == "name"
            assert mesh.issuer.refused["name"] == 1

    asyncio.run(run())


def test_a_stranger_is_no_issuer(mesh, tmp_path):
    """Neither that of another mesh nor a member of ours gets the token's secret."""

    async def run():
        other = Mesh(tmp_path / "other", begun=mesh.begun)
        token = mesh.token("device-1", ttl_s=DAY_S)
        enrolment = Enrolment.begin(tmp_path / "device", token)
        async with issuing(other) as address:
            with pytest.raises(IdentityError) as caught:
                await enrol(enrolment, token, address)
            assert caught.value.code == "authority"
        heard = asyncio.Queue()
        member = mesh.enrol("device-2")
        context = accepting(member.tls_path, member.root_path, required=False)

        async def pose(reader, writer):
            await write_frame(writer, mesh.issuer.hello().to_bytes())
            heard.put_nowait(await reader.read(1 << 16))
            writer.close()

        server = await asyncio.start_server(pose, HOST, 0, ssl=context)
        with pytest.raises(IdentityError) as caught:
            await enrol(enrolment, token, server.sockets[0].getsockname()[:2])
        assert caught.value.code == "peer"
        server.close()
        await server.wait_closed()
        assert await asyncio.wait_for(heard.get(), LONG_S) == b""
        assert other.issuer.refused.total() == 0

    asyncio.run(run())


def test_a_stopped_clock_costs_nothing_and_a_wrong_one_little(mesh, tmp_path):
    """A device that believes it is 1970 enrols, renews and checks: what is signed with a date has told it better."""

    async def run():
        token = mesh.token("device-1", ttl_s=DAY_S)
        enrolment = Enrolment.begin(tmp_path / "device", token)
        async with issuing(mesh) as address:
            device = await enrol(enrolment, token, address, clock=lambda: 0.0)
            assert device.now(0.0) >= mesh.begun
            before = device.leaf.serial_number
            await renew(device, address, clock=lambda: 0.0)
            assert device.leaf.serial_number != before
            again = Membership(tmp_path / "device")
            assert again.now(0.0) >= device.now(0.0)
            gone = leaf(mesh.issuer.certificate, mesh.issuer_key(), begin=mesh.begun - 20 * DAY_S)
            with pytest.raises(IdentityError) as caught:
                again.check([der(gone)], expected=None, clock=0.0)
            assert caught.value.code == "expired"

    asyncio.run(run())


def test_there_are_so_many_conversations_at_a_time(mesh):
    async def run():
        async with issuing(mesh, most=1) as address:
            reader, writer = await connected(*address, pinning(), timeout_s=LONG_S)
            await read_frame(reader, max_bytes=1 << 16)
            with pytest.raises(PeerError):
                await said(address, pinning())
            await write_frame(writer, LISTS_REQUEST)
            await read_frame(reader, max_bytes=1 << 16)
            assert await reader.read() == b""
            writer.close()
            assert await said(address, pinning())

    asyncio.run(run())


def test_a_device_of_the_issuer_before_renews_with_its_successor(mesh):
    """In a real handshake, where it shows a certificate of the old one, and finds the new one at the other end."""

    async def run():
        device = mesh.enrol("device-1")
        replace_issuer(mesh.ca, mesh.ca / "root.key", time.time())
        mesh.issuer = open_issuer(mesh.ca)
        async with issuing(mesh) as address:
            assert await fetch_lists(device, address)
            assert device.due(time.time())
            await renew(device, address)
            assert not device.due(time.time())

    asyncio.run(run())


def test_a_register_that_cannot_be_used_is_nobodys_crash(mesh, caplog):
    async def run():
        device = mesh.enrol("device-1")
        async with issuing(mesh) as address:
            (mesh.ca / "register.sqlite").rename(mesh.ca / "moved")
            with pytest.raises(PeerError):
                await fetch_lists(device, address)
            (mesh.ca / "moved").rename(mesh.ca / "register.sqlite")
            await fetch_lists(device, address)

    asyncio.run(run())
    assert "register" in caplog.text


def test_the_issuers_own_certificate_is_renewed_while_it_listens(mesh):
    async def shown(address):
        _, writer = await connected(*address, pinning(), timeout_s=LONG_S)
        writer.close()
        return peer_leaf(writer)

    async def run():
        clock = [time.time()]
        server = IssuerServer(mesh.issuer, mesh.ca, clock=lambda: clock[0], refresh_s=0.01)
        address = await server.start(HOST, 0)
        first = await shown(address)
        assert await shown(address) == first
        clock[0] += 5 * DAY_S
        async with asyncio.timeout(LONG_S):
            while await shown(address) == first:
                pass
        await server.aclose()
        await server.aclose()

    asyncio.run(run())
