"""What is announced and retained by a broker: that there is news. A hint, unsigned, and believed in nothing.

Whoever forges one makes devices look, at most as often as their agent lets them, and find that nothing is new. Whoever
suppresses it delays them to their next look of their own, until the timestamp expires.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

from fedmesh.errors import RegistryError
from fedmesh.registry.fields import Fields
from fedmesh.wire import dumps

__all__ = ["POINTER_BYTES", "Pointer"]

POINTER_BYTES = 256
_FORMAT = "fedmesh-pointer/1"


@dataclass(frozen=True, slots=True)
class Pointer:
    """The newest metadata: number of its timestamp, SHA-256 of its snapshot, and the version that is rolled out."""

    timestamp: int
    snapshot: bytes
    version: int

    @classmethod
    def of(cls, timestamp: int, snapshot: bytes, version: int) -> Self:
        """The pointer to this snapshot."""
        return cls(timestamp, hashlib.sha256(snapshot).digest(), version)

    def encode(self) -> bytes:
        """What is announced, 256 bytes at most."""
        return dumps(
            {"format": _FORMAT, "timestamp": self.timestamp, "snapshot": self.snapshot, "version": self.version}
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The pointer in an announcement. Raises: RegistryError: ``malformed``: it is none."""
        fields = Fields.read(data, _FORMAT, max_bytes=POINTER_BYTES)
        made = cls(fields.take("timestamp", int), fields.take("snapshot", bytes), fields.take("version", int))
        fields.finish()
        if made.timestamp < 0 or made.version < 0 or len(made.snapshot) != 32:
            raise RegistryError("the pointer names no metadata", code="malformed")
        return made
