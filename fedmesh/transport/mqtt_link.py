"""paho-mqtt as a link: the event loop reads and writes its socket, and a thread only makes the connection.

What is worked around here, each seen with paho 2 and Mosquitto 2 (docs/transport.md):

- Nagle's algorithm costs 40 ms a message: TCP_NODELAY as soon as there is a socket. (paho's hook for it,
  `on_socket_open`, comes after the handshake.) A handshake that fails leaves paho's socket open: ours is closed.
- In TLS 1.3 connecting succeeds before the broker has looked at our certificate: there is a connection when our
  subscriptions were acknowledged, not before.
- paho reconnects without jitter and at once after an eviction: the loop that connects is our own.
- paho reads packets of up to 256 MB into memory whatever was agreed: a longer one than agreed ends the connection.
- paho acknowledges before anybody has seen the message: here an acknowledgement is sent after the frame was handled,
  so the receive maximum bounds what waits.
- paho copies the rest of a packet for every TLS record that it writes, reads one in many pieces, makes a dozen objects
  for each publication, and writes each acknowledgement by itself: `fedmesh.transport.mqtt_client` does better.
- paho queues without limit: no more is given to it than `_UNDER_WAY_BYTES`, and nothing without a connection.
"""

import asyncio
import collections
import functools
import math
import random
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fedmesh import wire
from fedmesh.errors import ConfigError, DecodeError, FedMeshError, TrustError
from fedmesh.transport.backoff import Backoff
from fedmesh.transport.endpoint import Carried
from fedmesh.transport.limits import PACKET_BYTES
from fedmesh.transport.mqtt_client import Packed, TamedClient
from fedmesh.transport.mqtt_driver import Driver
from fedmesh.transport.mqtt_packets import Publication
from fedmesh.transport.topics import Topics
from fedmesh.types import PeerId

if TYPE_CHECKING:
    from fedmesh.transport.courier import Courier
    from fedmesh.transport.mqtt import MqttOptions

__all__ = ["MqttLink"]

_UNDER_WAY_BYTES = 4 << 20
_UNDER_WAY = 64
_STEADY_S = 10.0
"""A connection that lasted so long was a good one: the next failure is the first."""
_FAREWELL_S = 2.0
_PRESENCE_BYTES = 64
_NO_SUBSCRIBERS = 0x10
_FAILURES = 0x80
_NOT_AUTHORIZED = 0x87


