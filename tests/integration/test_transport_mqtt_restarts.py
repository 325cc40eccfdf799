"""Brokers and peers that end, in good order or killed, and come back: messages wait meanwhile, and nothing leaks."""

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

from coroutines import asynchronous
from mqtt_fleet import Proxy, require_mosquitto
from mqtt_transports import MEDIUM, QUICK, SHORT, WAIT_S, join, next_from, until

from fedmesh.transport.mqtt import MqttTransport

require_mosquitto()


@asynchronous
async def test_a_broker_that_is_killed_in_the_middle_costs_time_and_nothing_else(broker):
    async with await join(broker, "device-1") as device, await join(broker, "coordinator") as coordinator:
        async with Proxy(broker.port) as proxy:
            slow = await join(broker, "device-2", port=proxy.port)
            proxy.chunk_delay_s = 0.005
            sending = asyncio.create_task(slow.send("coordinator", MEDIUM))
            await until(lambda: proxy.carried > 2_000_000)
            broker.kill()
            await asyncio.sleep(0.3)
            assert not sending.done()
            broker.start()
            proxy.chunk_delay_s = 0.0
            assert await next_from(coordinator) == ("device-2", MEDIUM)
            await sending
            await slow.aclose()
        await device.send("coordinator", SHORT)
        assert await next_from(coordinator) == ("device-1", SHORT)
        assert coordinator.counts["connection_lost"] >= 1


CHILD = """
import asyncio, json, sys
from pathlib import Path
from fedmesh.transport.limits import Limits
from fedmesh.transport.mqtt import MqttOptions, MqttTransport

told = json.loads(sys.argv[1])
paths = {name: Path(told.pop(name)) for name in ("ca", "certificate", "key", "spool", "data")}
role, retry_s = told.pop("role"), told.pop("retry_s")

async def main():
    spool, data = paths.pop("spool"), paths.pop("data")
    limits = Limits(retry_s=retry_s, retry_max_s=4 * retry_s)
    transport = await MqttTransport.open(MqttOptions(**paths, **told), limits=limits, spool=spool, wait_s=60)
    if role == "sender":
        receipt = await transport.post("coordinator", data.read_bytes())
        print("posted", flush=True)
        await receipt.delivered()
    elif role == "resumer":
        while transport._endpoint._sender.held_bytes:
            await asyncio.sleep(0.01)
    else:
        async for peer, message in transport.receive():
            print(peer, len(message), message == data.read_bytes(), flush=True)
            if role == "taker":
                await asyncio.sleep(60)
    await transport.aclose()

asyncio.run(main())
"""


def child(options, role, spool, data, *, retry_s=0.5):
    told = {name: str(getattr(options, name)) for name in ("ca", "certificate", "key", "name", "host")}
    told |= {"port": options.port, "coordinator": options.coordinator, "role": role, "retry_s": retry_s}
    told |= {"spool": str(spool), "data": str(data), "reconnect_s": 0.1, "will_delay_s": 0}
    command = [sys.executable, "-c", textwrap.dedent(CHILD), json.dumps(told)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@asynchronous
async def test_a_sender_that_is_killed_sends_the_rest_when_it_is_back(broker, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(MEDIUM)
    async with await join(broker, "coordinator") as coordinator, Proxy(broker.port) as proxy:
        proxy.chunk_delay_s = 0.01
        options = broker.options("device-1", port=proxy.port)
        first = child(options, "sender", tmp_path / "spool", data, retry_s=100.0)
        assert await asyncio.to_thread(first.stdout.readline) == "posted\n"
        await until(lambda: proxy.carried > 3_000_000)
        first.send_signal(signal.SIGKILL)
        first.wait()
        await until(lambda: "device-1" not in coordinator.present)
        proxy.chunk_delay_s = 0.0
        before = proxy.carried
        second = child(options, "resumer", tmp_path / "spool", data, retry_s=100.0)
        assert await next_from(coordinator) == ("device-1", MEDIUM)
        assert await asyncio.to_thread(second.wait, WAIT_S) == 0
        assert proxy.carried - before < len(MEDIUM)  # the receiver had a part of it
        first.stdout.close()
        second.stdout.close()


@asynchronous
async def test_a_receiver_that_is_killed_goes_on_and_gets_a_message_once(broker, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(MEDIUM)
    options = broker.options("device-1")
    async with await join(broker, "coordinator") as coordinator, Proxy(broker.port) as proxy:
        options = replace(options, port=proxy.port)
        proxy.chunk_delay_s = 0.01
        first = child(options, "receiver", tmp_path / "spool", data)
        await until(lambda: "device-1" in coordinator.present)
        sending = asyncio.create_task(coordinator.send("device-1", MEDIUM))
        await until(lambda: proxy.carried > 3_000_000)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert not sending.done()
        proxy.chunk_delay_s = 0.0
        taker = child(options, "taker", tmp_path / "spool", data)
        line = f"coordinator {len(MEDIUM)} True\n"
        assert await asyncio.to_thread(taker.stdout.readline) == line
        await sending
        taker.send_signal(signal.SIGKILL)  # with the message in hand
        taker.wait()
        again = child(options, "receiver", tmp_path / "spool", data)
        assert await asyncio.to_thread(again.stdout.readline) == line
        await coordinator.send("device-1", b"next")
        assert await asyncio.to_thread(again.stdout.readline) == "coordinator 4 False\n"
        again.send_signal(signal.SIGKILL)
        again.wait()
        for process in (first, taker, again):
            process.stdout.close()


@asynchronous
async def test_messages_wait_in_the_spool_while_there_is_no_broker(broker, tmp_path):
    broker.kill()
    device = await MqttTransport.open(broker.options("device-1"), limits=QUICK, spool=tmp_path / "spool")
    for number in range(5):
        await device.post("coordinator", bytes([number]))
    await device.aclose()
    broker.start()
    async with (
        await join(broker, "coordinator") as coordinator,
        await join(broker, "device-1", spool=tmp_path / "spool"),
    ):
        assert [(await next_from(coordinator))[1][0] for _ in range(5)] == list(range(5))


@asynchronous
async def test_presence_says_who_is_there_and_the_last_will_who_is_gone(broker, tmp_path):
    async with await join(broker, "coordinator") as coordinator:
        device = await join(broker, "device-1")
        await until(lambda: coordinator.present == {"device-1"} and device.present == {"coordinator"})
        await device.aclose()
        await until(lambda: coordinator.present == set())
        data = tmp_path / "data"
        data.write_bytes(b"")
        killed = child(broker.options("device-2"), "receiver", tmp_path / "spool", data)
        await until(lambda: coordinator.present == {"device-2"})
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        killed.stdout.close()
        await until(lambda: coordinator.present == set())


@asynchronous
async def test_descriptors_and_threads_are_given_back(broker):
    async def once():
        async with await join(broker, "device-1") as device:
            assert device.link.is_connected

    await once()
    before = open_files()
    for _ in range(5):
        await once()
    assert open_files() <= before
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mqtt-")]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))
