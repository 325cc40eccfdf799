"""What server and devices have in common: the scenario, and who holds which digits."""

from functools import lru_cache

from fedmesh.simulation import datasets
from fedmesh.simulation.datasets import FederatedData
from fedmesh.simulation.scenario import Scenario


def scenario(devices: int, pretrain_epochs: int = 6, learning_rate: float = 0.2, bits: int = 8) -> Scenario:
    """Digits dealt to `devices` by Dirichlet, trained without DP, deltas of `bits` bits."""
    tables = {
        "name": "flower-digits",
        "partition": {"kind": "dirichlet", "clients": devices, "alpha": 0.5},
        "model": {"name": "digits_cnn", "pretrain_epochs": pretrain_epochs, "pretrain_learning_rate": 0.02},
        "client": {"learning_rate": learning_rate},
        "delta": {"bits": bits},
        "strategy": {"options": {"min_available": devices}},  # Flower's nodes register after the server has started
    }
    return Scenario.parse(tables, source="the app's run config")


@lru_cache(maxsize=4)
def data(devices: int) -> FederatedData:
    """The same split in every process: it follows from the scenario's seed."""
    return datasets.split_as(datasets.load("digits", None), scenario(devices))
