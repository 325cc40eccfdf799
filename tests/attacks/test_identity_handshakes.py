"""Real TLS 1.3 on loopback: who is let in, who is told what, and who is cut off later."""

import asyncio
import ssl
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from meshes import BOTH, Mesh, Uri, der, leaf, rogue

from fedmesh.errors import IdentityError, PeerError
from fedmesh.identity import Enrolment, Membership, open_issuer, replace_issuer
from fedmesh.identity.certificates import DAY_S, new_key, pem
from fedmesh.identity.keyfiles import key_pem
from fedmesh.identity.membership import LISTS_REQUEST
from fedmesh.identity.requests import MAX_REQUEST_BYTES, Hello
from fedmesh.transport.framing import read_frame, write_frame
from fedmesh.transport.issuing import IssuerServer, enrol, fetch_lists, renew
from fedmesh.transport.tls import accepting, connected, dialling, peer_leaf, pinning
from fedmesh.wire import loads

HOST = "127.0.0.1"
LONG_S = 30.0


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path, begun=time.time() - 3_600)


@asynccontextmanager
async def issuing(mesh, *, timeout_s=LONG_S, most=64):
    server = IssuerServer(mesh.issuer, mesh.ca, timeout_s=timeout_s, most=most)
    address = await server.start(HOST, 0)
    try:
        yield address
    finally:
        await server.aclose()


@asynccontextmanager
async def listening(membership, sessions, *, required=True):
    """A member that is dialled: it checks who comes, says so, and keeps the session."""
    done = asyncio.Event()

    async def accept(reader, writer):
        try:
            shown = peer_leaf(writer)
            peer = membership.check([shown], expected=None, clock=time.time())
            sessions[writer] = peer
            await write_frame(writer, b"welcome " + peer.name.id.encode())
            await done.wait()
        except IdentityError as error:
            await write_frame(writer, b"refused " + error.code.encode())
        except PeerError:
            pass  # it left
        finally:
            writer.close()

    context = accepting(membership.tls_path, membership.root_path, required=required)
    server = await asyncio.start_server(accept, HOST, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        done.set()
        server.close()
        await server.wait_closed()


async def said(address, context):
    """What the other end says first, or what the dialler finds instead."""
    reader, writer = await connected(*address, context, timeout_s=LONG_S)
    try:
        return await read_frame(reader, max_bytes=1 << 16)
    finally:
        writer.close()


def files(mesh, certificate, key, *chain):
    """A TLS file as an attacker would make it."""
    path = mesh.folder / f"{certificate.serial_number:x}.pem"
    path.write_bytes(key_pem(key) + pem(certificate, *(chain or [mesh.issuer.certificate])))
    return path


def forged(mesh, **options):
    key = new_key()
    options = {"begin": time.time() - 300, **options}
    return files(mesh, leaf(mesh.issuer.certificate, mesh.issuer_key(), key=key, **options), key)


def test_a_member_is_let_in(mesh):
    async def run():
        listener, dialler = mesh.enrol("device-2"), mesh.enrol("device-1")
        async with listening(listener, {}) as address:
            assert await said(address, dialling(dialler.tls_path, dialler.root_path)) == b"welcome device-1"
            assert await said(address, dialling(forged(mesh), dialler.root_path)) == b"welcome device-1"

    asyncio.run(run())


def test_refused_in_the_handshake_is_seen_only_when_something_should_come(mesh):
    """TLS 1.3: the dialler is connected. Of another root, expired, not valid yet, for servers only, or none at all."""
    _, issuer, issuer_key = rogue(now=mesh.begun)
    key = new_key()
    shown = [
        files(mesh, leaf(issuer, issuer_key, key=key, begin=mesh.begun), key, issuer),
        forged(mesh, begin=time.time() - 15 * DAY_S),
        forged(mesh, begin=time.time() + DAY_S),
        forged(mesh, usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
        forged(mesh, is_ca=True, usages=[ExtendedKeyUsageOID.CODE_SIGNING]),
    ]

    async def run():
        listener = mesh.enrol("device-2")
        sessions = {}
        async with listening(listener, sessions) as address:
            for path in shown:
                with pytest.raises(PeerError):
                    await said(address, dialling(path, listener.root_path))
            nothing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            nothing.check_hostname = False
            nothing.load_verify_locations(listener.root_path)
            with pytest.raises(PeerError):
                await said(address, nothing)
            assert not sessions

    asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"names": None}, "name"),
        ({"names": [Uri("fedmesh://home/device-1"), Uri("fedmesh://home/device-3")]}, "name"),
        ({"names": [Uri("fedmesh://elsewhere/device-1")]}, "name"),
        ({"names": [Uri("fedmesh://home/device-1"), x509.DNSName("broker.local")]}, "name"),
        ({"common": "device-3"}, "name"),
        ({"usages": BOTH[:1]}, "usage"),
    ],
)
def test_what_tls_lets_through_the_check_after_it_does_not(mesh, options, code):
    async def run():
        listener = mesh.enrol("device-2")
        async with listening(listener, sessions := {}) as address:
            answered = await said(address, dialling(forged(mesh, **options), listener.root_path))
            assert answered == b"refused " + code.encode()
            assert not sessions

    asyncio.run(run())


