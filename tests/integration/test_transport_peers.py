"""What gets through between peers over real TLS 1.3 on loopback, also where a connection breaks, is slow or freezes."""

import asyncio
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
from peer_mesh import HOST, PeerMesh, running, until

from fedmesh.errors import DeliveryError, PeerError
from fedmesh.testing.proxy import Proxy
from fedmesh.transport.limits import Limits

PATIENT = Limits(message_bytes=4 << 20, retry_s=100.0, retry_max_s=100.0)
"""Nothing is sent again because a busy machine was slow to answer."""
LARGE = random.Random(3).randbytes(3_000_000)


@pytest.fixture
def mesh(tmp_path):
    return PeerMesh(tmp_path)


def test_three_peers_each_with_each(mesh):
    async def test(entered):
        peers = {name: await entered(mesh.open(name)) for name in ("a", "b", "c")}
        pairs = [(one, other) for one in peers for other in peers if one != other]
        await asyncio.gather(*[peers[one].send(other, one.encode() + LARGE) for one, other in pairs])
        for name, peer in peers.items():
            messages = peer.receive()
            got = dict([await anext(messages), await anext(messages)])
            assert got == {other: other.encode() + LARGE for other in peers if other != name}
            assert sorted(peer.links) == sorted(set(peers) - {name})
            assert all(link.is_live for link in peer.carrier.pool.links.values())

    running(test)


def test_who_cannot_be_dialled_dials_and_is_answered_on_that_connection(mesh):
    async def test(entered):
        server, hidden = await entered(mesh.open("server")), await entered(mesh.open("hidden", listens=False))
        await hidden.connect("server", wait_s=120)
        await server.send("hidden", LARGE)
        assert await anext(hidden.receive()) == ("server", LARGE)
        assert server.counts["connection_failed"] == 0

    running(test)


def test_what_is_sent_before_its_peer_is_there_arrives_when_it_comes(mesh):
    async def test(entered):
        early = await entered(mesh.open("early"))
        sending = asyncio.create_task(early.send("late", LARGE))
        await until(lambda: early.counts["connection_failed"])
        with pytest.raises(PeerError, match="it has no address that is known here"):
            await early.connect("late", wait_s=0.05)
        late = await entered(mesh.open("late"))
        assert await anext(late.receive()) == ("early", LARGE)
        await sending

    running(test)


def test_the_connection_breaks_in_the_middle_and_the_rest_is_sent_on_the_next(tmp_path):
    mesh = PeerMesh(tmp_path, limits=PATIENT)

    async def test(entered):
        receiver = await entered(mesh.open("receiver"))
        proxy = await entered(_ready(Proxy(receiver.listening[0][1])))
        sender = await entered(mesh.open("sender"))
        mesh.addresses["receiver"] = [(HOST, proxy.port)]
        proxy.cut_after = 1_500_000
        await sender.send("receiver", LARGE)
        assert await anext(receiver.receive()) == ("sender", LARGE)
        assert proxy.cuts == 1
        assert sender.counts["connection_lost"] == 1
        assert proxy.carried < 2 * len(LARGE), "what had arrived is not sent again"

    running(test)


async def _ready(thing):
    return thing


def test_a_peer_that_reads_slowly_holds_up_nobody_else(mesh):
    async def test(entered):
        slow, _quick = await entered(mesh.open("slow")), await entered(mesh.open("quick"))
        proxy = await entered(_ready(Proxy(slow.listening[0][1])))
        mesh.addresses["slow"] = [(HOST, proxy.port)]
        proxy.chunk_delay_s = 0.2  # 320 KB/s
        sender = await entered(mesh.open("sender"))
        await sender.connect("slow", wait_s=120)
        opened = sender.carrier.pool.links["slow"]._transport.get_extra_info("socket")
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # or the kernel takes most of it
        sending = [asyncio.create_task(sender.send("slow", LARGE)) for _ in range(4)]
        await until(lambda: "slow" in sender._endpoint._held)
        assert sender.carrier.pool.links["slow"].unwritten < 3 << 20
        await sender.send("quick", LARGE)
        assert not any(task.done() for task in sending)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        proxy.cut()

    running(test)


def test_what_crosses_a_goodbye_is_sent_again_at_once(tmp_path):
    mesh = PeerMesh(tmp_path, limits=PATIENT)

    async def test(entered):
        one, other = await entered(mesh.open("a")), await entered(mesh.open("b"))
        await one.connect("b", wait_s=120)
        other.carrier.pool.links["a"].close("idle")
        began = time.monotonic()
        await one.send("b", b"crossed")
        assert time.monotonic() - began < 50  # `retry_s` is 100
        assert one.counts["connection_failed"] == 0

    running(test)


