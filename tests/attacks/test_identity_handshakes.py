"""Real TLS 1.3 on loopback between members: who is let in, who is told what, and who is cut off later."""

import asyncio
import ssl
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from identity_doors import HOST, LONG_S, files, forged, issuing, said
from meshes import BOTH, Mesh, Uri, der, leaf, rogue

from fedmesh.errors import IdentityError, PeerError
from fedmesh.identity import open_issuer, replace_issuer
from fedmesh.identity.certificates import DAY_S, new_key
from fedmesh.transport.framing import read_frame, write_frame
from fedmesh.transport.issuing import fetch_lists, renew
from fedmesh.transport.tls import accepting, connected, dialling, peer_leaf


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path, begun=time.time() - 3_600)


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
