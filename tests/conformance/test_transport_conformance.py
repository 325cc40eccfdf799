"""One suite over every `fedmesh.types.Transport`: memory, peers over TLS and relayed, MQTT where a broker is."""

import asyncio
import contextlib
import os
import random

import pytest
from relaying import acquainted

from fedmesh.errors import ConfigError, DeliveryError, PeerError
from fedmesh.testing.loopback_broker import LoopbackBroker, SmallCa, find_mosquitto
from fedmesh.transport.limits import Limits
from fedmesh.transport.memory import MemoryBroker
from fedmesh.transport.mqtt import MqttTransport
from fedmesh.types import Transport

LIMITS = Limits(message_bytes=4 << 20, retry_s=0.5)
LARGE = random.Random(5).randbytes(3_000_000)


@pytest.fixture(params=["memory", "mqtt", "peers", "relayed"])
def together(request, tmp_path):
    """Runs a coroutine function with a device's and a coordinator's transport."""
    if request.param == "mqtt" and find_mosquitto() is None:
        if os.environ.get("CI"):
            pytest.fail("NO MOSQUITTO: apt-get install mosquitto", pytrace=False)
        pytest.skip("NO MOSQUITTO: the MQTT transport is not held against the suite (apt-get install mosquitto)")
    members = acquainted(tmp_path, "device", "coordinator", "hub", limits=LIMITS)
    broker = LoopbackBroker(tmp_path / "broker", SmallCa(tmp_path / "ca")) if request.param == "mqtt" else None

    async def main(test):
        async with asyncio.timeout(240), contextlib.AsyncExitStack() as stack:
            if request.param in {"peers", "relayed"}:
                pair = await _peers(members, stack, relayed=request.param == "relayed")
            elif broker is None:
                memory = MemoryBroker()
                pair = [
                    memory.join("device", limits=LIMITS),
                    memory.join("coordinator", limits=LIMITS, coordinator=True),
                ]
            else:
                options = [broker.options(name) for name in ("device", "coordinator")]
                pair = [await MqttTransport.open(one, limits=LIMITS, wait_s=120) for one in options]
            async with pair[0], pair[1]:
                await test(*pair)

    yield lambda test: asyncio.run(main(test))
    if broker is not None:
        broker.kill()


async def _peers(members, stack, *, relayed):
    hub = await stack.enter_async_context(await members.open("hub", relay_bytes_per_s=1e9)) if relayed else None
    device = await members.open("device", listens=not relayed)
    coordinator = await members.open("coordinator", listens=not relayed, announces=True)
    if hub is not None:
        await asyncio.gather(*[one.connect("hub", wait_s=120) for one in (device, coordinator)])
    await device.connect("coordinator", wait_s=120)
    assert device.relayed == ({"coordinator": "hub"} if relayed else {})
    return device, coordinator


def test_it_is_a_transport(together):
    async def test(device: Transport, coordinator: Transport):
        messages = coordinator.receive()
        for data in (b"", b"x", LARGE):
            await device.send("coordinator", data)
            assert await anext(messages) == ("device", data)

    together(test)


def test_both_ways_at_once(together):
    async def test(device, coordinator):
        up = [bytes([number]) * 200_000 for number in range(10)]
        down = [bytes([100 + number]) * 200_000 for number in range(10)]
        sends = [device.send("coordinator", data) for data in up] + [coordinator.send("device", data) for data in down]

        async def take(transport):
            messages = transport.receive()
            return [(await anext(messages))[1] for _ in range(10)]

        *_, at_coordinator, at_device = await asyncio.gather(*sends, take(coordinator), take(device))
        assert sorted(at_coordinator) == up
        assert sorted(at_device) == down

    together(test)


def test_what_nobody_takes_in_time_expires(together):
    async def test(device, _coordinator):
        with pytest.raises(DeliveryError, match="expired"):
            await device.send("nobody", b"data", expires_in_s=0.3)

    together(test)


def test_a_message_that_is_too_long_is_refused_at_once(together):
    async def test(device, _coordinator):
        with pytest.raises(PeerError, match="the limit is"):
            await device.send("coordinator", bytes((4 << 20) + 1))

    together(test)