def test_who_freezes_is_noticed(mesh):
    async def test(entered):
        other = await entered(mesh.open("b"))
        proxy = await entered(_ready(Proxy(other.listening[0][1])))
        mesh.addresses["b"] = [(HOST, proxy.port)]
        one = await entered(mesh.open("a", quiet_s=2.0))
        links = one.carrier.pool.links
        heard = False
        while not heard:  # a machine that stood still for longer than that has to try again
            await one.connect("b", wait_s=120)
            link = links["b"]
            await until(lambda link=link: links.get("b") is not link or link.heard_at - link.since > 1.9)
            heard = links.get("b") is link  # it answers when it is asked
        proxy.chunk_delay_s = 600.0
        await until(lambda: not one.present)
        assert one.counts["silent"] >= 1
        mesh.addresses["b"] = []
        proxy.cut()

    running(test)


def test_the_limit_of_bytes_a_second(mesh):
    async def test(entered):
        one, other = await entered(mesh.open("a", bytes_per_s=2_000_000)), await entered(mesh.open("b"))
        await one.connect("b", wait_s=120)
        began = time.monotonic()
        await one.send("b", LARGE)
        assert time.monotonic() - began > 1.2
        await anext(other.receive())

    running(test)


def test_announcements_reach_who_is_connected_and_who_comes(mesh):
    async def test(entered):
        speaker = await entered(mesh.open("speaker", announces=True))
        first, second = await entered(mesh.open("first")), await entered(mesh.open("second"))
        await first.connect("speaker", wait_s=120)
        await speaker.announce("model", b"1")
        await until(lambda: first.announced == {("speaker", "model"): b"1"})
        assert not second.announced
        await second.connect("speaker", wait_s=120)
        await until(lambda: second.announced == {("speaker", "model"): b"1"})

    running(test)


def test_what_waits_when_it_is_closed_fails_and_comes_out_of_the_spool_later(mesh, tmp_path):
    async def test(entered):
        first = await mesh.open("a", spool=tmp_path / "spool")
        receipt = await first.post("b", b"kept")
        await first.aclose()
        with pytest.raises(DeliveryError, match="closed"):
            await receipt.delivered()
        other = await entered(mesh.open("b"))
        await entered(mesh.open("a", spool=tmp_path / "spool"))
        assert await anext(other.receive()) == ("a", b"kept")

    running(test)


CHILD = """
import asyncio, sys
from pathlib import Path
from fedmesh.identity import Membership
from fedmesh.transport.peers import PeerOptions, PeerTransport

async def main(folder, port):
    options = PeerOptions(listen=(("127.0.0.1", 0),), keep=frozenset({"parent"}), reconnect_s=0.02, reconnect_max_s=0.2)
    transport = await PeerTransport.open(
        Membership(Path(folder)), lambda peer: [("127.0.0.1", port)] if peer == "parent" else [], options)
    async with transport:
        async for peer, data in transport.receive():
            await transport.send(peer, data[::-1])

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_processes_one_of_which_is_killed_and_started_again(mesh):
    def child(name, port):
        return subprocess.Popen([sys.executable, "-c", CHILD, str(mesh.member(name).folder), str(port)])

    async def test(entered):
        parent = await entered(mesh.open("parent"))
        port = parent.listening[0][1]
        children = {name: child(name, port) for name in ("child-1", "child-2")}
        try:
            messages = parent.receive()
            for round_number in range(2):
                data = bytes([round_number]) + LARGE
                await asyncio.gather(*[parent.send(name, data) for name in children])
                got = {await anext(messages), await anext(messages)}
                assert got == {(name, data[::-1]) for name in children}
                if round_number == 0:
                    children["child-1"].send_signal(signal.SIGKILL)
                    children["child-1"].wait()
                    await until(lambda: parent.present == {"child-2"})
                    children["child-1"] = child("child-1", port)
        finally:
            for process in children.values():
                process.kill()
                process.wait()

    running(test)


def test_limits_are_those_of_every_transport(tmp_path):
    mesh = PeerMesh(tmp_path, limits=Limits(message_bytes=1000, retry_s=0.1))

    async def test(entered):
        one = await entered(mesh.open("a"))
        with pytest.raises(PeerError, match="the limit is 1000"):
            await one.send("b", bytes(1001))

    running(test)
