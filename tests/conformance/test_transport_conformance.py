"""One suite over every `fedmesh.types.Transport`: memory, and MQTT where there is a broker."""

import asyncio
import os
import random

import pytest

from fedmesh.errors import DeliveryError, PeerError
from fedmesh.testing.loopback_broker import LoopbackBroker, SmallCa, find_mosquitto
from fedmesh.transport.limits import Limits
from fedmesh.transport.memory import MemoryBroker
from fedmesh.transport.mqtt import MqttTransport
from fedmesh.types import Transport

LIMITS = Limits(message_bytes=4 << 20, retry_s=0.5)
LARGE = random.Random(5).randbytes(3_000_000)


@pytest.fixture(params=["memory", "mqtt"])
def together(request, tmp_path):
    """Runs a coroutine function with a device's and a coordinator's transport."""
    if request.param == "mqtt" and find_mosquitto() is None:
        if os.environ.get("CI"):
            pytest.fail("NO MOSQUITTO: apt-get install mosquitto", pytrace=False)
        pytest.skip("NO MOSQUITTO: the MQTT transport is not held against the suite (apt-get install mosquitto)")
    broker = LoopbackBroker(tmp_path / "broker", SmallCa(tmp_path / "ca")) if request.param == "mqtt" else None

    async def main(test):
        async with asyncio.timeout(30):
            if broker is None:
                memory = MemoryBroker()
                pair = [memory.join(name, limits=LIMITS) for name in ("device", "coordinator")]
            else:
                options = [broker.options(name) for name in ("device", "coordinator")]
                pair = [await MqttTransport.open(one, limits=LIMITS, wait_s=20) for one in options]
            async with pair[0], pair[1]:
                await test(*pair)

    yield lambda test: asyncio.run(main(test))
    if broker is not None:
        broker.kill()


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
            while other not in one.present:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    together(test)
