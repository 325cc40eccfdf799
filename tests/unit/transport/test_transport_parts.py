import random
import subprocess
import sys

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from fedmesh.transport.backoff import Backoff
from fedmesh.transport.mqtt_client import TamedClient
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
    assert narrowed == {"_ssl_wrap_socket", "_packet_queue", "_packet_arrived", "_published"}
    for name in ("_packet_arrived", "_published"):  # ours, and nothing of paho's
        assert not hasattr(Client, name)
    used = ("_sock_recv", "_loop_rc_handle", "_packet_handle", "_update_inflight", "_mid_generate", "_reset_sockets")
    for name in ("_ssl_wrap_socket", "_packet_queue", *used):
        assert callable(getattr(Client, name))
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    for name in ("_sock", "_in_packet", "_out_messages", "_inflight_messages", "_max_inflight_messages"):
        assert hasattr(client, name)
    assert hasattr(client, "_last_bytes_received")


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
