"""A real Mosquitto on loopback, configured as `fedmesh broker config` does, and a small CA: for tests and benchmarks.

The CA is for nothing else: it knows neither enrolment nor revocation. A mesh with a real authority is a
`fedmesh.testing.loopback_fleet.LoopbackFleet`.
"""

import datetime as dt
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmesh.errors import ConfigError
from fedmesh.transport.broker import BrokerSettings, write_broker_files

if TYPE_CHECKING:
    from fedmesh.transport.mqtt import MqttOptions

__all__ = ["Certifier", "LoopbackBroker", "SmallCa", "find_mosquitto", "free_port"]

_DAY = dt.timedelta(days=1)


def find_mosquitto() -> str | None:
    """The path of the program, which distributions put where users do not look."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Certifier(Protocol):
    """Who makes certificates for a broker and its clients."""

    @property
    def path(self) -> Path:
        """What is trusted, in PEM."""
        ...

    def issue(self, name: str, *, hosts: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """Certificate and key of `name`: a server's for `hosts`, a client's without."""
        ...


class SmallCa:
    """Issues certificates into a folder."""

    def __init__(self, folder: Path, name: str = "test CA") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path = folder / "ca.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, hosts: tuple[str, ...] = ()) -> tuple[Path, Path]:
        """Certificate and key of `name`: a server's for `hosts`, a client's without."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(subject, key.public_key()).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].touch(mode=0o600)
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
        )


class LoopbackBroker:
    """Mosquitto with the configuration that `fedmesh broker config` writes."""

    def __init__(
        self, folder: Path, ca: Certifier, *, coordinators: tuple[str, ...] = ("coordinator",), extra: str = ""
    ) -> None:
        program = find_mosquitto()
        if program is None:
            raise ConfigError("mosquitto is not installed: apt-get install mosquitto")
        self.program = program
        self.ca, self.port, self.coordinators = ca, free_port(), coordinators
        certificate, key = ca.issue("broker", hosts=("localhost", "127.0.0.1"))
        settings = BrokerSettings(
            name="localhost",
            ca=ca.path,
            certificate=certificate,
            key=key,
            port=self.port,
            address="127.0.0.1",
            coordinators=coordinators,
            user="root" if os.geteuid() == 0 else None,  # or it could not read the test's folder
        )
        self.path = write_broker_files(folder, settings)
        if extra:
            self.path.write_text(self.path.read_text() + extra)
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it listens. Raises: ConfigError: it does not."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - what `find_mosquitto` found
                [self.program, "-c", str(self.path)], stderr=log, stdout=log
            )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.02)
            else:
                return
        raise ConfigError(f"mosquitto did not start:\n{self.log.read_text()}")

    def kill(self) -> None:
        """Kill -9: nothing is saved."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in good order."""
        self._end(signal.SIGTERM)

    def options(self, name: str, *, port: int | None = None, **changes: Any) -> "MqttOptions":
        """How `name` connects; a certificate is issued."""
        from fedmesh.transport.mqtt import MqttOptions

        certificate, key = self.ca.issue(name)
        told: dict[str, Any] = {"reconnect_s": 0.1, "reconnect_max_s": 0.5, "will_delay_s": 0, **changes}
        return MqttOptions(
            name=told.pop("name", name),
            host=told.pop("host", "localhost"),
            port=port or self.port,
            ca=self.ca.path,
            certificate=certificate,
            key=key,
            coordinator=told.pop("coordinator", name in self.coordinators),
            **told,
        )

    @property
    def pid(self) -> int | None:
        """Of the process, while it runs."""
        return None if self._process is None else self._process.pid

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


def free_port() -> int:
    """A port of loopback that nobody listens at now, and that nobody is given for a minute who asks for any.

    A connection that just ended holds it: the system gives it to no process that asks for port 0, while a server that
    names it and may reuse it, as those here do, gets it. Without that another test may be there first.
    """
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        address = server.getsockname()
        with socket.create_connection(address) as client:
            server.accept()[0].close()  # whoever ends first is the one that waits
            client.recv(1)
    return int(address[1])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