def test_receiving_ends_when_it_is_closed(together):
    async def test(device, coordinator):
        await device.send("coordinator", b"last")
        got = []

        async def read():
            async for _, data in coordinator.receive():
                got.append(data)

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        await coordinator.aclose()
        await coordinator.aclose()
        await reading
        assert got in ([b"last"], [])
        with pytest.raises(DeliveryError, match="closed"):
            await coordinator.send("device", b"more")

    together(test)


def test_each_sees_that_the_other_is_there(together):
    async def test(device, coordinator):
        for one, other in ((device, "coordinator"), (coordinator, "device")):
            while other not in one.present:
                await asyncio.sleep(0.01)

    together(test)


def test_channels_carry_messages_of_their_own_and_are_transports(together):
    async def test(device, coordinator):
        fleet: Transport = device.channel("fleet")
        await fleet.send("coordinator", b"about the fleet")
        await device.send("coordinator", b"about nothing")
        await device.channel("files").send("coordinator", LARGE)
        for channel, wanted in (("files", LARGE), ("main", b"about nothing"), ("fleet", b"about the fleet")):
            assert await anext(coordinator.channel(channel).receive()) == ("device", wanted)
        with pytest.raises(ConfigError, match="there is no channel 'Fleet'"):
            device.channel("Fleet")

    together(test)


def test_a_channel_that_nobody_reads_does_not_hold_up_another(together):
    async def test(device, coordinator):
        most = 2 * LIMITS.queued + LIMITS.peer_messages
        filling = asyncio.create_task(_fill(device.channel("fleet"), most))
        while coordinator.counts["busy"] == 0:
            await asyncio.sleep(0.01)
        for number in range(20):
            await device.send("coordinator", bytes([number]))
            assert await anext(coordinator.receive()) == ("device", bytes([number]))
        assert not filling.done()  # the sender waits, nothing is dropped
        fleet = coordinator.channel("fleet").receive()
        arrived = {(await anext(fleet))[1] for _ in range(most)}
        assert arrived == {number.to_bytes(4) for number in range(most)}
        await filling

    together(test)


async def _fill(channel, count):
    for number in range(count):
        await channel.post("coordinator", number.to_bytes(4))


def test_an_announcement_reaches_who_is_there_and_who_comes_later(together):
    async def test(device, coordinator):
        told = asyncio.Queue()
        device.on_announcement = lambda *announcement: told.put_nowait(announcement)
        await coordinator.announce("model", b"1")
        assert await told.get() == ("coordinator", "model", b"1")
        await coordinator.announce("lists", bytes(4096))
        await coordinator.announce("model", b"2")
        assert {await told.get(), await told.get()} == {
            ("coordinator", "lists", bytes(4096)),
            ("coordinator", "model", b"2"),
        }
        assert device.announced == {("coordinator", "model"): b"2", ("coordinator", "lists"): bytes(4096)}
        await coordinator.announce("lists", b"")
        assert await told.get() == ("coordinator", "lists", b"")
        assert device.announced == {("coordinator", "model"): b"2"}

    together(test)


def test_what_is_not_announced(together):
    async def test(device, coordinator):
        with pytest.raises(ConfigError, match="a device announces nothing"):
            await device.announce("model", b"x")
        with pytest.raises(ConfigError, match="model and lists are"):
            await coordinator.announce("weather", b"x")
        with pytest.raises(PeerError, match="the limit is 4096"):
            await coordinator.announce("model", bytes(4097))
        await coordinator.aclose()
        with pytest.raises(DeliveryError, match="closed"):
            await coordinator.announce("model", b"x")

    together(test)


def test_a_shunned_peer_announces_nothing_and_is_heard_again_when_it_is_readmitted(together):
    async def test(device, coordinator):
        await coordinator.announce("model", b"1")
        while not device.announced:
            await asyncio.sleep(0.01)
        device.shun("coordinator")
        assert not device.announced
        await coordinator.announce("model", b"2")
        while device.counts["shunned"] == 0:
            await asyncio.sleep(0.01)
        assert not device.announced
        device.readmit("coordinator")
        await coordinator.announce("model", b"3")
        while not device.announced:
            await asyncio.sleep(0.01)
        await coordinator.send("device", b"back")
        assert await anext(device.receive()) == ("coordinator", b"back")

    together(test)
