"""Announcements at a real broker: what it forgets, and who may not make any."""

import asyncio
import shutil

import pytest
from mqtt_fleet import require_mosquitto
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from fedmesh.errors import DeliveryError
from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.transport.mqtt import MqttTransport

require_mosquitto()


@pytest.fixture
def fleet(tmp_path):
    with LoopbackFleet(tmp_path / "fleet") as fleet:
        yield fleet


def run(main):
    async def bounded():
        async with asyncio.timeout(240):
            await main()

    asyncio.run(bounded())


async def until(true):
    while not true():
        await asyncio.sleep(0.01)


def test_a_broker_that_has_forgotten_all_is_told_again(fleet):
    async def main():
        async with await MqttTransport.open(fleet.options("coordinator"), wait_s=60) as coordinator:
            await coordinator.announce("model", b"1")
            fleet.broker.kill()
            shutil.rmtree(fleet.broker.path.parent / "data")
            (fleet.broker.path.parent / "data").mkdir(mode=0o700)
            await until(lambda: not coordinator.link.is_connected)
            announcing = asyncio.create_task(coordinator.announce("lists", b"2"))
            await asyncio.sleep(0.05)
            assert not announcing.done()
            fleet.broker.start()
            await announcing
            async with await MqttTransport.open(fleet.options("device-1"), wait_s=60) as device:
                await until(lambda: len(device.announced) == 2)
                assert device.announced == {("coordinator", "model"): b"1", ("coordinator", "lists"): b"2"}

    run(main)


def test_what_was_announced_stays_when_the_coordinator_goes_and_is_withdrawn_by_an_empty_one(fleet):
    async def main():
        async with await MqttTransport.open(fleet.options("coordinator"), wait_s=60) as coordinator:
            await coordinator.announce("model", b"1")
        async with await MqttTransport.open(fleet.options("device-1"), wait_s=60) as device:
            await until(lambda: device.announced)
            async with await MqttTransport.open(fleet.options("coordinator"), wait_s=60) as coordinator:
                await coordinator.announce("model", b"")
                await until(lambda: not device.announced)

    run(main)


def test_a_device_cannot_announce_and_an_oversized_one_is_counted(fleet):
    async def main():
        async with await MqttTransport.open(fleet.options("device-1"), wait_s=60) as device:
            hostile = _raw(fleet.options("device-2"))
            forged = hostile.publish("fm/all/coordinator/model", b"forged", qos=1, retain=True)
            own = hostile.publish("fm/all/device-2/model", b"forged", qos=1, retain=True)
            for published in (forged, own):
                await asyncio.to_thread(published.wait_for_publish, 60)
            _end(hostile)
            real = _raw(fleet.options("coordinator"))
            real.publish("fm/all/coordinator/lists", bytes(5000), qos=1, retain=True)
            real.publish("fm/all/coordinator/weather", b"x", qos=1, retain=True)
            await until(lambda: device.counts["announcement"])
            _end(real)
            assert not device.announced

    run(main)


def test_a_device_that_calls_itself_a_coordinator_is_told_that_it_may_not(fleet):
    async def main():
        options = fleet.options("device-1", coordinator=True)
        async with await MqttTransport.open(options, wait_s=60) as device:
            with pytest.raises(DeliveryError, match="access rules do not allow it"):
                await device.announce("model", b"x")
            assert device.counts["denied"] == 1

    run(main)


def _raw(options):
    client = Client(CallbackAPIVersion.VERSION2, options.name, protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set(str(options.ca), str(options.certificate), str(options.key))
    client.connect(options.host, options.port)
    client.loop_start()
    return client


def _end(client):
    client.disconnect()
    client.loop_stop()
