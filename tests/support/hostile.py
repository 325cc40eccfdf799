"""A broker that is an attacker: it reads whole messages, changes, drops, repeats, delays and forges them at will."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from exported import samples

from fedmesh.identity import Membership
from fedmesh.observability import Observer
from fedmesh.transport.memory import MemoryBroker, MemoryTransport
from fedmesh.wire import dumps, loads

Message = tuple[str, str, bytes]
"""Sender, as the broker says; receiver; packet."""


class HostileBroker(MemoryBroker):
    """`meddle` says what becomes of a message, `forge` delivers one of the attacker's own; `heard`: all that came."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Message] = []
        self.meddle: Callable[[Message], Iterable[Message]] = lambda message: [message]
        self.taps: dict[str, Tap] = {}

    def join(self, name: str, **options: Any) -> "Tap":  # type: ignore[override]  # it stands for one
        self.taps[name] = Tap(self, name, super().join(name, **options))
        return self.taps[name]

    def forge(self, sender: str, to: str, data: bytes) -> None:
        """The receiver gets this next, as if `sender` had sent it."""
        self.taps[to].inbox.put_nowait((sender, data))

    async def settled(self) -> None:
        """Returns when everybody has read what it got, and is done with it: who asks for the next one is."""
        async with asyncio.timeout(120):
            while any(tap.at_work or not tap.inbox.empty() for tap in self.taps.values()):
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)


class Tap:
    """A transport whose messages the broker has in its hands."""

    def __init__(self, broker: HostileBroker, name: str, transport: MemoryTransport) -> None:
        self.__dict__.update(
            broker=broker, own=name, transport=transport, inbox=asyncio.Queue(), pump=None, at_work=False
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.transport, name, value)

    def done(self) -> None:
        """Nothing: what is in hand was taken from the transport long ago."""

    async def receive(self) -> AsyncIterator[tuple[str, bytes]]:
        self.__dict__["pump"] = asyncio.ensure_future(self._pumped())
        while (item := await self.inbox.get()) is not None:
            self.__dict__["at_work"] = True
            try:
                yield item
            finally:
                self.__dict__["at_work"] = False

    async def _pumped(self) -> None:
        async for sender, data in self.transport.receive():
            message = (sender, self.own, data)
            self.broker.heard.append(message)
            for forged, to, changed in self.broker.meddle(message):
                self.broker.forge(forged, to, changed)
        self.inbox.put_nowait(None)


def head_of(packet: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Head, signature and parts of a packet."""
    length = int.from_bytes(packet[:2], "big")
    return loads(packet[2 : 2 + length], max_bytes=1 << 16), packet[2 + length : 66 + length], packet[66 + length :]


def rebuilt(head: Mapping[str, Any] | bytes, parts: bytes, signature: bytes | Ed25519PrivateKey) -> bytes:
    """A packet of these; with a key it is signed anew."""
    data = head if isinstance(head, bytes) else dumps(dict(head))
    if isinstance(signature, Ed25519PrivateKey):
        signature = signature.sign(b"fedmesh packet\x00" + data)
    return len(data).to_bytes(2, "big") + data + signature + parts


def changed(packet: bytes, key: Ed25519PrivateKey | None = None, **fields: Any) -> bytes:
    """The packet with other fields in its head: under its old signature, or under another id signed anew with `key`."""
    head, signature, parts = head_of(packet)
    if key is not None:
        head["id"] = secrets.token_bytes(16)
    return rebuilt(head | fields, parts, signature if key is None else key)


def key_of(membership: Membership) -> Ed25519PrivateKey:
    """A member's own."""
    return membership.signing_key()


class Watch:
    """The metrics of a node, as Prometheus would read them."""

    def __init__(self) -> None:
        self.observer = Observer(None, logged=False, environment={})

    def refused(self, part: str | None = None) -> dict[tuple[str, str], int]:
        """``fedmesh_refused_total`` by part and reason, of what is not zero."""
        found = {}
        for (name, *labels), value in samples(self.observer.metrics.registry).items():
            if name == "fedmesh_refused_total" and value:
                said = dict(cast("list[tuple[str, str]]", labels))
                if part in {None, said["part"]}:
                    found[said["part"], said["reason"]] = int(value)
        return found

    def count(self, part: str, reason: str) -> int:
        """One of them."""
        return self.refused().get((part, reason), 0)
