"""Machines on one link: network namespaces around a bridge, in a namespace of its own so that ours is not touched.

    with Lan() as lan:
        anna = lan.machine("anna")
        anna.up("10.77.0.1/24")
        process = anna.start([sys.executable, "program.py"])

Everything is gone at the end, and what a killed test has left is removed by the next one.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

_PREFIX = "fmtest"
_IPV6 = "/proc/sys/net/ipv6/conf/eth0"


def require_namespaces() -> None:
    """Where they cannot be made the tests of a module are skipped, with one loud line, or fail where CI runs."""
    missing = "" if shutil.which("ip") else "iproute2 (apt-get install iproute2)"
    missing = missing or ("" if os.geteuid() == 0 else "root")
    if not missing:
        probe = f"{_PREFIX}-{os.getpid()}-probe"
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
        missing = "" if made.returncode == 0 else f"the right to make one ({made.stderr.strip()})"
    if missing:
        text = f"NO NETWORK NAMESPACES: nothing is tested between machines on one link, it needs {missing}"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text, allow_module_level=True)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


class Machine:
    """A namespace with an interface ``eth0`` that is down, and has no address, until `up`."""

    def __init__(self, lan: "Lan", namespace: str, port: str) -> None:
        self.namespace = namespace
        self._lan, self._port = lan, port

    def up(self, *addresses: str, ipv6: bool = True) -> None:
        """Brings it up. An IPv6 address needs no second in which nobody may use it: nobody else has it."""
        for key, value in (("disable_ipv6", int(not ipv6)), ("accept_dad", 0), ("router_solicitations", 0)):
            self.run("sh", "-c", f"[ ! -d {_IPV6} ] || echo {value} > {_IPV6}/{key}")
        for address in addresses:
            ip("-n", self.namespace, "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        ip("-n", self.namespace, "link", "set", "lo", "up")
        ip("-n", self.namespace, "link", "set", "eth0", "up")

    def make_anew(self) -> None:
        """Its interface goes, and another one of the same name comes, down and without an address."""
        ip("-n", self._lan.bridge, "link", "del", self._port)
        self._lan.wire(self.namespace, self._port)

    def run(self, *command: str) -> str:
        done = subprocess.run([*self.inside, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """A process; it is killed at the end if it still runs."""
        process = subprocess.Popen([*self.inside, *command], text=True, **options)
        self._lan.processes.append(process)
        return process

    @property
    def inside(self) -> list[str]:
        return ["ip", "netns", "exec", self.namespace]


class Lan:
    """A bridge, and machines on it."""

    def __init__(self) -> None:
        _sweep()
        self._prefix = f"{_PREFIX}-{os.getpid()}-{secrets.token_hex(2)}"
        self.bridge = f"{self._prefix}-bridge"
        self.processes: list[subprocess.Popen[str]] = []
        self._namespaces: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._make(self.bridge)
            ip("-n", self.bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            ip("-n", self.bridge, "link", "set", "br0", "up")
        except BaseException:
            self.close()
            raise
        return self

    def machine(self, name: str) -> Machine:
        namespace, port = f"{self._prefix}-{name}", f"p{len(self._namespaces)}"
        self._make(namespace)
        self.wire(namespace, port)
        return Machine(self, namespace, port)

    def wire(self, namespace: str, port: str) -> None:
        ip("-n", self.bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip("-n", self.bridge, "link", "set", port, "master", "br0", "up")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, namespace: str) -> None:
        self._namespaces.append(namespace)
        ip("netns", "add", namespace)


def _sweep() -> None:
    """What test processes that were killed have left behind."""
    folder = Path("/run/netns")
    for path in folder.glob(f"{_PREFIX}-*") if folder.is_dir() else ():
        owner = path.name.split("-")[1]
        if not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, check=False)