class MqttLink:
    """One connection after another to one broker.

    Attributes:
        is_connected: whether frames can be carried. news: set when that, `refusal` or `trouble` changes.
        refusal: why connecting again is of no use. trouble: what went wrong last.
    """

    def __init__(
        self,
        options: "MqttOptions",
        *,
        topics: Topics,
        context: ssl.SSLContext,
        courier: "Courier",
        incarnation: int,
        chance: random.Random,
    ) -> None:
        self.address = f"{options.host}:{options.port}"
        self.is_connected, self.trouble = False, ""
        self.refusal: FedMeshError | None = None
        self.news = asyncio.Event()
        self._heard = asyncio.Event()
        self._options, self._topics, self._courier = options, topics, courier
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(chance, first_s=options.reconnect_s, longest_s=options.reconnect_max_s)
        self._incarnation = incarnation
        self._under_way: dict[int, tuple[PeerId, int]] = {}
        self._under_way_bytes = 0
        self._announcing: dict[int, tuple[str, bytes]] = {}
        self._awaited = 0  # announcements under way: somebody waits for each
        self._acknowledged: collections.deque[tuple[int, int]] = collections.deque()
        self._most = _UNDER_WAY
        self._closing = asyncio.Event()
        self._context = context
        self._client = self._make_client(context)
        every_s = min(5.0, max(0.5, options.keepalive_s / 16))
        self._driver = Driver(self._client, failed=self._failed, arrived=self._arrived, every_s=every_s)
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to connect."""
        self._running = self._loop.create_task(self._run(), name=f"mqtt-{self._options.name}")

    def has_room(self) -> bool:
        """Whether a frame may be carried now."""
        while self._acknowledged:
            self._published(*self._acknowledged.popleft())
        return self.is_connected and len(self._under_way) < self._most and self._under_way_bytes < _UNDER_WAY_BYTES

    def carry(self, frame: Carried) -> None:
        """Publishes a frame."""
        topic = self._topics.frames_to(frame.peer).encode()
        mid = self._client.send(topic, frame.data, _expiring_in(math.ceil(frame.worth_s)))
        if mid == 0:
            return  # 65,535 identifiers in use cannot be; and a frame that is lost is asked for again
        self._under_way[mid] = (frame.peer, len(frame.data))
        self._under_way_bytes += len(frame.data)

    @property
    def announces(self) -> bool:
        """Whether we are a coordinator."""
        return self._topics.coordinator

    def announce(self, what: str, data: bytes) -> None:
        """Publishes a retained value."""
        self._awaited += 1  # before the broker can answer
        sent = self._client.publish(self._topics.announcement(what), data, qos=1, retain=True)
        self._announcing[sent.mid] = what, data

    async def aclose(self) -> None:
        """Says that we are gone, and disconnects."""
        if self._closing.is_set():
            return
        if self.is_connected:
            farewell = self._client.publish(self._topics.presence, self._presence(there=False), qos=1, retain=True)
            with suppress(TimeoutError):  # the last will says it then
                async with asyncio.timeout(_FAREWELL_S):
                    await self._acknowledgement(farewell.mid)
        patience_s = _FAREWELL_S if self.is_connected else self._options.connect_timeout_s + 2
        self.is_connected = False
        self._closing.set()
        self._client.disconnect()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=patience_s)
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _acknowledgement(self, mid: int) -> None:
        """Returns when the broker has acknowledged `mid`, or the connection is lost."""
        while self.is_connected and mid not in {acknowledged for acknowledged, _ in self._acknowledged}:
            self._heard.clear()
            await self._heard.wait()

    def _make_client(self, context: ssl.SSLContext) -> TamedClient:
        client = TamedClient(
            CallbackAPIVersion.VERSION2,
            client_id=self._options.name,  # the broker sets it to the certificate's name in any case
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.tls_set_context(context)
        client.connect_timeout = self._options.connect_timeout_s
        client.max_inflight_messages = _UNDER_WAY * 2
        client.suppress_exceptions = False
        will = _properties(PacketTypes.WILLMESSAGE)
        will.WillDelayInterval = self._options.will_delay_s
        client.will_set(self._topics.presence, self._presence(there=False), qos=1, retain=True, properties=will)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.acknowledged = self._on_acknowledgement
        return client

    def _presence(self, *, there: bool) -> bytes:
        return wire.dumps([there, self._incarnation])

    # Connecting.

    async def _run(self) -> None:
        """One connection after another, until it is closed."""
        try:
            while not self._closing.is_set():
                began = time.monotonic()
                try:
                    await self._driver.connection(self._dial, self._closing)
                except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed
                    self._failed(error)
                if time.monotonic() - began > _STEADY_S:
                    self._backoff.reset()
                self._lost()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._backoff.next_s()):
                        await self._closing.wait()
        finally:
            self._client.release()

    def _dial(self) -> None:
        """What blocks, on a thread: the name, the connection, the handshake."""
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._options.session_s
        properties.ReceiveMaximum = _UNDER_WAY
        properties.MaximumPacketSize = PACKET_BYTES
        self._context.load_cert_chain(self._options.certificate, self._options.key)  # it may have been renewed
        self._client.connect(
            self._options.host,
            self._options.port,
            keepalive=self._options.keepalive_s,
            clean_start=False,
            properties=properties,
        )

    # What paho calls, on the event loop; what it does happens behind paho's back, which is in the middle of something.

    def _on_connect(
        self, client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._loop.call_soon(self._refused, str(reason))
            return
        longest = getattr(properties, "MaximumPacketSize", PACKET_BYTES)
        most = getattr(properties, "ReceiveMaximum", _UNDER_WAY)
        self._loop.call_soon(self._agreed, longest, most)
        if longest < PACKET_BYTES:
            return  # not connected: whatever is sent would end the connection, over and over
        client.subscribe([(topic, 1) for topic in self._topics.subscriptions])

    def _on_subscribe(
        self, client: Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._loop.call_soon(self._refused, f"subscriptions: {', '.join(map(str, reasons))}")
            return
        client.publish(self._topics.presence, self._presence(there=True), qos=1, retain=True)
        self._loop.call_soon(self._connected)

    def _on_disconnect(
        self, _client: Client, _data: Any, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        said = f"the broker ended the connection: {reason}" if flags.is_disconnect_packet_from_server else str(reason)
        self._loop.call_soon(self._lost, said)

    def _on_acknowledgement(self, mid: int, reason: int) -> None:
        self._acknowledged.append((mid, reason))
        if self._courier.is_closed:
            self._loop.call_soon(self._heard.set)
        elif (
            reason >= _FAILURES
            or self._awaited
            or len(self._under_way) >= _UNDER_WAY // 4
            or self._under_way_bytes >= _UNDER_WAY_BYTES // 4
        ):
            self._loop.call_soon(self._courier.pump)  # otherwise there is room, and nobody waits for this

    # The rest.

    def _agreed(self, longest: int, most: int) -> None:
        self._most = max(1, min(_UNDER_WAY, most))
        if longest < PACKET_BYTES:
            self.refusal = ConfigError(
                f"the broker at {self.address} takes packets of {longest} bytes, {PACKET_BYTES} are sent: raise its "
                "max_packet_size (`fedmesh broker config` writes it)"
            )
            self.news.set()

    def _connected(self) -> None:
        self.is_connected, self.trouble = True, ""
        self.news.set()
        self._courier.connected()

    def _lost(self, said: str = "") -> None:
        self.trouble = said or self.trouble
        if self.is_connected:
            self.is_connected = False
            self._heard.set()
            self._courier.counts["connection_lost"] += 1
        self.news.set()

    def _failed(self, error: Exception) -> None:
        self.trouble = str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            self.refusal = TrustError(
                f"the broker at {self.address} did not prove who it is: {error.verify_message}; check the address "
                "against its certificate, and that both are of one CA"
            )
        self._courier.counts["connection_failed"] += 1
        self.news.set()

    def _refused(self, reason: str) -> None:
        self.trouble = f"the broker refused us: {reason}"
        self._courier.counts["connection_refused"] += 1
        self.news.set()

    def _arrived(self, publication: Publication) -> None:
        sender = self._topics.sender_of(publication.topic)
        if sender is None:
            self._courier.counts["topic"] += 1
        elif sender[1] == "msg":
            self._courier.arrived(sender[0], publication.payload)
        elif sender[1] == "presence":
            self._noticed(sender[0], publication.payload)
        else:
            self._courier.heard(*sender, publication.payload)
        if publication.qos and not self._closing.is_set():
            self._client.ack(publication.mid, publication.qos)

    def _noticed(self, peer: PeerId, payload: bytes) -> None:
        try:
            there, _incarnation = wire.loads(payload, max_bytes=_PRESENCE_BYTES, max_depth=1, max_items=3)
        except (DecodeError, TypeError, ValueError):
            self._courier.counts["malformed"] += 1
            return
        self._courier.noticed(peer, there=there is True)

    def _published(self, mid: int, reason: int) -> None:
        peer, size = self._under_way.pop(mid, ("", 0))
        self._under_way_bytes -= size
        if mid in self._announcing:
            self._awaited -= 1
            error = "" if reason < _FAILURES else "the broker's access rules do not allow it"
            self._courier.announcement_settled(*self._announcing.pop(mid), error)
            return
        if reason == _NO_SUBSCRIBERS:
            self._courier.counts["no_subscribers"] += 1
        elif reason == _NOT_AUTHORIZED and peer:
            self._courier.denied(peer, f"the broker's access rules do not let us write to {peer}")
        elif reason >= _FAILURES:
            self._courier.counts["publish_refused"] += 1


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho's constructor has no annotations


@functools.lru_cache(maxsize=256)
def _expiring_in(seconds: int) -> Packed:
    return Packed(seconds)
