"""A coordinator that delivers models over a real broker, in the test's process, and a device that is a process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from served_models import FEATURES, write_constant, write_linear

from fedmesh.cli import toml
from fedmesh.fleet.delivering import Deliveries, open_repository
from fedmesh.fleet.protocol import Report
from fedmesh.fleet.task_run import Handover
from fedmesh.identity.packets import Gate
from fedmesh.inference import Engine
from fedmesh.inference.probe import golden_set
from fedmesh.registry import Facts, Slots
from fedmesh.registry.state import State
from fedmesh.testing.loopback_broker import free_port
from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.transport.file_server import FileServer, routed
from fedmesh.transport.lists import ListsPublisher
from fedmesh.transport.mqtt import MqttTransport

COORDINATOR, DEVICE = "coordinator", "pi-1"
X = np.random.default_rng(0).normal(size=(20, FEATURES)).astype(np.float32)
PATIENCE_S = 120.0
QUICK = """
import signal, sys
from pathlib import Path
from fedmesh.cli import main
from fedmesh.fleet.receiving import Receiver
Receiver.__init__.__kwdefaults__.update(pause_s=0.05, longest_s=0.5)
def tell(*_):
    Path("modules.new").write_text("\\n".join(sys.modules))
    Path("modules.new").rename("modules")  # whole, or not there
