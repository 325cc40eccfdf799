"""Rounds as a journal writes them down, chained by SHA-256: what was changed behind its back is found, not guessed at.

A row's digest covers its record, its checkpoint (arrays, strategy and node states, by their hashes) and the row before.
There is no signature: whoever can write the journal can write another one.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fedmesh.coordinator.records import RoundRecord
from fedmesh.errors import DecodeError

__all__ = ["Row", "checkpoint_digest", "follow", "node_id", "verified"]


class Row(NamedTuple):
    """A committed round: its number, its record as JSON, and the digests of its checkpoint and of the chain up to it.

    As it was read: of what types the values are is for `verified` to find out.
    """

    number: Any
    record: Any
    checkpoint: Any
    digest: Any


def follow(before: bytes, record: str, checkpoint: bytes) -> bytes:
    """The digest of a row that follows the one of digest `before`; of the first, ``b""``."""
    return hashlib.sha256(before + checkpoint + record.encode()).digest()


def checkpoint_digest(model: bytes, strategy: bytes, states: Mapping[int, bytes]) -> bytes:
    """Of what a run goes on from; `states` are the SHA-256 of the nodes' states by node id."""
    digest = hashlib.sha256(hashlib.sha256(model).digest() + hashlib.sha256(strategy).digest())
    for number in sorted(states):
        digest.update(number.to_bytes(9, "big", signed=True) + states[number])
    return digest.digest()


def verified(rows: Iterable[Row]) -> list[RoundRecord]:
    """The records of all rows, which have to be every round from 0, in order.

    Raises:
        DecodeError: a row does not follow the one before, or holds no record.
    """
    records, before = [], b""
    for expected, (number, text, checkpoint, digest) in enumerate(rows):
        intact = isinstance(text, str) and isinstance(checkpoint, bytes)
        if number != expected or not intact or follow(before, text, checkpoint) != digest:
            raise DecodeError(f"the record of round {number} does not follow the one before")
        records.append(RoundRecord.from_json(text))
        before = digest
    return records


def node_id(name: object) -> int:
    """Node ids are unsigned 64-bit numbers, which databases do not have: they are kept as text. -1 if it is none."""
    return int(name) if isinstance(name, str) and name.isdecimal() and len(name) <= 20 else -1
