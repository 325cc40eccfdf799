"""Peers over real TLS 1.3 on loopback, with real certificates: who is connected when, and what gets through."""

import asyncio
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from peer_mesh import HOST, PeerMesh, play, until

from fedmesh.errors import ConfigError, DeliveryError, PeerError
from fedmesh.testing.proxy import Proxy
from fedmesh.transport.limits import Limits

PATIENT = Limits(message_bytes=4 << 20, retry_s=100.0, retry_max_s=100.0)
"""Nothing is sent again because a busy machine was slow to answer."""
LARGE = random.Random(3).randbytes(3_000_000)


@pytest.fixture
def mesh(tmp_path):
    return PeerMesh(tmp_path)


def running(test):
    play(test, within_s=240)


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


def test_two_that_dial_each_other_at_once_have_one_connection_in_the_end(mesh):
    async def test(entered):
        for number in range(6):
            names = f"a{number}", f"b{number}"
            one, other = [await entered(mesh.open(name)) for name in names]
            await asyncio.gather(one.send(names[1], b"1"), other.send(names[0], b"2"))

            def agreed(one=one, other=other):
                """Whether both mean the same connection, and nobody is about to make another one."""
                pools = [peer.carrier.pool for peer in (one, other)]
                ends = [
                    {link._transport.get_extra_info(what) for what in ("sockname", "peername")}
                    for pool in pools
                    for link in pool.links.values()
                ]
                return not any(pool.dialling for pool in pools) and len(ends) == 2 and ends[0] == ends[1]

            await until(agreed)
            await asyncio.sleep(0.05)
            assert agreed()

    running(test)


def test_the_rule_for_dialling_at_once():
    """Whoever has the lower name refuses once its own hello is under way; the other one lets go of its own."""
    from types import SimpleNamespace

    from fedmesh.transport.peer_pool import Pool
    from fedmesh.transport.peer_wire import Hello

    def answer(own, other, *, greets, there=None, age_s=1.0):
        pool = Pool.__new__(Pool)
        pool._closed = False
        pool._membership = SimpleNamespace(name=SimpleNamespace(id=own))
        pool._options = SimpleNamespace(hello_s=5.0, connections=16)
        pool._loop = SimpleNamespace(time=lambda: 100.0)
        pool.dialling = {other: SimpleNamespace(greets=greets, via=None, dialled=other)} if greets is not None else {}
        known = SimpleNamespace(since=100 - age_s, run=there, dialled=other, via=None)
        pool.links = {} if there is None else {other: known}
        return pool._refusal(SimpleNamespace(name=other, via=None), Hello(own, b"run-now-"))

    assert answer("a", "b", greets=True) == "mine"
    assert answer("a", "b", greets=False) == "", "its own may never get through"
    assert answer("b", "a", greets=True) == ""
    assert answer("a", "b", greets=None, there=b"run-now-") == "mine", "it crossed our hello"
    assert answer("a", "b", greets=None, there=b"run-now-", age_s=6.0) == "", "the old one is dead at its end"
    assert answer("a", "b", greets=None, there=b"run-old-") == "", "it was started again"
    assert answer("b", "a", greets=None, there=b"run-now-") == ""


def test_a_new_connection_ends_our_own_attempt_and_the_old_one_at_once():
    """At once: what comes on them in the same turn of the loop must not make them the connection."""
    from types import SimpleNamespace

    from fedmesh.transport.peer_pool import Pool

    ended, came = [], []
    attempt, old, new = [SimpleNamespace(name="b", abort=ended.append) for _ in range(3)]
    pool = Pool.__new__(Pool)
    pool._watcher = SimpleNamespace(came=came.append)
    pool.links, pool.dialling = {"b": old}, {"b": attempt}
    pool.adopt(new)
    assert pool.links == {"b": new}
    assert not pool.dialling
    assert (ended, came) == (["theirs", "replaced"], [new])


def test_nagle_waits_for_nothing(mesh):
    async def test(entered):
        one, other = await entered(mesh.open("a")), await entered(mesh.open("b"))
        await one.connect("b", wait_s=120)
        for peer in (one, other):
            (link,) = peer.carrier.pool.links.values()
            opened = link._transport.get_extra_info("socket")
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert link._transport.get_extra_info("ssl_object").version() == "TLSv1.3"

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


