"""Whoever is on the link can announce what he likes: real packets of multicast DNS, on loopback."""

import asyncio
import random
import secrets
import time

import pytest
from lying_records import addresses, announcement, packets, text
from multicast_listeners import listening
from zeroconf import DNSPointer

from fedmesh.mesh.discovery.multicast_guards import MAX_RECORDS
from fedmesh.mesh.discovery.records import SERVICE

LIES = {
    "a port of none": ({"port": 0}, "port"),
    "an address of a group": ({"hosts": ["224.0.0.1"]}, "multicast"),
    "an address of nobody": ({"hosts": ["0.0.0.0"]}, "unspecified"),
    "a machine far away": ({"hosts": ["8.8.8.8"]}, "off_link"),
    "a link-local address of no link": ({"hosts": ["fe80::1"]}, "scope"),
    "a mapped address": ({"hosts": ["::ffff:8.8.8.8"]}, "off_link"),
    "an empty text": ({"txt": b""}, "format"),
    "a text cut short": ({"txt": b"\xffv=1"}, "format"),
    "another version": ({"txt": b"\x03v=2"}, "format"),
    "another mesh": ({"txt": text("another")}, "mesh"),
    "a text of bytes": ({"txt": bytes(range(200, 250))}, "format"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_an_announcement_claims_is_checked(lie: str) -> None:
    async def scenario() -> None:
        async with listening() as listener:
            changes, why = LIES[lie]
            name = secrets.token_hex(8)
            listener.liar.say(announcement(name, **{"txt": text(listener.mesh), **changes}))  # type: ignore[arg-type]
            await listener.until(lambda: listener.counts[why])
            hint = await listener.truth()
            assert hint.addresses == (("127.0.0.1", 7946),)
            assert name not in {hint.key for hint in listener.hints}

    asyncio.run(scenario())


def test_a_text_as_long_as_a_packet_is_not_even_read() -> None:
    async def scenario() -> None:
        async with listening() as listener:
            name = secrets.token_hex(8)
            listener.liar.say(announcement(name, txt=text(listener.mesh) + b"\xff" + bytes(255)))
            await listener.until(lambda: listener.counts["oversize"])
            too_long = announcement(secrets.token_hex(8), txt=bytes(8_700))
            for record in reversed(too_long):  # each in a packet of its own, the pointer last
                listener.liar.say([record])
            await listener.until(lambda: listener.counts["oversize"] >= 2)
            await listener.truth()

    asyncio.run(scenario())


def test_a_thousand_addresses_are_eight_at_most_and_cost_no_time() -> None:
    async def scenario() -> None:
        async with listening() as listener:
            name, server = secrets.token_hex(8), f"{secrets.token_hex(8)}.local."
            hosts = [f"127.0.{n >> 8}.{n & 255}" for n in range(1, 1_001)]
            listener.liar.say(announcement(name, hosts=hosts[:20], server=server, txt=text(listener.mesh)))
            await listener.until(lambda: name in {hint.key for hint in listener.hints})
            begun = time.process_time()
            for start in range(20, 1_000, 100):
                listener.liar.say(addresses(server, hosts[start : start + 100]))
            await listener.until(lambda: listener.counts["oversize"])
            await listener.truth()
            assert time.process_time() - begun < 20.0
            assert all(len(hint.addresses) <= 8 for hint in listener.hints)

    asyncio.run(scenario())


@pytest.mark.parametrize("instance", [b"\xff\xfe\xfd", b"a\x00b", b"a b", b"../etc", "анна".encode(), b"x" * 60])
def test_a_name_that_is_none_is_counted(instance: bytes) -> None:
    """By hand: no library writes such a name."""

    async def scenario() -> None:
        async with listening() as listener:
            place = "P" * len(instance)
            (honest,) = packets(announcement(place, txt=text(listener.mesh)))
            listener.liar.send(honest.replace(place.encode(), instance))
            await listener.until(lambda: listener.counts["name"])
            await listener.truth()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "alias",
    ["a._FEDMESH._tcp.local.", "a._http._tcp.local.", "_fedmesh._tcp.local.", "a._x._sub._fedmesh._tcp.local."],
)
def test_a_pointer_may_point_anywhere(alias: str) -> None:
    async def scenario() -> None:
        broken: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
        async with listening() as listener:
            listener.liar.say([DNSPointer(SERVICE, 12, 1, 4_500, alias)])
            await listener.until(lambda: listener.counts["name"])
            await listener.truth()
            assert not broken

    asyncio.run(scenario())


def test_noise_is_nothing() -> None:
    async def scenario() -> None:
        broken: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
        async with listening() as listener:
            chance = random.Random(7)
            (honest,) = packets(announcement("place", txt=text(listener.mesh)))
            for _ in range(300):
                bad = bytearray(honest)
                for _ in range(chance.randrange(1, 8)):
                    bad[chance.randrange(len(bad))] = chance.randrange(256)
                listener.liar.send(bytes(bad[: chance.randrange(len(bad))]) if chance.random() < 0.3 else bytes(bad))
                await asyncio.sleep(0)
            await listener.truth()
            assert listener.told == broken == []

    asyncio.run(scenario())


def test_names_without_end_are_not_kept() -> None:
    """Neither by us nor by zeroconf, which would remember each of them for a quarter of an hour."""

    async def scenario() -> None:
        async with listening() as listener:
            begun = time.process_time()
            for batch in range(20):
                names = (f"{batch}-{n}-{secrets.token_hex(4)}.{SERVICE}" for n in range(200))
                listener.liar.say(DNSPointer(SERVICE, 12, 1, 4_500, name) for name in names)
                await asyncio.sleep(0.02)
            await listener.until(lambda: listener.counts["swept"] and listener.counts["full"])
            await listener.truth()
            assert len(listener.multicast._wanted) <= 16
            assert len(listener.multicast._resolving) <= 4
            session = listener.multicast._session
            assert session is not None
            zc = session.zeroconf.zeroconf
            assert sum(len(zc.cache.entries_with_name(name)) for name in zc.cache.names()) <= 2 * MAX_RECORDS
            assert time.process_time() - begun < 50.0

    asyncio.run(scenario())


def test_a_forged_goodbye_is_passed_on_as_hearsay() -> None:
    async def scenario() -> None:
        async with listening() as listener, asyncio.timeout(120):
            hint = await listener.truth()
            while hint.key not in listener.withdrawn:  # a flood of a test beside this one may have swept it away
                listener.liar.say(announcement(hint.key, txt=text(listener.mesh)))
                listener.liar.say(announcement(hint.key, txt=text(listener.mesh), ttl=0))
                await asyncio.sleep(0.05)

    asyncio.run(scenario())


def test_who_answers_for_every_name_does_not_hear_ours_and_we_go_on_hearing_others() -> None:
    """The name is drawn anew each time, and nothing else stops."""

    async def scenario() -> None:
        async with listening() as listener:
            multicast = listener.multicast
            multicast._port = 7999
            names = set()
            async with asyncio.timeout(120):
                while listener.counts["conflict"] < 2:
                    names.add(multicast.instance)
                    listener.liar.say(announcement(multicast.instance, txt=text(listener.mesh)))
                    await asyncio.sleep(0.02)
            assert not multicast.is_announced
            assert len(names) >= 2
            await listener.truth()

    asyncio.run(scenario())
