"""Files over a real broker, to several devices at once, and what a killed broker and a restarted server cost."""

import asyncio
import hashlib
import random
from contextlib import AsyncExitStack

import pytest
from mqtt_fleet import Proxy, require_mosquitto

from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.transport.file_messages import PIECE_BYTES
from fedmesh.transport.file_server import FileServer
from fedmesh.transport.files import RemoteFiles
from fedmesh.transport.limits import Limits
from fedmesh.transport.mqtt import MqttTransport

require_mosquitto()
QUICK = Limits(retry_s=0.5, retry_max_s=2.0)
MODEL = random.Random(1).randbytes(20 * PIECE_BYTES)
CHUNKS = {
    f"chunks/{hashlib.sha256(piece).hexdigest()}": piece
    for piece in (MODEL[start : start + PIECE_BYTES] for start in range(0, len(MODEL), PIECE_BYTES))
}


@pytest.fixture
def fleet(tmp_path):
    with LoopbackFleet(tmp_path / "fleet") as fleet:
        yield fleet


def run(main):
    async def bounded():
        async with asyncio.timeout(240), AsyncExitStack() as stack:
            await main(stack)

    asyncio.run(bounded())


def read(name, *, max_bytes):
    return MODEL if name == "model" else CHUNKS[name]


async def serving(stack, fleet):
    transport = await MqttTransport.open(fleet.options("coordinator"), limits=QUICK, wait_s=60)
    await stack.enter_async_context(transport)
    return transport, await stack.enter_async_context(FileServer(transport.channel("files"), read))


async def fetching(stack, fleet, name, *, retry_s=1.0, **options):
    transport = await MqttTransport.open(fleet.options(name, **options), limits=QUICK, wait_s=60)
    await stack.enter_async_context(transport)
    files = RemoteFiles(transport.channel("files"), "coordinator", retry_s=retry_s)
    return transport, await stack.enter_async_context(files)


def test_devices_fetch_chunks_from_threads_while_messages_pass(fleet):
    async def main(stack):
        coordinator, server = await serving(stack, fleet)
        devices = [await fetching(stack, fleet, f"device-{number}", retry_s=200.0) for number in range(3)]

        def fetched(source):
            return b"".join(source.fetch(name, max_bytes=PIECE_BYTES) for name in CHUNKS)

        threads = [asyncio.to_thread(fetched, files.source()) for _, files in devices]
        getting = asyncio.gather(*threads)
        for number in range(20):
            await coordinator.send("device-0", bytes([number]))
            assert await anext(devices[0][0].receive()) == ("coordinator", bytes([number]))
        assert await getting == [MODEL] * 3
        assert server.counts == {"served": 3 * len(CHUNKS)}

    run(main)


def test_a_killed_broker_and_a_server_that_begins_anew_cost_time_and_nothing_else(fleet):
    async def main(stack):
        async with Proxy(fleet.broker.port) as proxy:
            _, files = await fetching(stack, fleet, "device-1", port=proxy.port)
            async with AsyncExitStack() as first:
                _, server = await serving(first, fleet)
                proxy.chunk_delay_s = 0.01
                getting = asyncio.create_task(files.fetch("model", max_bytes=len(MODEL)))
                while server.counts["served"] < 5:
                    await asyncio.sleep(0.01)
                fleet.broker.kill()
                fleet.broker.start()
                while server.counts["served"] < 10:
                    await asyncio.sleep(0.01)
            assert not getting.done()
            proxy.chunk_delay_s = 0.0
            await serving(stack, fleet)
            assert await getting == MODEL

    run(main)
