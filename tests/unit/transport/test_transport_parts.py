import asyncio
import random
import subprocess
import sys

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from fedmesh.transport.backoff import Backoff
from fedmesh.transport.mqtt_client import Packed, TamedClient
from fedmesh.transport.mqtt_driver import Driver
from fedmesh.transport.mqtt_packets import Publication
from fedmesh.transport.topics import Topics, access_rules


def test_waits_double_are_drawn_at_random_and_begin_anew():
    backoff = Backoff(random.Random(1), first_s=1.0, longest_s=20.0)
    waits = [backoff.next_s() for _ in range(8)]
    for wait, most in zip(waits, [1, 2, 4, 8, 16, 20, 20, 20], strict=True):
        assert most / 2 <= wait <= most
    assert len({wait / most for wait, most in zip(waits, [1, 2, 4, 8, 16, 20, 20, 20], strict=True)}) == 8
    backoff.reset()
    assert backoff.next_s() <= 1.0


def test_a_thousand_failures_do_not_overflow():
    backoff = Backoff(random.Random(1), longest_s=60.0)
    assert all(backoff.next_s() <= 60.0 for _ in range(2000))


def test_who_wrote_to_a_topic():
    device, coordinator = Topics("d", coordinator=False), Topics("c", coordinator=True)
    assert coordinator.sender_of(device.frames_to("c")) == ("d", "msg")
    assert device.sender_of(coordinator.frames_to("d")) == ("c", "msg")
    assert coordinator.sender_of(device.presence) == ("d", "presence")
    assert device.sender_of(coordinator.presence) == ("c", "presence")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fm",
        "fm/up/d/msg/other",
        "fm/up/d/msg/c/x",
        "fm/up/+/msg/c",
        "fm/up//msg/c",
        "fm/down/c/msg/d",
        "fm/up/a b/presence",
        "fm/up/D/presence",
    ],
)
def test_topics_that_say_nothing(topic):
    assert Topics("c", coordinator=True).sender_of(topic) is None


def test_what_a_device_loads_for_messages():
    script = """
import sys
import fedmesh.transport
assert "paho" not in sys.modules
import fedmesh.transport.mqtt
print(sorted({"torch", "flwr", "onnxruntime", "pydantic"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_narrowed_in_paho_is_there():
    narrowed = {name for name in vars(TamedClient) if name.startswith("_") and not name.startswith("__")}
    assert narrowed == {"_ssl_wrap_socket", "_packet_queue", "_packet_arrived", "_published", "_take_acks"}
    for name in ("_packet_arrived", "_published", "_take_acks"):  # ours, and nothing of paho's
        assert not hasattr(Client, name)
    used = ("_sock_recv", "_loop_rc_handle", "_packet_handle", "_update_inflight", "_mid_generate", "_reset_sockets")
    for name in ("_ssl_wrap_socket", "_packet_queue", *used):
        assert callable(getattr(Client, name))
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    for name in ("_sock", "_in_packet", "_out_messages", "_inflight_messages", "_max_inflight_messages"):
        assert hasattr(client, name)
    assert hasattr(client, "_last_bytes_received")


def a_client():
    client = TamedClient(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
    client.on_socket_register_write = lambda *_: None
    return client


def waiting(client):
    return [bytes(packet["packet"]) for packet in client._out_packet]


def test_acknowledgements_go_with_the_next_packet_and_nobody_waits_for_them_any_more():
    client, waits = a_client(), []
    client.acks_wait = waits.append
    client.ack(1, 1)
    client.ack(2, 1)
    assert waits == [True]
    assert waiting(client) == []
    client._packet_queue(0xC0, b"\xc0\0", 0, 0)
    assert waits == [True, False]
    assert waiting(client) == [b"\x40\x02\0\1\x40\x02\0\2\xc0\0"]
    client.ack(3, 1)
    client.send_acks()
    assert waits == [True, False, True, False]
    assert waiting(client)[1:] == [b"\x40\x02\0\3"]


def test_what_is_sent_without_a_connection_or_beyond_the_window_is_kept_for_the_next():
    client = a_client()
    client.max_inflight_messages = 1
    first = client.send(b"t", b"first", Packed(1))
    assert first == 1
    assert waiting(client) == []
    client._sock = "open"
    acknowledged = []
    client.acknowledged = lambda mid, reason: acknowledged.append((mid, reason))
    second, third = client.send(b"t", b"second", Packed(1)), client.send(b"t", b"third", Packed(1))
    assert [b"second" in packet for packet in waiting(client)] == [True]
    assert client._packet_arrived(0x40, memoryview(bytes([0, second, 0x10]))) == 0
    assert client._packet_arrived(0x40, memoryview(bytes([0, second]))) == 0  # twice: it is nobody's
    client._sock = None
    assert [b"third" in packet for packet in waiting(client)] == [False, True]
    assert acknowledged == [(second, 0x10)]
    assert set(client._out_messages) == {first, third}


def test_nothing_of_one_connection_is_taken_for_the_next():
    client = a_client()
    client.acks_wait = lambda _wait: None
    client.ack(1, 1)
    client.publications.append(Publication("t", 1, b"", 1))
    assert list(client._cutter.cut(b"\x30\x0bhalf")) == []
    client.release()
    client.send_acks()
    assert waiting(client) == []
    assert not client.publications
    assert [command for command, _ in client._cutter.cut(b"\xd0\0")] == [0xD0]


def test_who_fails_at_one_publication_is_told_of_the_next_and_keeps_nobody_from_it():
    told = []

    def arrived(publication):
        told.append(publication.mid)
        if publication.mid == 1:
            raise ValueError("the application's own")

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        client = a_client()
        driver = Driver(client, failed=lambda _error: None, arrived=arrived, every_s=1.0)
        client.publications.extend(Publication("t", mid, b"", 1) for mid in (1, 2, 3))
        asyncio.get_running_loop().call_soon(driver._hand_over)
        async with asyncio.timeout(60):
            while len(told) < 3:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert told == [1, 2, 3]


def test_a_device_does_not_listen_to_others_topics():
    assert Topics("d", coordinator=False).sender_of("fm/down/e/msg/c") is None
    assert Topics("d", coordinator=False).sender_of("fm/up/d/msg/c") is None


def test_the_access_rules():
    assert access_rules(("c1", "c2")).splitlines() == [
        "pattern write fm/up/%u/#",
        "pattern read fm/down/%u/#",
        "pattern read fm/all/#",
        "",
        "user c1",
        "topic read fm/up/#",
        "topic write fm/down/#",
        "topic write fm/all/c1/#",
        "",
        "user c2",
        "topic read fm/up/#",
        "topic write fm/down/#",
        "topic write fm/all/c2/#",
    ]
