"""Which chunks stay on a disk: what is being fetched or pinned always, the rest as long as there is room, newest first.

What is in a slot is there already, whole: it is given away from there, needs no chunks, and is not touched here.
"""

from collections.abc import Collection, Sequence

from fedmesh.registry.manifest import Blob

__all__ = ["kept"]


def kept(
    blobs: Sequence[Blob], *, pinned: Collection[bytes], in_slots: Collection[bytes], max_bytes: int
) -> set[bytes]:
    """The chunks that stay.

    Args:
        blobs: what manifests here name, oldest first. pinned: SHA-256 of those of which nothing may go.
        in_slots: SHA-256 of those that are in a slot.
        max_bytes: of the others that are kept, as many as fit, newest first.
    """
    staying = {digest for blob in blobs if blob.sha256 in pinned for digest in blob.chunks}
    room = max_bytes
    for blob in reversed(blobs):
        if blob.sha256 in pinned or blob.sha256 in in_slots:
            continue
        more = {digest: blob.length_of(index) for index, digest in enumerate(blob.chunks) if digest not in staying}
        if sum(more.values()) <= room:
            room -= sum(more.values())
            staying |= more.keys()
    return staying
