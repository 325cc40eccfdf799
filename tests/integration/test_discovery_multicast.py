"""Announcing and hearing over real multicast on loopback; on real links: test_discovery_namespaces."""

import asyncio
import secrets

from lying_records import announcement, text
from multicast_listeners import Listener, listening

from fedmesh.errors import ConfigError
from fedmesh.mesh.discovery import Surroundings
from fedmesh.mesh.discovery.interfaces import Own
from fedmesh.mesh.discovery.records import SERVICE


def test_two_hear_each_other_by_names_drawn_by_lot_and_a_goodbye_is_heard() -> None:
    async def scenario() -> None:
        async with listening(port=7001) as anna:
            async with listening(anna.mesh, port=7002) as bert:
                await anna.until(lambda: anna.hints and bert.hints)
                assert anna.hints[0].addresses == (("127.0.0.1", 7002),)
                assert bert.hints[0].addresses == (("127.0.0.1", 7001),)
                assert anna.hints[0].key == bert.multicast.instance != anna.multicast.instance
                assert anna.multicast.instance not in {hint.key for hint in anna.hints}
            await anna.until(lambda: bert.multicast.instance in anna.withdrawn)
            assert not anna.told

    asyncio.run(scenario())


def test_nothing_that_is_announced_tells_who_or_which_machine_it_is() -> None:
    async def scenario() -> None:
        async with listening(port=7001) as anna:
            info = anna.multicast._service(anna.around)
            instance = anna.multicast.instance
            assert len(instance) == 16
            assert (info.name, info.server) == (f"{instance}.{SERVICE}", f"{instance}.local.")
            assert set(info.properties) == {b"v", b"m"}
            assert anna.mesh.encode() not in info.text

    asyncio.run(scenario())


def test_a_name_is_announced_where_it_is_configured() -> None:
    async def scenario() -> None:
        name = f"gate-{secrets.token_hex(4)}"
        async with listening(port=7001, instance=name) as anna, listening(anna.mesh) as bert:
            await bert.until(lambda: bert.hints)
            assert bert.hints[0].key == name

    asyncio.run(scenario())


def test_an_address_that_comes_later_is_announced_later() -> None:
    async def scenario() -> None:
        async with listening(port=7001) as anna, listening(anna.mesh) as bert:
            await bert.until(lambda: bert.hints)
            anna.around = Surroundings((*anna.around.own, Own("127.0.0.9", 8, 1, "lo")))
            await bert.until(lambda: ("127.0.0.9", 7001) in bert.hints[-1].addresses)

    asyncio.run(scenario())


def test_what_is_still_announced_is_offered_again() -> None:
    async def scenario() -> None:
        async with listening(again_s=0.1) as anna:
            name = secrets.token_hex(8)
            anna.liar.say(announcement(name, txt=text(anna.mesh)))
            await anna.until(lambda: [hint.key for hint in anna.hints].count(name) >= 3)

    asyncio.run(scenario())


def test_what_was_announced_in_part_is_asked_for() -> None:
    async def scenario() -> None:
        async with listening() as anna:
            name = secrets.token_hex(8)
            pointer, *rest = announcement(name, txt=text(anna.mesh))
            anna.liar.say([pointer])
            await asyncio.sleep(0.1)
            assert not anna.hints
            anna.liar.say(rest)
            await anna.until(lambda: name in {hint.key for hint in anna.hints})

    asyncio.run(scenario())


def test_no_network_is_no_trouble_and_trouble_is_told_once_and_tried_again() -> None:
    async def scenario() -> None:
        anna = Listener(interfaces_s=0.05)
        around, anna.around = anna.around, Surroundings(())

        def broken() -> Surroundings:
            raise ConfigError("the system does not tell")

        try:
            await asyncio.sleep(0.2)
            assert anna.multicast._session is None
            assert not anna.told
            anna.multicast._around = broken
            await anna.until(lambda: anna.counts["multicast_failed"] >= 3)
            assert len(anna.told) == 1
            anna.multicast._around = lambda: around
            await anna.truth()
        finally:
            await anna.multicast.aclose()
            anna.liar.close()

    asyncio.run(scenario())
