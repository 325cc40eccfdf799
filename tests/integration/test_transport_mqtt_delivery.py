"""Messages of any length over a real Mosquitto arrive once and whole, over bad links and through full queues."""

import asyncio
from dataclasses import replace

import pytest
from coroutines import asynchronous
from mqtt_fleet import LoopbackBroker, Proxy, require_mosquitto
from mqtt_transports import LARGE, MEDIUM, QUICK, SHORT, join, next_from, until

from fedmesh.errors import DeliveryError
from fedmesh.transport.limits import Limits

require_mosquitto()
PATIENT = Limits(retry_s=100.0, retry_max_s=100.0)
"""What is sent twice is not sent again because a busy machine was slow to answer."""


@asynchronous
async def test_short_and_long_messages_both_ways(broker):
    async with await join(broker, "device-1") as device, await join(broker, "coordinator") as coordinator:
        for data in (b"", SHORT, LARGE):
            await device.send("coordinator", data)
            assert await next_from(coordinator) == ("device-1", data)
            await coordinator.send("device-1", data)
            assert await next_from(device) == ("coordinator", data)
        assert coordinator.counts["chunk_hash"] == device.counts["malformed"] == 0


@asynchronous
async def test_cut_connections_resume_where_they_were(broker):
    async with await join(broker, "coordinator") as coordinator, Proxy(broker.port) as proxy:  # noqa: SIM117
        async with await join(broker, "device-1", port=proxy.port, limits=PATIENT) as device:
            proxy.cut_after = proxy.carried + 2_000_000
            sending = asyncio.create_task(device.send("coordinator", MEDIUM))
            await until(lambda: proxy.cuts == 1)
            proxy.cut_after = proxy.carried + 3_000_000
            await until(lambda: proxy.cuts == 2)
            assert await next_from(coordinator) == ("device-1", MEDIUM)
            await sending
            # What was there before the cuts was not sent again: at most what was under way at each cut.
            assert proxy.carried < len(MEDIUM) + 2 * 5_000_000


@asynchronous
async def test_a_bit_that_flips_under_tls_ends_the_connection_and_is_repaired(broker):
    async with await join(broker, "coordinator") as coordinator, Proxy(broker.port) as proxy:  # noqa: SIM117
        async with await join(broker, "device-1", port=proxy.port) as device:
            proxy.corrupt = True
            await device.send("coordinator", MEDIUM)
            assert not proxy.corrupt
            assert await next_from(coordinator) == ("device-1", MEDIUM)
            assert device.counts["connection_lost"] >= 1


@asynchronous
async def test_a_slow_link_is_not_taken_for_a_dead_one(broker):
    async with await join(broker, "coordinator") as coordinator, Proxy(broker.port) as proxy:  # noqa: SIM117
        async with await join(broker, "device-1", port=proxy.port, limits=Limits()) as device:
            proxy.chunk_delay_s = 0.02  # about 3 MB/s
            before = proxy.carried
            await device.send("coordinator", MEDIUM)
            assert await next_from(coordinator) == ("device-1", MEDIUM)
            assert proxy.carried - before < 1.5 * len(MEDIUM)


@asynchronous
async def test_a_flood_for_a_reader_who_does_not_read_waits_at_its_sender(broker):
    tight = replace(QUICK, message_bytes=1 << 20, peer_bytes=4 << 20, outgoing_bytes=8 << 20)
    async with await join(broker, "device-1", limits=tight) as device:  # noqa: SIM117
        async with await join(broker, "coordinator", limits=tight) as coordinator:
            posted = 0

            async def flood():
                nonlocal posted
                for number in range(40):
                    await device.post("coordinator", bytes([number]) * 1_000_000)
                    posted += 1

            flooding = asyncio.create_task(flood())
            await asyncio.sleep(1.5)
            assert posted <= 12  # four there, eight here
            assert coordinator._endpoint._receiver.held_bytes <= 4 << 20
            arrived = [(await next_from(coordinator))[1] for _ in range(40)]
            await flooding
            assert sorted(data[0] for data in arrived) == list(range(40))


@asynchronous
async def test_a_full_queue_at_the_broker_loses_frames_and_no_message(tmp_path, ca):
    broker = LoopbackBroker(tmp_path / "broker", ca, extra="\nmax_queued_bytes 200000\n")
    try:
        async with await join(broker, "device-1") as device:
            coordinator = await join(broker, "coordinator")
            await coordinator.aclose()  # its session stays, and fills
            sends = [asyncio.create_task(device.send("coordinator", bytes([n]) * 60_000)) for n in range(20)]
            await asyncio.sleep(1.0)
            async with await join(broker, "coordinator") as coordinator:
                arrived = [(await next_from(coordinator))[1][0] for _ in range(20)]
                await asyncio.gather(*sends)
                assert sorted(arrived) == list(range(20))
    finally:
        broker.kill()


@asynchronous
async def test_a_message_expires_with_its_round(broker):
    async with await join(broker, "coordinator") as coordinator:
        with pytest.raises(DeliveryError, match="expired"):
            await coordinator.send("device-1", SHORT, expires_in_s=1.0)
        async with await join(broker, "device-1", limits=replace(QUICK, clock_skew_s=0.0)) as device:
            await coordinator.send("device-1", b"next")
            assert await next_from(device) == ("coordinator", b"next")
