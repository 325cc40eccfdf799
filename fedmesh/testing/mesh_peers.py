"""Members of one mesh as processes, from files as an operator has them: on a machine each, or all on loopback.

    with Lan() as lan, MeshPeers(folder, "anna", "bert", "cleo", lan=lan) as peers:
        peers.start()
        peers.view("anna")  # {"anna": "alive", "bert": "alive", "cleo": "alive"}
        peers.kill("cleo")

For tests and examples: processes can be killed, stopped for a while and started again, and what they tell is read.
Nothing waits here but for a process to end.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedmesh.errors import ConfigError
from fedmesh.identity import Enrolment, Issuer, Membership, create_authority, open_issuer
from fedmesh.peer.status import ask
from fedmesh.testing.namespaces import Lan, Machine

__all__ = ["COMMAND", "PORT", "MeshPeers"]

COMMAND = (sys.executable, "-m", "fedmesh", "peer", "run")
"""What runs a member; the path of its file and ``--json-events FILE`` stand behind it."""
PORT = 7946
"""Where a member on a machine of its own listens."""
_AGE_S = 3_600.0


class MeshPeers:
    """An authority, members that are enrolled, and a file for each of them. None runs before `start`.

    Args:
        folder: new or empty. ``NAME`` is an identity folder there, ``NAME.toml`` the file, ``state-NAME`` what it
            remembers, ``NAME.log`` its words and ``NAME.jsonl`` its events, over all its lives.
        names: of members.
        lan: each gets a machine there; None: all are on loopback, with ports that are free now.
        command: see `COMMAND`.
        ipv6: whether a machine has an IPv6 address in place of an IPv4 one.

    Attributes:
        issuer: of the authority. members: name -> who it is.
        machines: name -> where it runs; empty on loopback. addresses: name -> where it is dialled, ``host:port``.
        processes: name -> the newest one.
    """

    def __init__(
        self,
        folder: Path,
        *names: str,
        lan: Lan | None = None,
        command: Sequence[str] = COMMAND,
        ipv6: bool = False,
        mesh: str = "home",
    ) -> None:
        self.folder, self.lan, self.command = folder, lan, tuple(command)
        self.members: dict[str, Membership] = {}
        self.machines: dict[str, Machine] = {}
        self.addresses: dict[str, str] = {}
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self._ipv6, self._began = ipv6, time.time() - _AGE_S
        create_authority(folder / "ca", mesh, self._began)
        self.issuer: Issuer = open_issuer(folder / "ca")
        for name in names:
            self.enrol(name)
        self.spread(names)
        for name in names:
            self.configure(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    # Before it runs.

    def enrol(self, name: str) -> Membership:
        """A new member; the others hear of it from the roster that it brings."""
        token = self.issuer.token(name, self._began, ttl_s=int(2 * _AGE_S))
        enrolment = Enrolment.begin(self.folder / name, token)
        hello = self.issuer.hello()
        reply = self.issuer.handle(enrolment.request(token.secret, hello.nonce), None, hello.nonce, time.time())
        self.members[name] = enrolment.finish(reply, time.time())
        number = len(self.members)
        if self.lan is None:
            self.addresses[name] = f"127.0.0.1:{_free_port()}"
        else:
            host = f"fd77::{number:x}" if self._ipv6 else f"10.77.0.{number}"
            self.machines[name] = machine = self.lan.machine(name)
            machine.up(f"{host}/{64 if self._ipv6 else 24}", ipv6=self._ipv6)
            self.addresses[name] = f"[{host}]:{PORT}" if self._ipv6 else f"{host}:{PORT}"
        return self.members[name]

    def spread(self, names: Iterable[str]) -> None:
        """Copies the authority's present lists into the identity folders of these, where a running one sees them."""
        roster, revocations = self.issuer.lists(time.time())
        for name in names:
            for kind, data in (("roster", roster), ("revocations", revocations)):
                path = self.folder / name / f"{kind}.signed"
                path.with_suffix(".new").write_bytes(data)
                path.with_suffix(".new").replace(path)

    def configure(
        self, name: str, *, seeds: Iterable[str] | None = None, discovery: bool = False, mesh: str = "", more: str = ""
    ) -> Path:
        """Its file, anew: it counts from the next start on.

        Args:
            seeds: names; None: the first member is everybody's, and the second is its own.
            discovery: whether it announces itself and listens on its link.
            mesh: more lines of its ``[mesh]``. more: more tables.
        """
        first, second = (*self.members, "nobody")[:2]
        named = [second if name == first else first] if seeds is None else list(seeds)
        hints = "\n".join(f'{seed} = ["{self.addresses.get(seed, "127.0.0.1:9")}"]' for seed in named)
        host = "127.0.0.1" if self.lan is None else "::" if self._ipv6 else "0.0.0.0"  # noqa: S104 - its own namespace
        port = self.addresses[name].rpartition(":")[2]
        listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'[identity]\nfolder = "{name}"\n[mesh]\nfolder = "state-{name}"\nlisten = ["{listen}"]\n{mesh}\n'
            f"[mesh.discovery]\nenabled = {str(discovery).lower()}\n[mesh.seeds]\n{hints}\n{more}\n"
        )
        return path

    # Its life.

    def start(self, *names: str) -> None:
        """Starts these, all without names."""
        for name in names or tuple(self.members):
            events = ["--json-events", str(self.folder / f"{name}.jsonl")]
            command = [*self.command, str(self.folder / f"{name}.toml"), *events]
            with (self.folder / f"{name}.log").open("ab") as log:
                options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
                options["env"] = {**os.environ, "OMP_NUM_THREADS": "1"}
                if name in self.machines:
                    self.processes[name] = self.machines[name].start(command, **options)
                else:
                    self.processes[name] = subprocess.Popen(command, text=True, **options)  # noqa: S603 - our own

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal that ends a process; returns how that ended, when it has. SIGTERM: with a goodbye."""
        process = self.processes[name]
        process.send_signal(number)
        return process.wait(60)

    def freeze(self, name: str) -> None:
        """It stands still until `thaw`."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """It goes on, and finds that time has passed."""
        self.processes[name].send_signal(signal.SIGCONT)

    # What is seen of it.

    def status(self, name: str) -> dict[str, Any]:
        """What ``fedmesh mesh status --json`` says there; empty: it does not run, or stands still."""
        try:
            return ask(self.state(name))
        except ConfigError:
            return {}

    def view(self, name: str) -> dict[str, str]:
        """Name -> state, as this one sees it."""
        return self._each(name, "state")

    def models(self, name: str) -> dict[str, str]:
        """Name -> version of its model, as this one has heard."""
        return self._each(name, "model")

    def incarnations(self, name: str) -> dict[str, int]:
        """Name -> incarnation, as this one has heard."""
        return self._each(name, "incarnation")

    def told(self, name: str, event: str = "") -> list[dict[str, Any]]:
        """Its events so far, over all its lives; of one kind where that is named."""
        path = self.folder / f"{name}.jsonl"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # the last line may be half written
        found = [json.loads(line) for line in whole.splitlines()]
        return [each for each in found if event in {"", each["event"]}]

    def said(self, name: str, last: int = 2_000) -> str:
        """The end of what its processes wrote."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-last:] if path.exists() else ""

    def state(self, name: str) -> Path:
        """What it remembers."""
        return self.folder / f"state-{name}"

    def _each(self, name: str, what: str) -> dict[str, Any]:
        return {one["name"]: one[what] for one in self.status(name).get("members", [])}


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port
