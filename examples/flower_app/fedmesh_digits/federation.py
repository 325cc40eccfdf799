"""What server and devices have in common: the scenario, who holds which digits, who is enrolled, and on what terms."""

import os
from functools import lru_cache
from pathlib import Path

from fedmesh.client.task import Task
from fedmesh.client.trainer import Trainer
from fedmesh.federation import datasets
from fedmesh.federation.datasets import FederatedData
from fedmesh.federation.scenario import Scenario
from fedmesh.flower import Terms
from fedmesh.types import Layout

BITS = 8


def scenario(devices: int, pretrain_epochs: int = 6, learning_rate: float = 0.2) -> Scenario:
    """Digits dealt to `devices` by Dirichlet, trained without DP, deltas of `BITS` bits."""
    tables = {
        "name": "flower-digits",
        "partition": {"kind": "dirichlet", "clients": devices, "alpha": 0.5},
        "model": {"name": "digits_cnn", "pretrain_epochs": pretrain_epochs, "pretrain_learning_rate": 0.02},
        "client": {"learning_rate": learning_rate},
        "delta": {"bits": BITS},
        "strategy": {"options": {"min_available": devices}},  # Flower's nodes register after the server has started
        "secure_aggregation": {"enabled": False},  # not by the client itself: here a Flower mod does it
    }
    return Scenario.parse(tables, source="the app's run config")


@lru_cache(maxsize=4)
def data(devices: int) -> FederatedData:
    """The same split in every process: it follows from the scenario's seed."""
    return datasets.split_as(datasets.load("digits", None), scenario(devices))


def identities() -> Path:
    """Where simulated parties keep who they are and what they have signed. A real device has a folder of its own."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "fedmesh" / "flower-digits"


def terms(run_id: int) -> Terms:
    """What a device takes part in: every run is a task of its own, whose rounds count from 1."""
    return Terms(f"flower-digits/{run_id}", _layout(), bits=BITS)


@lru_cache(maxsize=1)
def _layout() -> Layout:
    return Trainer.of(Task("digits", "digits_cnn", (1, 8, 8), 10, training="float")).layout