def test_a_dead_address_is_passed_over_and_ipv6_is_one(mesh):
    async def test(entered):
        await entered(mesh.open("b"))
        v6 = await entered(mesh.open("six", listen=(("::1", 0),)))
        one = await entered(mesh.open("a"))
        mesh.addresses["b"] = [(HOST, 1), ("no-such-host.invalid", 7), *mesh.addresses["b"]]
        mesh.addresses["six"] = v6.listening
        await one.connect("b", wait_s=120)
        await one.connect("six", wait_s=120)

    if not socket.has_ipv6:
        pytest.skip("NO IPV6")
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


def test_the_least_recently_used_connection_gives_way(mesh):
    async def test(entered):
        hub = await entered(mesh.open("hub", connections=2, rest_s=0.01))
        spokes = [await entered(mesh.open(f"spoke-{number}")) for number in range(3)]
        for number in range(3):
            await hub.send(f"spoke-{number}", b"x")
            await asyncio.sleep(0.02)
        assert hub.links == ["spoke-1", "spoke-2"]
        assert hub.present == {"spoke-0", "spoke-1", "spoke-2"}, "who rests is not gone"
        await spokes[0].send("hub", b"y")
        assert hub.links == ["spoke-2", "spoke-0"]

    running(test)


def test_nobody_gives_way_who_is_at_work(mesh):
    async def test(entered):
        hub = await entered(mesh.open("hub", connections=1, rest_s=3_600))
        first, second = await entered(mesh.open("first")), await entered(mesh.open("second"))
        await first.connect("hub", wait_s=120)
        sending = asyncio.create_task(second.send("hub", b"later"))
        await until(lambda: hub.counts["refused_crowded"] and second.counts["connection_failed"])
        assert hub.links == ["first"]
        hub.carrier.pool._options = replace(hub.carrier.pool._options, rest_s=0.01)  # what it has used is at rest now
        await sending
        assert hub.links == ["second"]

    running(test)


def test_an_idle_connection_is_ended_and_made_again_when_it_is_wanted(mesh):
    async def test(entered):
        one, other = await entered(mesh.open("a", idle_s=0.1)), await entered(mesh.open("b"))
        gone = []
        other.on_presence = lambda peer, there: gone.append(peer) if not there else None
        await one.send("b", b"1")
        await until(lambda: not one.links and not other.links)
        await other.send("a", b"2")
        assert gone == []
        assert one.counts["connection_lost"] == other.counts["connection_lost"] == 0

    running(test)


def test_a_peer_that_is_kept_is_called_and_called_again(mesh):
    async def test(entered):
        other = await mesh.open("b")
        one = await entered(mesh.open("a", keep=frozenset({"b"}), idle_s=0.05))
        await until(lambda: one.present == {"b"})
        await asyncio.sleep(0.2)
        assert one.links == ["b"], "it does not rest"
        await other.aclose()
        await until(lambda: not one.present)
        await entered(mesh.open("b"))
        await until(lambda: one.present == {"b"})

    running(test)


def test_a_peer_that_does_not_keep_us_is_called_again_when_it_hangs_up(mesh):
    async def test(entered):
        await entered(mesh.open("b", idle_s=0.1))
        one = await entered(mesh.open("a", keep=frozenset({"b"})))
        met = []
        one.on_presence = lambda peer, there: met.append((peer, there))
        await until(lambda: met.count(("b", True)) >= 3)
        assert ("b", False) not in met

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


def test_a_renewed_certificate_is_shown_from_then_on(mesh):
    async def test(entered):
        one, other = await entered(mesh.open("a")), await entered(mesh.open("b"))
        await one.connect("b", wait_s=120)
        before = other.carrier.pool.links["a"].peer.serial
        mesh.mesh.renew(mesh.members["a"], now=time.time())
        one.carrier.pool.links["b"].close("idle")
        await until(lambda: not other.links)
        await other.connect("a", wait_s=120)
        assert one.carrier.pool.links["b"].peer.name.id == "b"
        assert other.carrier.pool.links["a"].peer.serial == mesh.members["a"].leaf.serial_number != before

    running(test)


def test_where_we_cannot_listen(mesh):
    async def test(entered):
        taken = await entered(mesh.open("a"))
        with pytest.raises(ConfigError, match="cannot listen at"):
            await mesh.open("b", listen=tuple(taken.listening))

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
