"""A transport over MQTT v5: devices and coordinators around a broker, each known by its certificate.

What the broker is trusted with, and what not, is in docs/transport.md; `fedmesh broker config` writes its rules.
"""

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmesh.errors import PeerError
from fedmesh.transport.courier import Courier, LoopTimers
from fedmesh.transport.endpoint import Endpoint
from fedmesh.transport.limits import Limits
from fedmesh.transport.mqtt_link import MqttLink
from fedmesh.transport.names import check_name
from fedmesh.transport.spool import Spool
from fedmesh.transport.tls import dialling_host
from fedmesh.transport.topics import Topics
from fedmesh.types import PeerId

if TYPE_CHECKING:
    from fedmesh.identity import Membership

__all__ = ["MqttOptions", "MqttTransport", "options_from"]


@dataclass(frozen=True, slots=True)
class MqttOptions:
    """Who we are, and where the broker is.

    Attributes:
        name: ours, the common name of our certificate. coordinator: whether we are one; a device otherwise.
        host: the broker's, as its certificate names it. ca, certificate, key: PEM files.
        keepalive_s: silence after which a connection is probed; a dead one shows within twice that.
        session_s: how long the broker keeps our subscriptions and what is queued after we are gone.
        will_delay_s: how long after a connection broke the broker says that we are gone.
        reconnect_s, reconnect_max_s: first and longest wait before connecting again.
    """

    name: PeerId
    host: str
    ca: Path
    certificate: Path
    key: Path
    port: int = 8883
    coordinator: bool = False
    keepalive_s: int = 30
    session_s: int = 3600
    will_delay_s: int = 5
    connect_timeout_s: float = 10.0
    reconnect_s: float = 0.5
    reconnect_max_s: float = 60.0


def options_from(
    membership: "Membership", host: str, port: int = 8883, *, coordinator: bool, **others: Any
) -> MqttOptions:
    """How the party of an identity folder connects to the broker at `host`; `others`: fields of `MqttOptions`.

    Its certificate may be renewed meanwhile: each connection is made with the one that is in the folder then.
    """
    return MqttOptions(
        name=membership.name.id,
        host=host,
        port=port,
        ca=membership.root_path,
        certificate=membership.tls_path,
        key=membership.tls_path,
        coordinator=coordinator,
        **others,
    )


class MqttTransport(Courier):
    """A `fedmesh.types.Transport` over an MQTT broker. Make one with `open`."""

    link: MqttLink

    @classmethod
    async def open(
        cls,
        options: MqttOptions,
        *,
        limits: Limits | None = None,
        spool: Path | None = None,
        spool_bytes: int = 1 << 30,
        wait_s: float | None = None,
    ) -> "MqttTransport":
        """Connects, and keeps connecting from then on.

        Args:
            options: who and where.
            limits: bounds.
            spool: folder in which messages outlive the process; `spool_bytes` bounds what waits to be sent.
            wait_s: at most so long for the first connection; None: does not wait, messages are queued.

        Raises:
            ConfigError: a file cannot be used, or the broker takes no packets of our length.
            TrustError: the broker's certificate is not that of `options.host`.
            PeerError: there was no connection within `wait_s`.
        """
        check_name(options.name)
        context = dialling_host(options.ca, options.certificate, options.key)
        chance = random.Random()  # noqa: S311 - jitter
        kept = None if spool is None else Spool(spool, incarnation=int(time.time() * 1000), max_bytes=spool_bytes)
        endpoint = Endpoint(limits or Limits(), chance=chance, spool=kept)
        transport = cls(endpoint, LoopTimers(), spool=kept)
        transport.link = MqttLink(
            options,
            topics=Topics(options.name, options.coordinator),
            context=context,
            courier=transport,
            incarnation=endpoint.incarnation,
            chance=chance,
        )
        transport.attach(transport.link)
        transport.link.start()
        if wait_s is not None:
            try:
                await transport.wait_connected(wait_s)
            except BaseException:
                await transport.aclose()
                raise
        return transport

    async def wait_connected(self, wait_s: float) -> None:
        """Returns when the broker has taken us in. Raises: as `open`."""
        link, deadline = self.link, time.monotonic() + wait_s
        while not link.is_connected:
            if link.refusal is not None:
                raise link.refusal
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise PeerError(
                    f"no connection to the broker at {link.address} within {wait_s} s: {link.trouble or 'no answer'}; "
                    "check that it runs, the address, and that it knows our certificate"
                )
            try:
                async with asyncio.timeout(min(left_s, 1.0)):
                    await link.news.wait()
                    link.news.clear()
            except TimeoutError:
                continue
