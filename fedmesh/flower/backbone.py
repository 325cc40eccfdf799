"""The backbone in a train message to a lite device: the records that both sides write and read.

Down, besides what a train message holds anyway::

    config     ConfigRecord   backbone-sha256: bytes [32], to every device of a federation that has lite ones
    backbone   ArrayRecord    onnx: uint8 [n], the model cut before its last layer; to lite devices only

The digest is in every device's message because it is bound into the session of secure aggregation with the model
(`fedmesh.flower.secure.model_hash`): a server that gave one device another backbone than the others would be found out
before a sum is unmasked. It could otherwise still everybody else's gradients, and read one device's in the sum.
"""

import hashlib

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedmesh.errors import DecodeError
from fedmesh.flower.arrays import vector, vector_record

__all__ = ["BACKBONE", "DIGEST", "attach_backbone", "backbone_in", "digest_in"]

BACKBONE, DIGEST = "backbone", "backbone-sha256"
_NAME = "onnx"


def attach_backbone(content: RecordDict, data: bytes) -> None:
    """Puts the backbone into a train message's content; its digest is in the config already."""
    content[BACKBONE] = vector_record(_NAME, np.frombuffer(data, np.uint8))


def digest_in(content: RecordDict) -> bytes:
    """The digest that a train message says, empty if it says none.

    Raises:
        DecodeError: it is not 32 bytes.
    """
    found = content.config_records.get("config", ConfigRecord()).get(DIGEST, b"")
    if not isinstance(found, bytes) or len(found) not in (0, 32):
        raise DecodeError(f"a train message came whose {DIGEST} is no SHA-256 digest of 32 bytes")
    return found


def backbone_in(content: RecordDict, *, max_bytes: int) -> bytes | None:
    """The backbone in a train message, None if it has none.

    Raises:
        DecodeError: it is malformed, holds more than `max_bytes`, or is not the one whose digest the message says.
    """
    if BACKBONE not in content:
        return None
    if BACKBONE not in content.array_records:
        raise DecodeError(f"{BACKBONE!r} came as {type(content[BACKBONE]).__name__}; wanted an ArrayRecord")
    data = vector(content.array_records[BACKBONE], _NAME, dtype="uint8", max_bytes=max_bytes).tobytes()
    if hashlib.sha256(data).digest() != digest_in(content):
        raise DecodeError(f"a backbone came with another SHA-256 than the {DIGEST} of its message: it is not used")
    return data
