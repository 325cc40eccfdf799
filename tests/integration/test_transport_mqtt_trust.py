"""Who is let in over mutual TLS, and what a peer or a broker that is let in and misbehaves can do: it is not heard."""

import asyncio
import socket
import ssl
import time
from dataclasses import replace

import pytest
from coroutines import asynchronous
from mqtt_fleet import LoopbackBroker, SmallCa, require_mosquitto
from mqtt_transports import MEDIUM, SHORT, WAIT_S, join, next_from, until
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from fedmesh.errors import ConfigError, DeliveryError, PeerError, TrustError
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Chunk, Ident, Open, Whole, encode
from fedmesh.transport.mqtt import MqttOptions, MqttTransport
from fedmesh.transport.parcels import pack

require_mosquitto()


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
