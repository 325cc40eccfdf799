"""Machines on one link: network namespaces around a bridge, in a namespace of its own so that ours is not touched.

    with Lan() as lan:
        anna = lan.machine("anna")
        anna.up("10.77.0.1/24")
        process = anna.start([sys.executable, "program.py"])
        lan.rules(lan.apart([anna], [bert]), lan.lossy(20))

Needs Linux, root and iproute2; `rules` needs nft (nftables) too. Everything is gone at the end, and what a killed
process has left is removed by the next one.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Lan", "Machine", "missing"]

_PREFIX = "fmtest"
_IPV6 = "/proc/sys/net/ipv6/conf/eth0"
_TABLE = "fedmesh"
_BURST = "32kb"
_QUEUE_MS = 200


def missing(*, filters: bool = False) -> str:
    """What is needed before there can be a `Lan` here; empty: nothing.

    Args:
        filters: whether `Lan.rules` is to work.
    """
    for command, package in [("ip", "iproute2"), *([("nft", "nftables")] if filters else [])]:
        if shutil.which(command) is None:
            return f"{package} (apt-get install {package})"
    if os.geteuid() != 0:
        return "root"
    try:
        with Lan() as lan:
            if filters:
                lan.rules(lan.lossy(1))
    except OSError as error:
        return f"the right to make namespaces ({error})"
    return ""


def _done(command: Sequence[str], text: str | None = None) -> str:
    """What a command prints. Raises: OSError: it failed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _ip(*arguments: str) -> str:
    return _done(["ip", *arguments])


class Machine:
    """A namespace with an interface ``eth0`` that is down, and has no address, until `up`.

    Attributes:
        port: its end at the bridge.
    """

    def __init__(self, lan: "Lan", namespace: str, port: str) -> None:
        self.namespace, self.port = namespace, port
        self._lan = lan

    def up(self, *addresses: str, ipv6: bool = True) -> None:
        """Brings it up. An IPv6 address needs no second in which nobody may use it: nobody else has it."""
        for key, value in (("disable_ipv6", int(not ipv6)), ("accept_dad", 0), ("router_solicitations", 0)):
            self.run("sh", "-c", f"[ ! -d {_IPV6} ] || echo {value} > {_IPV6}/{key}")
        for address in addresses:
            self.add(address)
        _ip("-n", self.namespace, "link", "set", "lo", "up")
        _ip("-n", self.namespace, "link", "set", "eth0", "up")

    def add(self, address: str) -> None:
        """One more address, with its prefix."""
        nodad = ["nodad"] if ":" in address else []
        _ip("-n", self.namespace, "address", "add", address, "dev", "eth0", *nodad)

    def remove(self, address: str) -> None:
        """An address is its own no longer."""
        _ip("-n", self.namespace, "address", "del", address, "dev", "eth0")

    def make_anew(self) -> None:
        """Its interface goes, and another one of the same name comes, down and without an address."""
        _ip("-n", self._lan.bridge, "link", "del", self.port)
        self._lan.wire(self.namespace, self.port)

    def limit(self, kbit_s: int) -> None:
        """So much goes through its link in each direction (a token bucket); behind it packets wait, then are lost."""
        for namespace, interface in ((self.namespace, "eth0"), (self._lan.bridge, self.port)):
            bucket = ["tbf", "rate", f"{kbit_s}kbit", "burst", _BURST, "latency", f"{_QUEUE_MS}ms"]
            inside = ["ip", "netns", "exec", namespace]
            _done([*inside, "tc", "qdisc", "replace", "dev", interface, "root", *bucket])

    def run(self, *command: str) -> str:
        """What a command prints there. Raises: OSError: it failed."""
        return _done([*self.inside, *command])

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """A process; it is killed at the end if it still runs."""
        process: subprocess.Popen[str] = subprocess.Popen([*self.inside, *command], text=True, **options)  # noqa: S603
        self._lan.processes.append(process)
        return process

    @property
    def inside(self) -> list[str]:
        """What stands before a command that is run there; the process is that of the command."""
        return ["ip", "netns", "exec", self.namespace]


class Lan:
    """A bridge, and machines on it.

    Raises:
        OSError: on entering: no namespace can be made, see `missing`.
    """

    def __init__(self) -> None:
        _sweep()
        self._prefix = f"{_PREFIX}-{os.getpid()}-{secrets.token_hex(2)}"
        self.bridge = f"{self._prefix}-bridge"
        self.processes: list[subprocess.Popen[str]] = []
        self._namespaces: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._make(self.bridge)
            _ip("-n", self.bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            _ip("-n", self.bridge, "link", "set", "br0", "up")
        except BaseException:
            self.close()
            raise
        return self

    def machine(self, name: str) -> Machine:
        """A new one."""
        namespace, port = f"{self._prefix}-{name}", f"p{len(self._namespaces)}"
        self._make(namespace)
        self.wire(namespace, port)
        return Machine(self, namespace, port)

    def wire(self, namespace: str, port: str) -> None:
        """Lays a cable."""
        _ip("-n", self.bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self.bridge, "link", "set", port, "master", "br0", "up")

    def rules(self, *rules: str) -> None:
        """What the bridge does with frames from now on, in place of what it did before; without rules it carries all.

        Raises:
            OSError: nft refuses them.
        """
        chain = ["chain carry {", "type filter hook forward priority 0; policy accept;", *rules, "}"]
        table = f"table bridge {_TABLE}"  # made, so that it can be removed, whatever there was
        text = "\n".join([table, f"delete {table}", f"{table} {{", *chain, "}", ""])
        _done(["ip", "netns", "exec", self.bridge, "nft", "-f", "-"], text)

    @staticmethod
    def apart(*sides: Iterable[Machine]) -> str:
        """The rules of a partition: nothing goes from one side to another, neither IP nor ARP."""
        ports = [", ".join(f'"{machine.port}"' for machine in side) for side in sides]
        return "\n".join(
            f"iifname {{ {one} }} oifname {{ {other} }} drop" for one in ports for other in ports if one != other
        )

    @staticmethod
    def lossy(percent: int) -> str:
        """The rule of a bad network: each frame is lost with this probability."""
        return f"numgen random mod 100 < {percent} drop"

    def close(self) -> None:
        """Kills what runs there, and takes it all down."""
        for process in self.processes:
            process.kill()
            process.communicate()
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)  # noqa: S603, S607

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, namespace: str) -> None:
        self._namespaces.append(namespace)
        _ip("netns", "add", namespace)


def _sweep() -> None:
    """What processes that were killed have left behind."""
    folder = Path("/run/netns")
    for path in folder.glob(f"{_PREFIX}-*") if folder.is_dir() else ():
        owner = path.name.split("-")[1]
        if not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)  # noqa: S603, S607
