"""What is read of a stranger at most, and how long things are.

A device with little memory lowers `Limits`; the rest is protocol, and the same everywhere.
"""

from dataclasses import dataclass

__all__ = ["CHUNK_BYTES", "LARGEST_CHUNK_BYTES", "MANIFEST_BYTES", "ROLLOUT_BYTES", "Limits"]

CHUNK_BYTES = 64 << 10
"""What a file is cut into: a device passes on what is whole, so small ones travel faster behind slow links."""
LARGEST_CHUNK_BYTES = 256 << 10
"""Of files that were published before."""
MANIFEST_BYTES = 4 << 20
ROLLOUT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Limits:
    """The longest files that a device takes.

    Attributes:
        model_bytes: of a model; golden_bytes: of its golden set.
        metadata_bytes: of one file of TUF metadata. A targets file has 300 bytes a version that is kept.
        rotations: how many new roots are taken over in one go.
        chunks_bytes: what is kept of downloads that were cut off, before it is thrown away.
    """

    model_bytes: int = 512 << 20
    golden_bytes: int = 16 << 20
    metadata_bytes: int = 1 << 20
    rotations: int = 64
    chunks_bytes: int = 1 << 30
