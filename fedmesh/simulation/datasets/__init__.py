"""Data sets by name or from an npz file (`load`), and cut for a federation (`split`, `split_as`)."""

from fedmesh.simulation.datasets.catalog import NAMES, Dataset, load
from fedmesh.simulation.datasets.split import FederatedData, split, split_as

__all__ = ["NAMES", "Dataset", "FederatedData", "load", "split", "split_as"]
