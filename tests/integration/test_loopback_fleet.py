"""A mesh with a real authority at a real broker."""

import asyncio
from dataclasses import replace

import pytest
from mqtt_fleet import require_mosquitto

from fedmesh.errors import PeerError, TrustError
from fedmesh.files import write_atomically
from fedmesh.identity import Membership
from fedmesh.testing.loopback_broker import SmallCa
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


def test_members_of_a_real_authority_talk(fleet):
    async def main():
        async with (
            await MqttTransport.open(fleet.options("coordinator"), wait_s=60) as coordinator,
            await MqttTransport.open(fleet.options("device-1"), wait_s=60) as device,
        ):
            await device.send("coordinator", b"hello")
            assert await anext(coordinator.receive()) == ("device-1", b"hello")
            await coordinator.send("device-1", b"you too")
            assert await anext(device.receive()) == ("coordinator", b"you too")

    run(main)


def test_its_folders_are_those_of_enrolled_parties(fleet):
    fleet.membership("coordinator"), fleet.membership("device-1")
    fleet.spread()
    again = Membership(fleet.folder / "device-1")
    assert set(again.roster.enrolled) == {"broker", "coordinator", "device-1"}
    assert again.signing_key()
    assert fleet.membership("device-1") is fleet.membership("device-1")


def test_a_certificate_of_another_authority_is_refused_at_both_ends(fleet, tmp_path):
    stranger = SmallCa(tmp_path / "other")
    certificate, key = stranger.issue("device-1")
    options = fleet.options("device-1")

    async def main():
        with pytest.raises(PeerError):
            await MqttTransport.open(replace(options, certificate=certificate, key=key), wait_s=1)
        with pytest.raises(TrustError, match="did not prove who it is"):
            await MqttTransport.open(replace(options, ca=stranger.path), wait_s=60)

    run(main)


def test_every_connection_is_made_with_the_certificate_that_is_there_then(fleet, tmp_path):
    certificate, key = SmallCa(tmp_path / "other").issue("device-1")

    async def main():
        async with await MqttTransport.open(fleet.options("device-1"), wait_s=60) as device:
            path = fleet.membership("device-1").tls_path
            good = path.read_bytes()
            write_atomically(path, key.read_bytes() + certificate.read_bytes())
            fleet.broker.kill()
            fleet.broker.start()
            refused = fleet.broker.log.read_text().count("OpenSSL Error")
            while fleet.broker.log.read_text().count("OpenSSL Error") == refused:
                await asyncio.sleep(0.01)
            assert not device.link.is_connected
            write_atomically(path, good)  # as a renewal does
            await device.wait_connected(120)

    run(main)
