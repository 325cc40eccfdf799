"""A whole fleet as processes on loopback: Mosquitto, a coordinator, lite devices, and a proxy before each of them.

The commands are those of an operator; data are synthetic vectors, the model a linear head with DP-SGD on the device and
a secure sum. For tests and benchmarks: processes can be killed, stopped and started again, connections cut.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fedmesh.testing.loopback_fleet import LoopbackFleet
from fedmesh.testing.proxy import Proxy

__all__ = ["COORDINATOR", "TASK", "ProcessFleet"]

COORDINATOR, TASK = "coordinator", "vectors"
_WIDTH, _CLASSES = 12, 4


class ProcessFleet:
    """Processes by name: ``coordinator`` and ``device-0`` on. To be entered; none runs then yet.

    Args:
        folder: new or empty.
        devices: how many. rounds: of the task, which the privacy budget is planned for.
        deadline_s: of a step of a round.
        once: whether the coordinator ends with the task.

    Attributes:
        fleet: identities and broker. proxies: name -> what stands before the broker for it.
        processes: name -> the newest one. starts: name -> how often it was started.
    """

    def __init__(self, folder: Path, *, devices: int, rounds: int, deadline_s: float = 10.0, once: bool = True) -> None:
        self.folder, self.rounds, self.deadline_s, self.once = folder, rounds, deadline_s, once
        self.devices = tuple(f"device-{number}" for number in range(devices))
        self.names = (COORDINATOR, *self.devices)
        self.proxies: dict[str, Proxy] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.starts = dict.fromkeys(self.names, 0)
        self.events = folder / "events.jsonl"
        self._stack = AsyncExitStack()
        self._read = 0
        self._told: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        self.fleet = self._stack.enter_context(LoopbackFleet(self.folder / "mesh"))
        for name in self.names:
            self.fleet.membership(name)
            self.proxies[name] = await self._stack.enter_async_context(Proxy(self.fleet.broker.port))
        self.fleet.spread()
        self._configure()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        await self._stack.aclose()

    def start(self, *names: str) -> None:
        """Starts these, all without names; their words go to ``NAME.log``."""
        for name in names or self.names:
            more = ["--json-events", str(self.events), *(["--once"] if self.once else [])]
            verb = [COORDINATOR] if name == COORDINATOR else ["client"]
            command = [*verb, "run", str(self.folder / f"{name}.toml"), *(more if name == COORDINATOR else [])]
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(  # noqa: S603 - our own command
                    [sys.executable, "-m", "fedmesh", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            self.starts[name] += 1

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal that ends a process, and waits for that."""
        process = self.processes[name]
        process.send_signal(number)
        await asyncio.to_thread(process.wait)

    async def freeze(self, name: str, lasts_s: float) -> None:
        """Stops a process for a while: SIGSTOP and SIGCONT."""
        process = self.processes[name]
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(lasts_s)
        process.send_signal(signal.SIGCONT)

    async def cut(self, name: str, lasts_s: float) -> None:
        """The broker is not to be reached from `name` for a while."""
        proxy = self.proxies[name]
        proxy.closed = True
        proxy.cut()
        await asyncio.sleep(lasts_s)
        proxy.closed = False

    def told(self) -> list[dict[str, Any]]:
        """The coordinator's events so far, over all its lives."""
        if self.events.exists():
            with self.events.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # it is being written, or was when it was killed
                    self._read += len(line)
                    self._told.append(json.loads(line))
        return self._told

    def finished(self) -> list[dict[str, Any]]:
        """RoundFinished events so far."""
        return [event for event in self.told() if event["event"] == "RoundFinished"]

    def said(self, name: str, last: int = 2_000) -> str:
        """The end of what a process wrote."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-last:] if path.exists() else ""

    def state(self, name: str) -> Path:
        """A device's state folder."""
        return self.folder / f"state-{name}"

    @property
    def result(self) -> Path:
        """The task's result.json."""
        return self.folder / "data" / "runs" / TASK / "result.json"

    def _configure(self) -> None:
        np.savez(self.folder / "vectors.npz", **_examples(99, 200))
        scenario = _SCENARIO.format(
            rounds=self.rounds, devices=len(self.devices), vectors=self.folder.absolute() / "vectors.npz"
        )
        (self.folder / f"{TASK}.toml").write_text(scenario)
        (self.folder / f"{COORDINATOR}.toml").write_text(
            _COORDINATOR.format(port=self.proxies[COORDINATOR].port, deadline_s=self.deadline_s)
        )
        for number, name in enumerate(self.devices):
            np.savez(self.folder / f"{name}.npz", **_examples(number, 32))
            (self.folder / f"{name}.toml").write_text(_DEVICE.format(name=name, port=self.proxies[name].port))


def _examples(seed: int, count: int) -> dict[str, Any]:
    """Vectors of unit norm and a constant, that a linear head can tell apart."""
    rng = np.random.default_rng([9, seed])
    y = rng.integers(0, _CLASSES, count)
    x = rng.standard_normal((count, _WIDTH)).astype(np.float32)
    x[np.arange(count), y] += 2
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[:, -1] = 0.3
    return {"x": x, "y": y.astype(np.int64)}


_SCENARIO = f"""
name = "{TASK}"
rounds = {{rounds}}
data = {{{{ name = "{{vectors}}", public_fraction = 0.2, local_held_out_fraction = 0.0 }}}}
partition = {{{{ clients = {{devices}} }}}}
model = {{{{ name = "linear_head", pretrain_epochs = 2 }}}}
client = {{{{ name = "lite", batch_size = 8, learning_rate = 0.2 }}}}
strategy = {{{{ quorum = 2 }}}}
secure_aggregation = {{{{ enabled = true }}}}

[privacy]
enabled = true
mode = "local"
epsilon = 16.0
clip = 0.5
sample_rate = 1.0
steps = 1
expected_batch = 32.0
"""
_COORDINATOR = f"""
[identity]
folder = "mesh/{COORDINATOR}"
[broker]
host = "localhost"
port = {{port}}
[data]
folder = "data"
[[task]]
scenario = "{TASK}.toml"
round = {{{{ deadline_s = {{deadline_s}}, min_devices = 4 }}}}
"""
_DEVICE = """
tier = "lite"
[identity]
folder = "mesh/{name}"
[broker]
host = "localhost"
port = {port}
[state]
folder = "state-{name}"
[data]
kind = "npz"
path = "{name}.npz"
[privacy]
example_epsilon = 16.0
[limits]
nice = 0
"""
