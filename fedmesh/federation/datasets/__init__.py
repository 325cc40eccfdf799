"""Data sets by name or from an npz file (`load`), and cut for a federation (`split`, `split_as`)."""

from fedmesh.federation.datasets.catalog import NAMES, Dataset, load
from fedmesh.federation.datasets.split import FederatedData, split, split_as

__all__ = ["NAMES", "Dataset", "FederatedData", "load", "split", "split_as"]
