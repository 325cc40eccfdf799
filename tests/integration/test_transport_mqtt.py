"""Over a real Mosquitto with mutual TLS: what memory cannot show."""

import asyncio
import functools
import json
import random
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mqtt_fleet import LoopbackBroker, Proxy, SmallCa, require_mosquitto
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from fedmesh.errors import ConfigError, DeliveryError, PeerError, TrustError
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Chunk, Ident, Open, Whole, encode
from fedmesh.transport.limits import Limits
from fedmesh.transport.mqtt import MqttOptions, MqttTransport
from fedmesh.transport.parcels import pack

require_mosquitto()

LARGE = random.Random(4).randbytes(50_000_000)
MEDIUM = LARGE[:8_000_000]
SHORT = LARGE[:1024]
QUICK = Limits(retry_s=0.5, retry_max_s=2.0)
PATIENT = Limits(retry_s=100.0, retry_max_s=100.0)
"""What is sent twice is not sent again because a busy machine was slow to answer."""
WAIT_S = 120.0


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return SmallCa(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def broker(tmp_path, ca):
    broker = LoopbackBroker(tmp_path / "broker", ca)
    yield broker
    broker.kill()


def asynchronous(test):
    """Runs a coroutine, for no longer than five minutes."""

    @functools.wraps(test)
    def run(*arguments, **named):
        async def main():
            async with asyncio.timeout(300):
                await test(*arguments, **named)

        asyncio.run(main())

    return run


def join(broker, name, **changes):
    told = {key: changes.pop(key) for key in ("limits", "spool", "spool_bytes") if key in changes}
    return MqttTransport.open(broker.options(name, **changes), wait_s=WAIT_S, **{"limits": QUICK, **told})


async def next_from(transport):
    async with asyncio.timeout(WAIT_S):
        return await anext(transport.receive())


async def until(true):
    async with asyncio.timeout(WAIT_S):
        while not true():
            await asyncio.sleep(0.01)


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
async def test_a_stolen_client_id_evicts_nobody(broker, ca):
    async with await join(broker, "device-1") as victim, await join(broker, "coordinator") as coordinator:
        thief = plain_client(broker, "device-2", client_id="device-1")
        await until(thief.is_connected)
        await victim.send("coordinator", SHORT)
        assert await next_from(coordinator) == ("device-1", SHORT)
        assert victim.counts["connection_lost"] == 0
        assert victim.link.is_connected
        thief.loop_stop()


@asynchronous
async def test_topics_of_others_cannot_be_written_or_read(broker):
    async with await join(broker, "device-1") as device, await join(broker, "coordinator") as coordinator:
        heard = []
        spy = plain_client(broker, "device-2", heard=heard)
        await until(spy.is_connected)
        spy.subscribe([("#", 1), ("fm/up/+/#", 1), ("fm/down/device-1/#", 1)])  # granted, and filtered at delivery
        forged = Whole(Ident(1, 1), 1, int(time.time() * 1000) + 60_000, Content.of(b"x", 1).digest, b"x")
        for topic in (
            "fm/up/device-1/msg/coordinator",
            "fm/down/device-1/msg/coordinator",
            "fm/all/coordinator/presence",
        ):
            spy.publish(topic, pack([encode(forged)]), qos=1, retain=True)
        await device.send("coordinator", SHORT)
        await coordinator.send("device-1", SHORT)
        assert await next_from(coordinator) == ("device-1", SHORT)
        assert await next_from(device) == ("coordinator", SHORT)
        await asyncio.sleep(0.3)
        spy.loop_stop()
        assert {topic.split("/")[1] for topic in heard} <= {"all"}
        assert coordinator.counts["malformed"] == device.counts["malformed"] == 0
        assert device.channel("main").take() is coordinator.channel("main").take() is None


@asynchronous
async def test_who_may_not_write_to_a_peer_is_told(broker):
    async with await join(broker, "device-1", coordinator=True) as impostor:
        with pytest.raises(DeliveryError, match="access rules"):
            await impostor.send("device-2", SHORT)


@asynchronous
async def test_hostile_frames_of_a_real_device_are_refused_and_counted(broker):
    async with await join(broker, "coordinator") as coordinator:
        hostile = plain_client(broker, "device-1")
        await until(hostile.is_connected)
        now_ms = int(time.time() * 1000)
        ident, content = Ident(now_ms, 1), Content.of(MEDIUM[:250_000], 100_000)
        frames = [
            pack([encode(Open(ident, 1, now_ms + 60_000, 1, 250_000, 100_000, content.hashes))]),
            pack([encode(Chunk(ident, 0, bytes(100_000)))]),
            pack([encode(Chunk(ident, 2, bytes(100_000)))]),
            pack([encode(Chunk(Ident(now_ms, 9), 0, b"x"))]),
            b"nonsense",
        ]
        for frame in frames:
            hostile.publish("fm/up/device-1/msg/coordinator", frame, qos=1)
        hostile.publish("fm/up/device-1/msg/coordinator/deeper", b"x", qos=1)
        hostile.publish("fm/up/device-1/presence", b"x" * 1000, qos=1)
        want = {"chunk_hash": 1, "chunk_size": 1, "unknown": 1, "malformed": 2}
        await until(lambda: all(coordinator.counts[reason] >= number for reason, number in want.items()))
        async with await join(broker, "device-2") as device:
            await device.send("coordinator", SHORT)
            assert await next_from(coordinator) == ("device-2", SHORT)
        hostile.loop_stop()


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


@asynchronous
async def test_the_broker_has_to_be_the_one_that_was_asked_for(broker, tmp_path):
    with pytest.raises(TrustError, match="did not prove who it is"):
        await MqttTransport.open(broker.options("device-1", host="127.1"), wait_s=WAIT_S)
    other = SmallCa(tmp_path / "other", "another CA")
    options = replace(broker.options("device-1"), ca=other.path)
    with pytest.raises(TrustError, match="did not prove who it is"):
        await MqttTransport.open(options, wait_s=WAIT_S)


@asynchronous
async def test_a_certificate_of_another_ca_does_not_get_in(broker, tmp_path):
    certificate, key = SmallCa(tmp_path / "other", "another CA").issue("device-1")
    options = replace(broker.options("device-1"), certificate=certificate, key=key)
    with pytest.raises(PeerError, match="no connection to the broker"):
        await MqttTransport.open(options, wait_s=2.0)


@asynchronous
async def test_files_that_do_not_belong_together_are_refused(broker):
    options = broker.options("device-1")
    with pytest.raises(ConfigError, match="cannot use the certificate"):
        await MqttTransport.open(replace(options, key=broker.options("device-2").key), wait_s=1.0)


def test_nobody_gets_in_without_a_certificate_or_with_older_tls(broker):
    def knock(context):
        with (
            socket.create_connection(("127.0.0.1", broker.port), timeout=120) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as client,
        ):
            client.sendall(bytes.fromhex("101000044d5154540502003c000000036d6f65"))
            if not client.recv(100):
                raise ConnectionError("closed")

    for context in (ssl.create_default_context(cafile=broker.ca.path), old_tls(broker)):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            knock(context)


@asynchronous
async def test_a_broker_that_takes_only_short_packets_is_refused(tmp_path, ca):
    broker = LoopbackBroker(tmp_path / "broker", ca, extra="\nmax_packet_size 5000\n")
    try:
        with pytest.raises(ConfigError, match="takes packets of 5000 bytes"):
            await MqttTransport.open(broker.options("device-1"), wait_s=WAIT_S)
        transport = await MqttTransport.open(broker.options("device-1"))
        await until(lambda: transport.link.refusal is not None)
        await asyncio.sleep(0.3)
        assert not transport.link.is_connected
        await transport.aclose()
    finally:
        broker.kill()


@pytest.mark.parametrize(
    "packet",
    [
        b"\x32\x80\x80\x40" + bytes(1000),  # 1 MB is announced
        b"\x34\x26\x00\x20fm/down/device-1/msg/coordinator" + b"\x00\x07\x00x",  # QoS 2
        b"\x32\x01\x00",
        b"\x40\x00",
        b"\xe0\x04\x81\x02\x1f\xff",
    ],
    ids=["too long", "QoS 2", "cut", "no acknowledgement", "no text"],
)
@asynchronous
async def test_a_broker_that_sends_what_was_not_agreed_is_left(ca, tmp_path, packet):
    certificate, key = ca.issue("broker", hosts=("localhost",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    connections = 0

    async def serve(reader, writer):
        nonlocal connections
        connections += 1
        await read_packet(reader)
        writer.write(b"\x20\x03\x00\x00\x00")
        subscribe = await read_packet(reader)
        writer.write(b"\x90\x05" + subscribe[:2] + b"\x00\x01\x01" + packet)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    certificate, key = ca.issue("device-1")
    port = server.sockets[0].getsockname()[1]
    options = MqttOptions(
        "device-1", "localhost", ca.path, certificate, key, port, reconnect_s=0.05, reconnect_max_s=0.1
    )
    transport = await MqttTransport.open(options)  # it may be left before anybody sees that it took us in
    await until(lambda: connections > 2)
    assert transport.counts["connection_lost"] >= 1
    assert transport.counts["malformed"] == 0
    await transport.aclose()
    server.close()


async def read_packet(reader):
    """The body of a short packet."""
    await reader.readexactly(1)
    length, shift = 0, 0
    while True:
        [byte] = await reader.readexactly(1)
        length |= (byte & 127) << shift
        if byte < 128:
            return await reader.readexactly(length)
        shift += 7


@asynchronous
async def test_a_shunned_device_with_a_live_connection_is_not_heard(broker):
    async with await join(broker, "device-1") as device, await join(broker, "coordinator") as coordinator:
        await device.send("coordinator", SHORT)
        coordinator.shun("device-1")
        sending = asyncio.create_task(device.send("coordinator", b"after"))
        await until(lambda: coordinator.counts["shunned"] >= 1)
        assert not sending.done()
        assert coordinator.channel("main").take() is None
        assert "device-1" not in coordinator.present
        sending.cancel()


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


def plain_client(broker, name, *, client_id=None, heard=None):
    """paho with the certificate of `name`, bound by nothing."""
    options = broker.options(name)
    client = Client(CallbackAPIVersion.VERSION2, client_id or name, protocol=MQTTProtocolVersion.MQTTv5)
    client.tls_set(str(options.ca), str(options.certificate), str(options.key))
    client.on_message = lambda _client, _data, message: heard.append(message.topic) if heard is not None else None
    client.connect(options.host, options.port)
    client.loop_start()
    return client


def old_tls(broker):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    options = broker.options("device-1")
    context.load_verify_locations(options.ca)
    context.load_cert_chain(options.certificate, options.key)
    return context
