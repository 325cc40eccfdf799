"""paho's client, tamed: what it reads is bounded, what it holds is closed, and it copies and writes no more than due.

Publications and their acknowledgements, nearly all packets that there are, are read and written by
`fedmesh.transport.mqtt_packets`: paho makes a dozen objects for each, and copies a payload four times. The rest is
paho's, and so is what was published and not acknowledged: it sends that again on the next connection.

It reaches into paho, 2.x; tests/integration/test_transport_mqtt_*.py would tell if that were another.
"""

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import MessageState, MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fedmesh.transport.limits import PACKET_BYTES
from fedmesh.transport.mqtt_packets import Cutter, Publication, acknowledgement_in, publication_in, publish_packet

__all__ = ["Packed", "TamedClient"]

_PUBLISH = PacketTypes.PUBLISH << 4
_PUBACK = PacketTypes.PUBACK << 4
_RECORD_BYTES = 16 << 10
"""Of TLS, at most."""
_SHORT_BYTES = 4 << 10
_MOST_ACK_BYTES = 64
"""So many bytes of acknowledgements, a dozen, wait at most."""


class Packed(Properties):
    """Properties of a publication, which paho would pack anew for each."""

    _packed: bytes

    def __init__(self, message_expiry_s: int) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's has no annotations
        self.MessageExpiryInterval = message_expiry_s
        self.UserProperty = ("fedmesh", "1")
        object.__setattr__(self, "_packed", super().pack())  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        """As they are on the wire."""
        return self._packed


class TamedClient(Client):
    """paho's client, which reads no longer packets than were agreed and leaves no socket open.

    Acknowledgements wait for the next packet and go with it, in one record of TLS; `acks_wait` is called when the first
    one does, and when none does any more; `send_acks` sends them by themselves.

    Attributes:
        publications: what came, for whoever drives the client to take out (`on_message` is not called).
        acknowledged: called with the identifier and the reason code for each of ours (`on_publish` is not called).
    """

    acks_wait: Callable[[bool], None]
    acknowledged: Callable[[int, int], None]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.publications: deque[Publication] = deque()
        self._acks = bytearray()
        self._cutter = Cutter(PACKET_BYTES)

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        assert self._ssl_context is not None
        tcp_sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wrapped = self._ssl_context.wrap_socket(tcp_sock, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            wrapped.settimeout(self._connect_timeout)
            wrapped.do_handshake()
        except BaseException:  # paho's own leaves it to the garbage collector
            wrapped.close()
            raise
        return wrapped

    def release(self) -> None:
        """Closes what is open, and forgets what belongs to that connection."""
        self._acks.clear()
        self.publications.clear()  # the broker sends again what was not acknowledged
        self._cutter = Cutter(PACKET_BYTES)
        self._reset_sockets()

    def send_acks(self) -> None:
        """Those that wait."""
        if acks := self._take_acks():
            super()._packet_queue(_PUBACK, memoryview(acks), 0, 0)  # type: ignore[arg-type]

    def _take_acks(self) -> bytes:
        acks = bytes(self._acks)
        if acks:
            self._acks.clear()
            self.acks_wait(False)
        return acks

    def send(self, topic: bytes, payload: bytes, properties: Packed) -> int:
        """As `publish` of quality of service 1; its identifier, 0 if there is none left."""
        if self._sock is None or self._inflight_messages >= self._max_inflight_messages:
            sent = self.publish(topic.decode(), payload, qos=1, properties=properties)  # kept, or queued
            return 0 if sent.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else sent.mid
        mid = self._mid_generate()
        if mid in self._out_messages:
            return 0
        kept = MQTTMessage(mid, topic)
        kept.payload, kept.qos, kept.properties = payload, 1, properties
        kept.state, kept.timestamp = MessageState.MQTT_MS_WAIT_FOR_PUBACK, time.monotonic()
        self._out_messages[mid] = kept
        self._inflight_messages += 1
        self._packet_queue(_PUBLISH, publish_packet(topic, mid, properties.pack(), payload), mid, 1)
        return mid

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # noqa: ARG002 - paho's parameter: a record is read
        """Reads a record of TLS, and handles the packets that are whole with it.

        Raises:
            DecodeError: what came is not MQTT, or longer than agreed.
        """
        try:
            data = self._sock_recv(_RECORD_BYTES)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError:
            data = b""
        if not data:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        self._last_bytes_received = time.monotonic()
        for command, body in self._cutter.cut(data):
            outcome = self._packet_arrived(command, body)
            if outcome != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return self._loop_rc_handle(outcome)
            if self._sock is None:
                return MQTTErrorCode.MQTT_ERR_NO_CONN
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _packet_arrived(self, command: int, body: memoryview) -> MQTTErrorCode:
        kind = command & 0xF0
        if kind == _PUBLISH:
            self.publications.append(publication_in(command, body))
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        if kind == _PUBACK:
            return self._published(*acknowledgement_in(body))
        self._in_packet["command"] = command
        self._in_packet["packet"] = bytearray(body)
        self._in_packet["remaining_length"] = len(body)
        try:
            return self._packet_handle()
        except MalformedPacket:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL

    def _published(self, mid: int, reason: int) -> MQTTErrorCode:
        if self._out_messages.pop(mid, None) is None:
            return MQTTErrorCode.MQTT_ERR_SUCCESS  # of an earlier connection, or the broker's invention
        self._inflight_messages -= 1
        self.acknowledged(mid, reason)
        if self._inflight_messages < len(self._out_messages):  # some wait for their turn
            return self._update_inflight()
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _packet_queue(self, command: int, packet: Any, mid: int, qos: int, info: Any = None) -> MQTTErrorCode:
        if command == _PUBACK:
            is_first = not self._acks
            self._acks += packet
            if len(self._acks) >= _MOST_ACK_BYTES:
                self.send_acks()
            elif is_first:
                self.acks_wait(True)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        if self._acks and len(packet) <= _SHORT_BYTES:
            packet = self._take_acks() + bytes(packet)
        else:
            self.send_acks()
        return super()._packet_queue(command, memoryview(packet), mid, qos, info)  # type: ignore[arg-type]
