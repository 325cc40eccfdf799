"""A transport between peers that is closed leaves nothing behind: no task, no socket, and nobody who waits."""

import asyncio
import contextlib
import socket
import time

import pytest
from peer_mesh import HOST, PeerMesh, until

from fedmesh.errors import PeerError


@pytest.fixture
def mesh(tmp_path):
    return PeerMesh(tmp_path)


def running(test):
    async def main():
        async with asyncio.timeout(240):
            await test()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_connection_that_is_saying_goodbye_is_waited_for(mesh):
    async def test():
        one, other = await mesh.open("one"), await mesh.open("other")
        await one.connect("other", wait_s=120)
        other.carrier.pool.links["one"]._transport.pause_reading()
        link = one.carrier.pool.links["other"]
        link.close("idle")
        await one.aclose()
        assert link.lost.done()
        await other.aclose()

    running(test)


def test_who_waits_for_a_connection_is_told(mesh):
    async def test():
        one = await mesh.open("one")
        waiting = asyncio.create_task(one.connect("nobody", wait_s=3600))
        await asyncio.sleep(0.05)
        await one.aclose()
        with pytest.raises(PeerError, match="closed"):
            await waiting
        with pytest.raises(PeerError, match="closed"):
            await one.connect("nobody", wait_s=3600)

    running(test)


def test_who_is_refused_and_has_said_hello_already_is_no_error(mesh):
    """What came with the end of the handshake is handed out while the connection is being closed."""

    async def test():
        errors = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
        one, other = await mesh.open("one"), await mesh.open("other", reconnect_max_s=0.02)
        mesh.mesh.issuer.revoke("other", time.time())
        _, revocations = mesh.mesh.issuer.lists(time.time())
        mesh.members["one"].accept(time.time(), revocations=revocations)
        dialling = asyncio.create_task(other.connect("one", wait_s=3600))
        await until(lambda: one.counts["refused_revoked"] > 1)
        assert not dialling.done()
        dialling.cancel()
        await asyncio.gather(dialling, return_exceptions=True)
        assert not errors
        await one.aclose()
        await other.aclose()

    running(test)


def test_who_dials_at_the_last_moment_is_hung_up_on(mesh):
    async def test():
        one = await mesh.open("one")
        listener = one.carrier.listener
        with socket.create_connection((HOST, one.listening[0][1])):
            while not listener._strangers:
                await asyncio.sleep(0)
            accepted = list(listener._accepted)
            assert accepted, "its greeting has not begun"
            await listener.aclose()
            await one.aclose()
            assert [opened.fileno() for opened in accepted] == [-1]

    running(test)


def test_who_dials_while_it_stops_listening_is_no_trouble(mesh):
    """In the very round of the loop: asyncio's own `sock_accept` takes the connection, and then has nobody for it."""

    async def test():
        broken = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
        one = await mesh.open("one")
        await asyncio.sleep(0.05)  # it waits for somebody
        with socket.create_connection((HOST, one.listening[0][1])) as dialling:
            await asyncio.sleep(0)
            await one.carrier.listener.aclose()
            await one.aclose()
            dialling.setblocking(False)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(dialling, 1) == b""
        assert not broken

    running(test)


def test_calls_that_are_under_way_end(mesh):
    async def test():
        with socket.create_server((HOST, 0)) as deaf:
            mesh.addresses["deaf"] = [deaf.getsockname()[:2]]
            one = await mesh.open("one")
            await one.post("deaf", b"hello")
            await asyncio.sleep(0.1)
            await one.aclose()

    running(test)
