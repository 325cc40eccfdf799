"""Federated learning of int8 models over a mesh of small devices.

Importing this package needs nothing else; numpy, torch, flwr, opacus and onnxruntime are imported where they are used.

It turns ONNX Runtime's telemetry off. The official builds report to their maker what runs on a machine, and keep an
identifier of it, unless ``ORT_DISABLE_TELEMETRY`` is set before they are loaded. Set it to 0 to have that back.
"""

import os
from typing import TYPE_CHECKING, Any

from fedmesh.errors import ConfigError, FedMeshError, PeerError, RoundError, TrustError
from fedmesh.lazy import load
from fedmesh.types import Layout, Update

if TYPE_CHECKING:
    from fedmesh.types import Arrays

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

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


def __getattr__(name: str) -> Any:
    """`Arrays`, which is made of numpy's types."""
    return load(__name__, {"Arrays": "types"}, name)
