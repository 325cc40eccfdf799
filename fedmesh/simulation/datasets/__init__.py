"""Data sets by name or from an npz file (`load`), and cut for a federation (`split`)."""

from fedmesh.simulation.datasets.catalog import NAMES, Dataset, load
from fedmesh.simulation.datasets.split import FederatedData, split

__all__ = ["NAMES", "Dataset", "FederatedData", "load", "split"]
