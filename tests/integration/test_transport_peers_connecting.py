"""Which connections there are between peers, over real TLS 1.3 on loopback: who dials, who gives way, who rests."""

import asyncio
import socket
import time
from dataclasses import replace

import pytest
from peer_mesh import HOST, PeerMesh, running, until

from fedmesh.errors import ConfigError


@pytest.fixture
def mesh(tmp_path):
    return PeerMesh(tmp_path)


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
