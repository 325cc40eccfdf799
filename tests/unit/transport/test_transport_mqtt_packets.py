import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fedmesh.errors import DecodeError
from fedmesh.transport.limits import PACKET_BYTES
from fedmesh.transport.mqtt_client import Packed
from fedmesh.transport.mqtt_packets import Cutter, acknowledgement_in, publication_in, publish_packet

TOPIC = "fm/up/device-1/msg/coordinator"


def cut(stream, most=PACKET_BYTES):
    return [(command, bytes(body)) for command, body in Cutter(most).cut(stream)]


def written_by_paho(topic, payload, mid, properties, qos=1):
    """The bytes of a PUBLISH as paho, the slow and obvious twin, writes them."""

    class Caught(Client):
        def _packet_queue(self, command, packet, mid, qos, info=None):
            caught.append(bytes(packet))

    caught = []
    client = Caught(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client._sock = "open"
    client._send_publish(mid, topic, payload, qos, properties=properties)
    client._sock = None
    return caught[0]


@pytest.mark.parametrize("size", [0, 1, 80, 81, 82, 16_336, 16_337, 16_338, 262_144])
def test_a_publication_is_written_as_paho_writes_it_and_read_as_paho_reads_it(size):
    properties, payload = Packed(60), bytes(size)
    packet = publish_packet(TOPIC.encode(), 700, properties.pack(), payload)
    assert packet == written_by_paho(TOPIC.encode(), payload, 700, properties)
    [(command, body)] = cut(packet)
    assert publication_in(command, memoryview(body)) == (TOPIC, 700, payload, 1)


@given(st.binary(max_size=60), st.sampled_from([0x30, 0x31, 0x32, 0x33, 0x3A]))
def test_what_paho_reads_is_read_the_same(body, command):
    try:
        by_paho = _packet.decode_publish(command, bytearray(body), MQTTProtocolVersion.MQTTv5)
    except (MalformedPacket, IndexError, ValueError, KeyError, UnicodeDecodeError):
        return  # its properties, which are skipped here, may be what is wrong
    ours = publication_in(command, memoryview(body))
    assert (ours.mid, ours.payload, ours.qos) == (by_paho.mid, bytes(by_paho.payload), by_paho.qos)
    assert ours.topic == by_paho.topic.decode(errors="ignore") or ours.topic == ""


@pytest.mark.parametrize("qos", [0, 1])
def test_properties_are_skipped(qos):
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("a", "b" * 200), ("c", "d")]
    [(command, body)] = cut(written_by_paho(b"t", b"payload", 9, properties, qos))
    assert publication_in(command, memoryview(body)) == ("t", 9 * qos, b"payload", qos)


def test_a_topic_that_is_no_text_is_nobodys():
    assert publication_in(0x30, memoryview(b"\0\2\xff\xff\0x")) == ("", 0, b"x", 0)


@pytest.mark.parametrize(
    ("command", "body"),
    [
        (0x32, b""),
        (0x32, b"\0"),
        (0x32, b"\0\5top"),
        (0x32, b"\0\1t\0"),
        (0x32, b"\0\1t\0\1"),
        (0x32, b"\0\1t\0\1\5prop"),
        (0x32, b"\0\1t\0\1\xff\xff\xff\xff\x01"),
        (0x34, b"\0\1t\0\1\0x"),
        (0x36, b"\0\1t\0\1\0x"),
    ],
    ids=["nothing", "half", "topic", "identifier", "no properties", "properties", "length", "QoS 2", "QoS 3"],
)
def test_a_publication_that_is_none_is_refused(command, body):
    with pytest.raises(DecodeError):
        publication_in(command, memoryview(body))


def test_acknowledgements():
    assert acknowledgement_in(memoryview(b"\2\x01")) == (513, 0)
    assert acknowledgement_in(memoryview(b"\2\x01\x87\0")) == (513, 0x87)
    with pytest.raises(DecodeError):
        acknowledgement_in(memoryview(b"\2"))


bodies = st.lists(
    st.tuples(st.integers(1, 255), st.binary(max_size=5) | st.sampled_from([b"z" * 127, b"z" * 128])), max_size=6
)


@given(bodies, st.data())
def test_packets_are_the_same_however_the_stream_is_cut(packets, data):
    stream = b"".join(
        bytes([command]) + (bytes([len(body)]) if len(body) < 128 else b"\x80\x01") + body for command, body in packets
    )
    cutter, found = Cutter(200), []
    while stream:
        count = data.draw(st.integers(1, len(stream)))
        found += [(command, bytes(body)) for command, body in cutter.cut(stream[:count])]
        stream = stream[count:]
    assert found == packets


def test_a_packet_that_is_longer_than_agreed_is_refused_before_it_is_there_and_what_came_before_it_is_given():
    cutter = Cutter(10).cut(b"\x40\x02\0\1" + b"\x30\x0b")
    assert next(cutter)[0] == 0x40
    with pytest.raises(DecodeError, match="a packet of 11 bytes, 10 were agreed"):
        next(cutter)


def test_a_length_of_five_bytes_is_refused():
    with pytest.raises(DecodeError, match="more than four bytes"):
        cut(b"\x30\xff\xff\xff\xff\x01")
