"""Where faults are laid: the folders of a small federation, made once and copied for each case, and what a fault is."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from device_fleet import enrolled
from meshes import Mesh

from fedmesh.cli import toml
from fedmesh.configuration.coordinator import TaskSection
from fedmesh.federation.scenario import Scenario
from fedmesh.fleet.plan import Plan
from fedmesh.fleet.prepared import prepare
from fedmesh.types import Float32

COORDINATOR = "coordinator"
WIDTH, CLASSES = 12, 4
OFFER = "offer"


class Killed(BaseException):
    """The process is no more: nothing but this reaches the code above."""


@dataclass(frozen=True)
class Fault:
    """What happens when.

    Attributes:
        actor: a device's name, ``coordinator`` or ``broker``. kind: kill, restart, cut or slow.
        step, point, round: the moment. Round 0: before the first.
        lasts_s: how long it is away or slow.
    """

    actor: str
    kind: str
    step: str
    point: str
    round: int = 1
    lasts_s: float = 0.2


@dataclass
class Trained:
    """A training that came to its end: whose, from which weights, and what it would add to them."""

    device: str
    round: int
    weights: Float32
    delta: Float32


def scenario_of(folder: Path, devices: int, rounds: int, **changes: Any) -> Scenario:
    """Vectors, a linear head, DP-SGD on the device, and a secure sum."""
    tables: dict[str, Any] = {
        "name": "faults",
        "rounds": rounds,
        "data": {"name": str(folder / "vectors.npz"), "public_fraction": 0.2, "local_held_out_fraction": 0.0},
        "partition": {"clients": devices},
        "model": {"name": "linear_head", "pretrain_epochs": 2},
        "client": {"name": "lite", "batch_size": 8, "learning_rate": 0.2},
        "strategy": {"quorum": 2},
        "privacy": {
            "enabled": True, "mode": "local", "epsilon": 400.0, "clip": 0.5, "sample_rate": 1.0, "steps": 1,
            "expected_batch": 32.0,
        },
    }  # fmt: skip
    for key, value in changes.items():
        tables[key] = {**tables[key], **value} if isinstance(value, dict) else value
    return Scenario.parse(tables, source="a test")


def vectors(seed: int, count: int) -> tuple[Any, Any]:
    """Examples that a linear head can tell apart, unit norm and a constant."""
    rng = np.random.default_rng([9, seed])
    y = rng.integers(0, CLASSES, count)
    x = rng.standard_normal((count, WIDTH)).astype(np.float32)
    x[np.arange(count), y] += 2
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[:, -1] = 0.3
    return x, y.astype(np.int64)


class Site:
    """Folders of a mesh with a coordinator and devices, made once and copied for each case."""

    def __init__(self, folder: Path, devices: int, rounds: int, **changes: Any) -> None:
        self.folder = folder
        self.names = tuple(f"device-{number}" for number in range(devices))
        x, y = vectors(99, 200)
        np.savez(folder / "vectors.npz", x=x, y=y)
        self.scenario = scenario_of(folder, devices, rounds, **changes)
        home = folder / "home"
        home.mkdir()
        mesh = Mesh(home, begun=time.time() - 60)
        members = [enrolled(mesh, name) for name in (COORDINATOR, *self.names)]
        roster, revocations = mesh.issuer.lists(mesh.begun)
        for member in members:
            member.accept(mesh.begun, roster=roster, revocations=revocations)
        for number, name in enumerate(self.names):
            x, y = vectors(number, 32)
            np.savez(home / f"{name}.npz", x=x, y=y)
            tables = {
                "tier": "lite",
                "identity": {"folder": name},
                "broker": {"host": "localhost", "port": 1},
                "state": {"folder": f"state-{name}"},
                "data": {"kind": "npz", "path": f"{name}.npz"},
                "privacy": {"required": True, "example_epsilon": 400.0},
            }
            (home / f"{name}.toml").write_text(toml.dumps(tables))
        prepare(self.plan(), home / "data" / "runs" / "faults")

    def plan(self, **round_section: Any) -> Plan:
        section = TaskSection.model_validate({"scenario": "faults", "round": round_section})
        return Plan.of(section, self.scenario)

    def copied(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.folder / "home", folder / "home"))
