"""Predictions -> an answer's body: JSON, or the deterministic CBOR of `fedmesh.wire` where it is asked for."""

import json
from collections.abc import Sequence

from fedmesh.inference.handoff import CBOR
from fedmesh.inference.prediction import Prediction
from fedmesh.wire import dumps

__all__ = ["JSON", "encode"]

JSON = "application/json"


def encode(found: Sequence[Prediction], *, accept: str) -> tuple[str, bytes]:
    """Content type and body of an answer: CBOR where `accept` asks for it, JSON otherwise."""
    content = {
        "predictions": [
            {"label": one.label, "confidence": one.confidence, "model": one.model, "handoff": one.handoff}
            for one in found
        ],
    }
    if accept.partition(";")[0].strip().lower() == CBOR:
        return CBOR, dumps(content)
    return JSON, json.dumps(content, separators=(",", ":")).encode()
