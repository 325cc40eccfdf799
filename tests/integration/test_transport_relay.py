"""Peers that cannot reach each other, and a neighbour of both who carries what they say."""

import asyncio
import contextlib
import random
import time

from peer_mesh import HOST, running, until
from relaying import acquainted, spokes, tell_lists, turned_away

from fedmesh.errors import PeerError

LARGE = random.Random(7).randbytes(1_500_000)
FAST = {"relay_bytes_per_s": 1e9}


def test_two_who_cannot_reach_each_other_speak_through_a_neighbour(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna", "cleo")

    async def test(entered):
        hub = await entered(mesh.open("hub", **FAST))
        anna, cleo = await spokes(mesh, entered, "hub", "anna", "cleo")
        await asyncio.gather(anna.send("cleo", LARGE), cleo.send("anna", LARGE[::-1]))
        assert await anext(cleo.receive()) == ("anna", LARGE)
        assert await anext(anna.receive()) == ("cleo", LARGE[::-1])
        assert anna.relayed == {"cleo": "hub"}
        assert cleo.relayed == {"anna": "hub"}
        assert [set(names) for names in hub.relaying] == [{"anna", "cleo"}]
        assert hub.relayed == {}
        assert hub.carrier.relay.carried_bytes > 2 * len(LARGE)

    running(test)


def test_when_they_can_reach_each_other_again_the_circuit_is_closed_and_nothing_is_lost(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna", "cleo")

    async def test(entered):
        hub = await entered(mesh.open("hub", **FAST))
        cleo = await entered(mesh.open("cleo", keep=frozenset({"hub"})))
        await until(lambda: "hub" in cleo.links)
        there = mesh.addresses.pop("cleo")
        (anna,) = await spokes(mesh, entered, "hub", "anna", direct_s=0.1)
        await anna.connect("cleo", wait_s=120)
        assert anna.relayed == {"cleo": "hub"}
        sending = asyncio.create_task(anna.send("cleo", LARGE))
        mesh.addresses["cleo"] = [(HOST, 1), *there]
        await sending
        assert await anext(cleo.receive()) == ("anna", LARGE)
        await until(lambda: not anna.relayed and not cleo.relayed)
        await until(lambda: not hub.relaying)
        assert "cleo" in anna.links
        assert {"anna", "cleo"} <= set(hub.links), "both are its neighbours still"
        assert anna.counts["connection_lost"] == cleo.counts["connection_lost"] == 0

    running(test)


def test_who_hears_of_an_address_dials_at_once(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna", "cleo")

    async def test(entered):
        await entered(mesh.open("hub"))
        cleo = await entered(mesh.open("cleo"))
        await cleo.connect("hub", wait_s=120)
        there = mesh.addresses.pop("cleo")
        (anna,) = await spokes(mesh, entered, "hub", "anna")
        await anna.connect("cleo", wait_s=120)
        assert anna.relayed
        mesh.addresses["cleo"] = there
        await anna.connect("cleo", wait_s=120)
        await until(lambda: not anna.relayed)
        assert "cleo" in anna.links

    running(test)


def test_a_direct_connection_is_not_given_up_for_a_relayed_one(tmp_path):
    """Whoever is called through a neighbour while it has a direct connection refuses; and nobody asks for it."""
    mesh = acquainted(tmp_path, "hub", "anna", "cleo")

    async def test(entered):
        hub = await entered(mesh.open("hub"))
        cleo = await entered(mesh.open("cleo"))
        await cleo.connect("hub", wait_s=120)
        (anna,) = await spokes(mesh, entered, "hub", "anna")
        await anna.connect("cleo", wait_s=120)
        assert not anna.relayed
        assert not hub.relaying
        outcome = await anna.carrier.attempts._relayed("cleo", "hub")
        assert "mine" in outcome.trouble
        assert not anna.relayed
        assert not cleo.relayed
        await until(lambda: not hub.relaying)

    running(test)


def test_when_the_relay_dies_another_neighbour_does_it(tmp_path):
    mesh = acquainted(tmp_path, "hub-1", "hub-2", "anna", "cleo")

    async def test(entered):
        hubs = {name: await mesh.open(name) for name in ("hub-1", "hub-2")}
        try:
            anna, cleo = await spokes(mesh, entered, "hub-1", "anna", "cleo")
            for spoke in (anna, cleo):
                await spoke.connect("hub-2", wait_s=120)
            await anna.send("cleo", b"one")
            first = anna.relayed["cleo"]
            for link in list(hubs[first].carrier.pool.links.values()):
                link.abort("killed")  # no goodbye
            await hubs.pop(first).aclose()
            await anna.send("cleo", b"two")
            messages = cleo.receive()
            assert [await anext(messages), await anext(messages)] == [("anna", b"one"), ("anna", b"two")]
            assert {anna.relayed["cleo"]} == {cleo.relayed["anna"]} == set(hubs)
        finally:
            for hub in hubs.values():
                await hub.aclose()

    running(test)


def test_one_hop_only(tmp_path):
    """anna - hub-1 - hub-2 - cleo: nobody has a connection with both ends."""
    mesh = acquainted(tmp_path, "hub-1", "hub-2", "anna", "cleo")

    async def test(entered):
        hub, other = await entered(mesh.open("hub-1")), await entered(mesh.open("hub-2"))
        await hub.connect("hub-2", wait_s=120)
        (anna,) = await spokes(mesh, entered, "hub-1", "anna")
        await spokes(mesh, entered, "hub-2", "cleo")
        await turned_away(anna, "cleo", "hub-1 does not relay to it: unlinked")
        await anna.connect("hub-2", wait_s=120)
        mesh.addresses.pop("hub-2")
        await until(lambda: "hub-2" in anna.links)
        assert other.counts["relay_unlinked"] == 0, "who is a neighbour through a relay only is not asked"

    async def relayed_neighbour(entered):
        """hub-1 reaches cleo through hub-2 only: it does not relay on top of it, to her or for her."""
        hub, _ = await entered(mesh.open("hub-1", listens=True)), await entered(mesh.open("hub-2", **FAST))
        (cleo,) = await spokes(mesh, entered, "hub-2", "cleo")
        await hub.connect("hub-2", wait_s=120)
        mesh.addresses.pop("hub-1", None)
        await hub.connect("cleo", wait_s=120)
        assert hub.relayed == {"cleo": "hub-2"}
        mesh.addresses["hub-1"] = hub.listening
        (anna,) = await spokes(mesh, entered, "hub-1", "anna")
        await turned_away(anna, "cleo", "hub-1 does not relay to it: unlinked")
        assert cleo.carrier.attempts.neighbours("anna") == ["hub-2"], "and not hub-1"

    running(test)
    running(relayed_neighbour)


def test_who_is_revoked_is_not_relayed_to_and_cut_off(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna", "cleo", "dora")

    async def test(entered):
        hub = await entered(mesh.open("hub", **FAST))
        anna, _cleo, dora = await spokes(mesh, entered, "hub", "anna", "cleo", "dora")
        await anna.connect("cleo", wait_s=120)
        mesh.mesh.issuer.revoke("cleo", time.time())
        tell_lists(mesh, "hub")
        await until(lambda: not hub.relaying)
        await until(lambda: "cleo" not in anna.links)
        await turned_away(dora, "cleo", "hub does not relay to it: roster")
        assert "cleo" not in hub.links

    async def the_relay_does_not_know_yet(entered):
        """Then the ends do."""
        await entered(mesh.open("hub", **FAST))
        anna, bert = await spokes(mesh, entered, "hub", "anna", "bert")
        await anna.connect("bert", wait_s=120)
        mesh.mesh.issuer.revoke("bert", time.time())
        tell_lists(mesh, "anna")
        await until(lambda: "bert" not in anna.links and "anna" not in bert.links)
        assert anna.counts["cut_revoked"] == 1
        calling = asyncio.create_task(bert.connect("anna", wait_s=3_600))
        await until(lambda: anna.counts["refused_revoked"])
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)

    running(test)
    mesh.member("bert")
    tell_lists(mesh, "hub", "anna")
    running(the_relay_does_not_know_yet)


def test_somebody_who_is_not_on_the_relays_roster(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna")

    async def test(entered):
        hub = await entered(mesh.open("hub"))
        anna, _newcomer = await spokes(mesh, entered, "hub", "anna", "newcomer")
        await turned_away(anna, "newcomer", "roster")
        assert hub.counts["relay_roster"] >= 1
        tell_lists(mesh, "hub")
        await anna.connect("newcomer", wait_s=120)

    running(test)


def test_a_relay_has_its_limits(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna", "bert", "cleo", "dora")

    async def test(entered):
        hub = await entered(mesh.open("hub", circuits=2, circuits_each=1))
        anna, bert, cleo, _dora = await spokes(mesh, entered, "hub", "anna", "bert", "cleo", "dora")
        await anna.connect("bert", wait_s=120)
        await turned_away(cleo, "anna", "hub does not relay to it: full")
        await cleo.connect("dora", wait_s=120)
        assert len(hub.relaying) == 2
        anna.carrier.pool.links["bert"].close("idle")
        await until(lambda: len(hub.relaying) == 1)
        await bert.connect("anna", wait_s=120)

    async def off(entered):
        hub = await entered(mesh.open("hub", relay=False))
        anna, _bert = await spokes(mesh, entered, "hub", "anna", "bert")
        await turned_away(anna, "bert", "hub does not relay to it: off")
        assert hub.counts["relay_off"] >= 1

    running(test)
    running(off)


def test_bytes_that_are_carried_for_others_are_limited_and_our_own_are_not(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna", "cleo")

    async def test(entered):
        hub = await entered(mesh.open("hub", relay_bytes_per_s=400_000.0))
        anna, _cleo = await spokes(mesh, entered, "hub", "anna", "cleo")
        await anna.connect("cleo", wait_s=120)
        began, before = asyncio.get_running_loop().time(), hub.carrier.relay.carried_bytes
        sending = asyncio.create_task(anna.send("cleo", LARGE[:800_000]))
        await hub.send("cleo", LARGE)
        assert not sending.done()
        await sending
        passed_s = asyncio.get_running_loop().time() - began
        assert hub.carrier.relay.carried_bytes - before <= 400_000 * (passed_s + 0.1) + 32_768

    running(test)


def test_a_circuit_that_nobody_uses_is_ended(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna", "cleo")

    async def test(entered):
        hub = await entered(mesh.open("hub", idle_s=0.5))
        anna, cleo = await spokes(mesh, entered, "hub", "anna", "cleo")
        await anna.connect("cleo", wait_s=120)
        await until(lambda: not hub.relaying)
        await until(lambda: not anna.relayed and not cleo.relayed)
        await anna.send("cleo", b"again")
        assert await anext(cleo.receive()) == ("anna", b"again")

    running(test)


def test_who_dials_each_other_through_a_neighbour_at_once_has_one_connection(tmp_path):
    mesh = acquainted(tmp_path, "hub", "anna", "cleo")

    async def test(entered):
        hub = await entered(mesh.open("hub", **FAST))
        anna, cleo = await spokes(mesh, entered, "hub", "anna", "cleo")
        for _ in range(5):
            with contextlib.suppress(PeerError):
                await asyncio.gather(anna.connect("cleo", wait_s=120), cleo.connect("anna", wait_s=120))
            await until(lambda: len(hub.relaying) == 1 and anna.relayed and cleo.relayed)
            await asyncio.gather(anna.send("cleo", b"a"), cleo.send("anna", b"c"))
            anna.carrier.pool.links["cleo"].close("idle")
            await until(lambda: not hub.relaying and not anna.relayed and not cleo.relayed)

    running(test)
