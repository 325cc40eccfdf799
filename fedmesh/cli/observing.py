"""What the commands that keep running show: their connections and certificate, beside what they tell."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fedmesh.identity import Membership
    from fedmesh.observability import Observer
    from fedmesh.peer.node import Node

__all__ = ["refusals_of", "watch_node", "watch_party"]

_DAY_S = 86_400


class _Counting(Protocol):
    """What is asked of a server of files or lists (`fedmesh.transport`)."""

    @property
    def counts(self) -> Mapping[str, int]: ...


class _Link(Protocol):
    @property
    def is_connected(self) -> bool: ...


class _Connected(Protocol):
    """What is asked of a transport (`fedmesh.transport.mqtt.MqttTransport`)."""

    @property
    def link(self) -> _Link: ...

    @property
    def present(self) -> Collection[str]: ...

    @property
    def counts(self) -> Mapping[str, int]: ...


def watch_party(
    observer: "Observer",
    membership: "Membership",
    transport: "_Connected",
    *,
    clock: Callable[[], float] = time.time,
) -> None:
    """Metrics of a party's connection and certificate. It is ready while connected, with a certificate for a day."""

    def broker() -> str | None:
        return None if transport.link.is_connected else "there is no connection to the broker"

    observer.metrics.refusals.watch("transport", lambda: transport.counts)
    observer.metrics.watch(connected=lambda: transport.link.is_connected, present=lambda: len(transport.present))
    observer.health.ready |= {"broker": broker}
    _watch_certificate(observer, membership, clock)


def watch_node(observer: "Observer", node: "Node", *, clock: Callable[[], float] = time.time) -> None:
    """Metrics of a member of a mesh. It is ready while linked with another, with a certificate for a day."""
    from fedmesh.observability.mesh import MeshMetrics

    def linked() -> str | None:
        return None if node.transport.links else "there is no connection to another member"

    for part, counts in node.counts.items():
        observer.metrics.refusals.watch(part, counts)
    MeshMetrics(observer.metrics.registry, states=lambda: node.members.states, links=lambda: len(node.transport.links))
    observer.metrics.watch(present=lambda: len(node.transport.present))
    observer.health.ready |= {"mesh": linked}
    _watch_certificate(observer, node.membership, clock)


def _watch_certificate(observer: "Observer", membership: "Membership", clock: Callable[[], float]) -> None:
    def ends() -> float:
        return membership.leaf.not_valid_after_utc.timestamp()

    def certificate() -> str | None:
        return None if ends() - membership.now(clock()) > _DAY_S else "the certificate ends within a day"

    observer.metrics.watch(certificate_ends=ends)
    observer.health.ready |= {"certificate": certificate}


def refusals_of(part: "_Counting | None") -> Mapping[str, int]:
    """What `part` refused or failed in, by reason; nothing where it is not there yet."""
    good = {"served", "published", "accepted"}
    return {} if part is None else {code: count for code, count in part.counts.items() if code not in good}
