"""A mesh on loopback as an operator would set it up: an authority, a broker, a coordinator, and devices that enrol.

Real keys, certificates and lists in real folders, and a real Mosquitto: for tests and benchmarks. One process owns it.
"""

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fedmesh.client.enrolling import begin_enrolment
from fedmesh.identity import Issuer, Membership, create_authority, open_issuer
from fedmesh.identity.servers import create_server
from fedmesh.testing.loopback_broker import LoopbackBroker

if TYPE_CHECKING:
    from fedmesh.transport.mqtt import MqttOptions

__all__ = ["LoopbackFleet"]


class LoopbackFleet:
    """An authority in ``folder/ca``, identity folders in ``folder/NAME``, and a broker in ``folder/mosquitto``.

    Args:
        folder: new or empty.
        mesh: what it is called.
        coordinators: servers that may write to devices.
        extra: lines added to the broker's configuration.

    Attributes:
        issuer: of the authority; `Issuer.revoke` and `spread` are how a device is thrown out.
        broker: a real Mosquitto, running; `kill`, `stop` and `start` it at will.
    """

    def __init__(
        self, folder: Path, *, mesh: str = "home", coordinators: tuple[str, ...] = ("coordinator",), extra: str = ""
    ) -> None:
        self.folder, self.coordinators = folder, coordinators
        create_authority(folder / "ca", mesh, time.time())
        self.issuer: Issuer = open_issuer(folder / "ca")
        self._members: dict[str, Membership] = {}
        self.broker = LoopbackBroker(folder / "mosquitto", self, coordinators=coordinators, extra=extra)

    @property
    def path(self) -> Path:
        """The root that everybody believes, in PEM."""
        return self.folder / "ca" / "root.pem"

    def issue(self, name: str, *, hosts: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """Certificate and key of `name`, which is enrolled if it was not: one file holds both."""
        member = self._members.get(name) or self._join(name, hosts)
        return member.tls_path, member.tls_path

    def membership(self, name: str) -> Membership:
        """The one of `name`: a coordinator is set up as a server, anybody else enrols with a token, the first time."""
        self.issue(name, hosts=("localhost", "127.0.0.1") if name in self.coordinators else ())
        return self._members[name]

    def options(self, name: str, **changes: Any) -> "MqttOptions":
        """How `name` connects, quick to reconnect; `changes`: fields of `MqttOptions`."""
        from fedmesh.transport.mqtt import options_from

        quick: dict[str, Any] = {"reconnect_s": 0.1, "reconnect_max_s": 0.5, "will_delay_s": 0}
        told = {"host": "localhost", "port": self.broker.port, "coordinator": name in self.coordinators}
        return options_from(self.membership(name), **{**quick, **told, **changes})

    def spread(self) -> None:
        """Everybody takes over the authority's present lists, as if they had come by the network."""
        now = time.time()
        roster, revocations = self.issuer.lists(now)
        for member in self._members.values():
            member.accept(now, roster=roster, revocations=revocations)

    def close(self) -> None:
        """Ends the broker; the folders stay."""
        self.broker.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _join(self, name: str, hosts: tuple[str, ...]) -> Membership:
        now = time.time()
        if hosts:
            member = create_server(self.issuer, name, hosts, self.folder / name, now)
        else:
            token = self.issuer.token(name, now, ttl_s=3_600)
            enrolment = begin_enrolment(self.folder / name, token)
            hello = self.issuer.hello()
            reply = self.issuer.handle(enrolment.request(token.secret, hello.nonce), None, hello.nonce, now)
            member = enrolment.finish(reply, now)
        self._members[name] = member
        return member
