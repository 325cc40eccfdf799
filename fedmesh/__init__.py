"""Federated learning of int8 models over a mesh of small devices.

Importing this package needs numpy alone; torch, flwr, opacus and onnxruntime are imported where they are used.
"""

from fedmesh.errors import ConfigError, FedMeshError, PeerError, RoundError, TrustError
from fedmesh.types import Arrays, Layout, Update

__version__ = "0.1.0"

__all__ = [
    "Arrays",
    "ConfigError",
    "FedMeshError",
    "Layout",
    "PeerError",
    "RoundError",
    "TrustError",
    "Update",
    "__version__",
]
