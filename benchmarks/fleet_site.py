"""A mesh on loopback for benchmarks: authority, Mosquitto with mutual TLS 1.3, coordinator, and agents as processes."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from fedmesh.cli import toml
from fedmesh.testing.loopback_fleet import LoopbackFleet

__all__ = ["Site", "memory_mb", "processor_s"]

PATIENCE_S = 120.0
_NOOP = '''
"""A client app that answers at once."""
from flwr.app import Message, RecordDict


def build(task, source, *, homes):
    return lambda message, context: Message(RecordDict(), reply_to=message)
'''


def processor_s(pids: Sequence[int]) -> float:
    """Processor seconds that these processes have used; 0 where there is no /proc."""
    ticks = 0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            ticks += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> dict[str, float]:
    """What a process has in memory, in MiB: all (RSS), its share (PSS), and what nobody else has (USS). Linux."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {key: int(value.split()[0]) for key, value in (line.split(":") for line in lines)}
    private = kib["Private_Clean"] + kib["Private_Dirty"]
    return {name: round(size / 1024, 1) for name, size in (("rss", kib["Rss"]), ("pss", kib["Pss"]), ("uss", private))}


class Site:
    """A mesh in `folder`, with `devices` called ``device-N`` that are enrolled and started by nobody yet.

    Attributes:
        fleet: authority and broker; `environment`: of processes that are to find the client app ``noop``.
    """

    def __init__(self, folder: Path, devices: int) -> None:
        self.fleet, self.names = LoopbackFleet(folder), tuple(f"device-{number}" for number in range(devices))
        self.folder = folder
        for name in ("coordinator", *self.names):
            self.fleet.membership(name)
        self.fleet.spread()
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(self._plugin()), *sys.path])}
        np.savez(folder / "data.npz", x=np.zeros((8, 4), np.float32), y=np.zeros(8, np.int64))
        self._agents: list[subprocess.Popen[bytes]] = []

    def _plugin(self) -> Path:
        """An installation of the client app ``noop``, as pip leaves one."""
        place = self.folder / "plugin"
        (place / "noop-1.0.dist-info").mkdir(parents=True)
        (place / "noop-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: noop\nVersion: 1.0\n")
        (place / "noop-1.0.dist-info" / "entry_points.txt").write_text("[fedmesh.clients]\nnoop = noop:build\n")
        (place / "noop.py").write_text(_NOOP)
        return place

    def configure(self, name: str, *, tier: str = "full", **tables: Mapping[str, Any]) -> Path:
        """The file of a device that agrees to anything."""
        told: dict[str, Any] = {
            "tier": tier,
            "identity": {"folder": name},
            "broker": {"host": "localhost", "port": self.fleet.broker.port},
            "state": {"folder": f"{name}-state"},
            **tables,
        }
        if tier != "inference":
            told |= {
                "clients": ["noop"],
                "data": {"kind": "npz", "path": "data.npz"},
                "privacy": {"required": False},
                "secure_aggregation": {"required": False},
            }
        path = self.folder / f"{name}.toml"
        path.write_text(toml.dumps(told))
        return path

    def start(self, config: Path) -> subprocess.Popen[bytes]:
        """``fedmesh client run`` as a process; its log is beside its configuration. Returns when it is connected."""
        path = config.with_suffix(".log")
        with path.open("wb") as log:
            command = [sys.executable, "-m", "fedmesh", "client", "run", str(config)]
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self._agents.append(process)
        until = time.monotonic() + PATIENCE_S
        while b"connected to the broker" not in path.read_bytes():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"an agent did not connect:\n{path.read_text()[-2000:]}")
            time.sleep(0.05)
        return process

    def close(self) -> None:
        """Ends everything that was started."""
        for process in self._agents:
            process.kill()
            process.wait()
        self.fleet.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
