"""Predictions over HTTP: FastAPI on uvicorn (extra ``serve``), bounded, with mutual TLS between members of a mesh.

`fedmesh.inference.serving.peers.Guard` is imported where there is TLS: what it needs takes 12 MB.
"""

from fedmesh.inference.serving.app import build
from fedmesh.inference.serving.limits import Limits
from fedmesh.inference.serving.server import answer, listener, serve
from fedmesh.inference.serving.service import Service

__all__ = ["Limits", "Service", "answer", "build", "listener", "serve"]
