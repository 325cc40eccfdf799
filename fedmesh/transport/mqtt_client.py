"""paho's client, tamed: what it reads is bounded, what it holds is closed, and it copies and writes no more than due.

It reaches into paho, 2.x; tests/integration/test_transport_mqtt.py would tell if that were another.
"""

import socket
import ssl
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fedmesh.transport.limits import PACKET_BYTES

__all__ = ["Packed", "TamedClient"]

_QOS_2 = 0x04
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
    one does, and `send_acks` sends them by themselves.
    """

    acks_wait: Callable[[], None]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._acks = bytearray()

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

    def _handle_publish(self) -> MQTTErrorCode:
        if self._in_packet["command"] & _QOS_2:  # never subscribed to, and paho keeps such without limit
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return super()._handle_publish()

    def release(self) -> None:
        """Closes what is open, and forgets what belongs to that connection."""
        self._acks.clear()
        self._reset_sockets()

    def send_acks(self) -> None:
        """Those that wait."""
        if self._acks:
            acks = bytes(self._acks)
            self._acks.clear()
            super()._packet_queue(_PUBACK, memoryview(acks), 0, 0)  # type: ignore[arg-type]

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > PACKET_BYTES:
            raise ConnectionError(f"the broker announced a packet of {bufsize} bytes, {PACKET_BYTES} were agreed")
        return super()._sock_recv(min(bufsize, _RECORD_BYTES))

    def _packet_queue(self, command: int, packet: Any, mid: int, qos: int, info: Any = None) -> MQTTErrorCode:
        if command == _PUBACK:
            is_first = not self._acks
            self._acks += packet
            if len(self._acks) >= _MOST_ACK_BYTES:
                self.send_acks()
            elif is_first:
                self.acks_wait()
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        if self._acks and len(packet) <= _SHORT_BYTES:
            packet = bytes(self._acks) + bytes(packet)
            self._acks.clear()
        else:
            self.send_acks()
        return super()._packet_queue(command, memoryview(packet), mid, qos, info)  # type: ignore[arg-type]
