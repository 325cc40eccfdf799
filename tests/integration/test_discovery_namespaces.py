"""Discovery between machines on one link: real multicast, real TLS, processes in network namespaces."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from meshes import Mesh
from network_namespaces import Lan, Machine, require_namespaces

require_namespaces()

PROGRAM = Path(__file__).parents[1] / "support" / "discovering_peer.py"
MULTICAST = "FB0000E0"
"""224.0.0.251, as the kernel lists groups that are listened for."""
WAIT_S = 90.0
QUICK = {"gap_s": 0.2, "longest_s": 0.4, "tries": 3, "every_s": 0.1}


class Process:
    """A peer on a machine, and what it has said so far."""

    def __init__(self, machine: Machine, folder: Path, **told: Any) -> None:
        self.said: list[dict[str, Any]] = []
        self.process = machine.start([sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        multicast = {"interfaces_s": 0.3, "again_s": 0.5}
        default = {"folder": str(folder), "port": 7946, "multicast": multicast, "settings": QUICK}
        self.process.stdin.write(json.dumps({**default, **told}) + "\n")
        self.process.stdin.flush()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said.extend(json.loads(line) for line in self.process.stdout)

    def wait(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if found := next((line for line in list(self.said) if wanted(line)), None):
                return found
            time.sleep(0.02)
        raise AssertionError(f"nothing of what was wanted was said: {self.said[-20:]}")

    def find(self, name: str) -> dict[str, Any]:
        return self.wait(lambda line: line.get("found") == name)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.wait(lambda line: line.get("closed"))
        assert self.process.wait(WAIT_S) == 0
        self._reader.join(WAIT_S)  # what it reads from is closed with the machine

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mesh")
    mesh = Mesh(folder, begun=time.time() - 3_600)
    for name in ("anna", "bert"):
        mesh.enrol(name)
    return folder


@pytest.fixture
def lan() -> Iterator[Lan]:
    with Lan() as made:
        yield made


def test_who_gets_its_network_later_is_found_without_a_default_route_and_forgotten_after_a_crash(
    lan: Lan, folders: Path
) -> None:
    here, there = lan.machine("anna"), lan.machine("bert")
    here.up("10.77.0.1/24", ipv6=False)
    anna = Process(here, folders / "anna", forgets=True)
    bert = Process(there, folders / "bert")  # no interface is up, not even that of loopback
    bert.wait(lambda line: "nearby" in line)
    there.up("10.77.0.2/24", ipv6=False)
    assert here.run("ip", "route", "show", "default") == "" == there.run("ip", "route", "show", "default")
    assert anna.find("bert")["host"] == "10.77.0.2"
    assert bert.find("anna")["host"] == "10.77.0.1"
    bert.kill()  # no goodbye: what it announced stays in zeroconf's memory
    anna.wait(lambda line: line.get("nearby") == 0 and line["counts"].get("unreached", 0) >= QUICK["tries"])
    anna.end()


def test_an_interface_that_is_made_anew_under_the_same_address_is_listened_at_again(lan: Lan, folders: Path) -> None:
    here, there = lan.machine("anna"), lan.machine("bert")
    here.up("10.77.0.1/24", ipv6=False)
    anna = Process(here, folders / "anna")
    anna.wait(lambda line: "nearby" in line)
    anna.wait(lambda line: MULTICAST in here.run("cat", "/proc/net/igmp"))  # it listens at the first one
    here.make_anew()
    here.up("10.77.0.1/24", ipv6=False)
    there.up("10.77.0.2/24", ipv6=False)
    bert = Process(there, folders / "bert")
    assert anna.find("bert")["host"] == "10.77.0.2"
    assert bert.find("anna")["host"] == "10.77.0.1"
    bert.end()
    anna.end()


def test_with_nothing_but_link_local_ipv6_they_find_each_other(lan: Lan, folders: Path) -> None:
    here, there = lan.machine("anna"), lan.machine("bert")
    here.up()
    there.up()
    anna, bert = Process(here, folders / "anna"), Process(there, folders / "bert")
    for process, other in ((anna, "bert"), (bert, "anna")):
        host = process.find(other)["host"]
        assert host.startswith("fe80:")
        assert host.endswith("%eth0")
    bert.end()
    anna.end()