signal.signal(signal.SIGUSR1, tell)
sys.exit(main(sys.argv[1:]))
"""
"""`fedmesh`, whose devices look again sooner; on SIGUSR1 it writes what it has loaded."""


def model(path: Path, seed: int) -> Path:
    """A model of its own for each seed; what it says depends on what it is asked."""
    write_linear(path, np.random.default_rng(seed).normal(size=(FEATURES, 5)))
    return path


def constant(path: Path, label: int, **options: Any) -> Path:
    write_constant(path, label, **options)
    return path


async def until(holds: Any, timeout_s: float = PATIENCE_S) -> None:
    """Returns when it does."""
    end = time.monotonic() + timeout_s
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.02)


class Shop:
    """The coordinator's side. `reports`: what devices said. `read`: hands out a file, for a test to come between."""

    def __init__(self, fleet: LoopbackFleet) -> None:
        self.fleet, self.folder = fleet, fleet.folder
        self.events: list[object] = []
        self.reports: list[tuple[str, int, str]] = []
        self.repository = open_repository(fleet.folder / "registry", events=self.events.append)
        self.root = fleet.folder / "root.json"
        self.root.write_bytes(self.repository.root_bytes(1))
        self._rounds = 0
        self.reopen()

    def reopen(self) -> None:
        """With the keys that are there now."""
        self.repository = open_repository(self.folder / "registry", events=self.events.append)
        self.deliveries = Deliveries(self.repository, "digits", look_s=0.2, events=self.events.append)
        self.read: Any = self.deliveries.read

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        options = self.fleet.options(COORDINATOR)
        self.transport = await self._stack.enter_async_context(await MqttTransport.open(options, wait_s=60))
        self.lists = ListsPublisher(self.transport, self.fleet.membership(COORDINATOR), None)
        served = dict.fromkeys(self.deliveries.files, lambda name, *, max_bytes: self.read(name, max_bytes=max_bytes))
        files = FileServer(self.transport.channel("files"), routed({"lists": self.lists.read, **served}))
        await self._stack.enter_async_context(files)
        self._tasks = [asyncio.ensure_future(self._listen()), asyncio.ensure_future(self._announce())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _announce(self) -> None:
        await self.deliveries.serve(self.transport)

    def _read(self, name: str, *, max_bytes: int) -> bytes:
        data: bytes = self.read(name, max_bytes=max_bytes)
        return data

    async def revoke(self, name: str) -> None:
        """The authority does, and the coordinator announces its lists."""
        now = time.time()
        self.fleet.issuer.revoke(name, now)
        roster, revocations = self.fleet.issuer.lists(now)
        self.fleet.membership(COORDINATOR).accept(now, roster=roster, revocations=revocations)
        await self.lists.publish()

    async def silence(self) -> None:
        """Announces nothing by itself any more."""
        self._tasks[1].cancel()
        await asyncio.gather(self._tasks[1], return_exceptions=True)

    async def _listen(self) -> None:
        membership = self.fleet.membership(COORDINATOR)
        gate = Gate(membership.name, membership.roster.keys.get)
        async for sender, data in self.transport.receive():
            packet = gate.open(data, sender=sender, now=time.time())
            if packet.kind == Report.kind:
                report = Report.read(packet.fields)
                self.reports.append((packet.sender, report.version, report.outcome))

    def outcomes(self, version: int) -> list[str]:
        return [outcome for _, number, outcome in self.reports if number == version]

    def hand_over(self, path: Path, **changes: Any) -> Handover:
        self._rounds += 1
        given = {"task": "digits", "run": 1, "round": self._rounds, "survivors": 4, "model": path, "epsilon": 1.5}
        return Handover(**{**given, "scenario": bytes(32), "examples": X, "last": False, **changes})

    def publish_with(self, path: Path, golden_of: Path | None) -> int:
        """Published past the coordinator: with the golden set of another model, or with none."""
        golden = None if golden_of is None else golden_set(Engine(golden_of), X)
        return self.repository.publish(path, Facts(task="digits"), golden=golden).number

    async def deliver(self, path: Path, **changes: Any) -> int:
        """The number of the version."""
        await asyncio.to_thread(self.deliveries.publish, self.hand_over(path, **changes))
        return max(version.number for version in self.repository.versions())


class DeviceProcess:
    """`fedmesh client run` of the tier inference. `port`: of its predictions; `metrics`: of its metrics."""

    def __init__(self, fleet: LoopbackFleet, root: Path, *, listen: bool = True, **tables: Any) -> None:
        fleet.membership(DEVICE)
        self.folder, self.port, self.metrics = fleet.folder, free_port(), free_port()
        written: dict[str, Any] = {
            "tier": "inference",
            "identity": {"folder": DEVICE},
            "broker": {"host": "localhost", "port": fleet.broker.port},
            "state": {"folder": "state"},
            "registry": {"trusted_root": str(root)},
            "metrics": {"listen": f"127.0.0.1:{self.metrics}"},
            **({"inference": {"listen": f"127.0.0.1:{self.port}"}} if listen else {}),
            **tables,
        }
        self.path = fleet.folder / "device.toml"
        self.path.write_text(toml.dumps(written))
        self.slots_folder = fleet.folder / "state" / "registry" / "slots"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        command = [sys.executable, "-c", QUICK, "client", "run", str(self.path), "--log-level", "info"]
        self.log = (self.folder / "device.log").open("a")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            command, stderr=self.log, stdout=self.log, text=True, cwd=self.folder, env=environment
        )
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)
            self.log.close()

    def loaded(self) -> set[str]:
        """Top-level modules in its process."""
        assert self.process is not None
        found = self.folder / "modules"
        found.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + PATIENCE_S
        while not found.exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        return {name.partition(".")[0] for name in found.read_text().splitlines()}

    def said(self) -> str:
        return (self.folder / "device.log").read_text()

    @property
    def state(self) -> State:
        """Of the slots."""
        return Slots(self.slots_folder).state if Slots.is_one(self.slots_folder) else State()

    @property
    def running(self) -> int:
        """The version that runs by the slots."""
        return self.state.running.version

    def good(self, version: int) -> bool:
        """Whether this version runs, and is on trial no more."""
        running = self.state.running
        return (running.version, running.state) == (version, "good")

    def predict(self, x: np.ndarray = X[:2]) -> list[dict[str, Any]]:
        body = json.dumps({"x": x.tolist()}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/predict", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())["predictions"]
        return found

    def answers(self) -> bool:
        try:
            return bool(self.predict())
        except (OSError, urllib.error.HTTPError):
            return False

    def ready(self) -> bool:
        """Whether it says that it would answer, without being asked for a prediction."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=60):
                return True
        except OSError:
            return False

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}{path}", timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def refused(self, reason: str, part: str = "registry") -> float:
        """How often, by its metrics."""
        name = f'fedmesh_refused_total{{part="{part}",reason="{reason}"}} '
        found = [line.removeprefix(name) for line in self.get("/metrics").splitlines() if line.startswith(name)]
        return float(found[0]) if found else 0.0