def test_a_dialler_checks_whom_it_reached(mesh):
    async def run():
        listener, dialler = mesh.enrol("device-2"), mesh.enrol("device-1")
        async with listening(listener, {}) as address:
            context = dialling(dialler.tls_path, dialler.root_path)
            _, writer = await connected(*address, context, timeout_s=LONG_S)
            shown = [peer_leaf(writer)]
            writer.close()
        assert dialler.check(shown, expected="device-2", clock=time.time()).name.id == "device-2"
        with pytest.raises(IdentityError) as caught:
            dialler.check(shown, expected="coordinator", clock=time.time())
        assert caught.value.code == "peer"

    asyncio.run(run())


def test_a_listener_of_another_root_is_not_dialled(mesh, tmp_path):
    async def run():
        stranger = Mesh(tmp_path / "other", begun=mesh.begun).enrol("device-2")
        dialler = mesh.enrol("device-1")
        async with listening(stranger, {}) as address:
            with pytest.raises(PeerError, match="handshake"):
                await said(address, dialling(dialler.tls_path, dialler.root_path))

    asyncio.run(run())


def test_an_older_tls_is_refused(mesh):
    async def run():
        listener, dialler = mesh.enrol("device-2"), mesh.enrol("device-1")
        context = dialling(dialler.tls_path, dialler.root_path)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with listening(listener, sessions := {}) as address:
            with pytest.raises(PeerError):
                await said(address, context)
            assert not sessions

    asyncio.run(run())


def test_a_revoked_device_is_refused_and_its_live_session_is_cut(mesh):
    async def run():
        listener, good, bad = mesh.enrol("device-2"), mesh.enrol("device-1"), mesh.enrol("device-3")
        async with issuing(mesh) as issuer, listening(listener, sessions := {}) as address:
            streams = {}
            for dialler in (good, bad):
                context = dialling(dialler.tls_path, dialler.root_path)
                reader, writer = await connected(*address, context, timeout_s=LONG_S)
                await read_frame(reader, max_bytes=100)
                streams[dialler.name.id] = (reader, writer)
            assert listener.to_cut(sessions, time.time()) == {}
            mesh.issuer.revoke("device-3", time.time())
            assert await fetch_lists(listener, issuer)
            cut = listener.to_cut(sessions, time.time())
            assert [(sessions[session].name.id, why) for session, why in cut.items()] == [("device-3", "revoked")]
            for session in cut:
                session.transport.abort()
            with pytest.raises(PeerError):
                await read_frame(streams["device-3"][0], max_bytes=100)
            answered = await said(address, dialling(bad.tls_path, bad.root_path))
            assert answered == b"refused revoked"
            with pytest.raises(IdentityError) as caught:
                await renew(bad, issuer)
            assert caught.value.code == "revoked"
            for _, writer in streams.values():
                writer.close()

    asyncio.run(run())


def test_sessions_end_with_the_certificate_and_with_its_issuer(mesh):
    listener, dialler = mesh.enrol("device-2"), mesh.enrol("device-1")
    peer = listener.check([der(dialler.leaf)], expected=None, clock=time.time())
    assert listener.to_cut({1: peer}, time.time() + 15 * DAY_S) == {1: "expired"}
    replace_issuer(mesh.ca, mesh.ca / "root.key", time.time())
    roster, revocations = open_issuer(mesh.ca).lists(time.time())
    assert listener.accept(time.time(), roster=roster, revocations=revocations)
    assert listener.to_cut({1: peer}, time.time()) == {1: "issuer"}
    assert listener.due(time.time())


# The issuer's own door.


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


def test_a_dialler_whose_clock_is_behind_is_not_stopped_by_openssl(tmp_path):
    """The machine's clock is a hundred days behind the mesh; what was signed has told the device."""

    async def run():
        mesh = Mesh(tmp_path, begun=time.time() + 100 * DAY_S)
        listener, dialler = mesh.enrol("device-2"), mesh.enrol("device-1")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(listener.tls_path)

        async def hang_up(_, writer):
            writer.close()

        server = await asyncio.start_server(hang_up, HOST, 0, ssl=context)
        address = server.sockets[0].getsockname()[:2]
        dialled = dialling(dialler.tls_path, dialler.root_path)
        _, writer = await connected(*address, dialled, timeout_s=LONG_S)
        assert dialler.check([peer_leaf(writer)], expected="device-2", clock=time.time()).name.id == "device-2"
        writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(run())
