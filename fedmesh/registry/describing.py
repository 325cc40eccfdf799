"""From a model's file to its manifest: chunks of it, and of deltas against files that devices may have.

A delta is kept where it is shorter than the file: what a device fetches is the smaller of the two.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fedmesh.errors import ConfigError
from fedmesh.registry.chunks import ChunkStore, split
from fedmesh.registry.limits import Limits
from fedmesh.registry.manifest import GAPS, Blob, Delta, Manifest, Schema, Variant

__all__ = ["Facts", "File", "described", "stored"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model, for its manifest; `Manifest` says what each is. `parent`: None: the version before."""

    task: str = ""
    round: int | None = None
    survivors: int | None = None
    epsilon: float | None = None
    scenario: bytes | None = None
    parent: bytes | None = None
    inputs: tuple[Schema, ...] = ()
    outputs: tuple[Schema, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A variant to publish: its bytes, what kind it is and what a device must have for it."""

    data: bytes
    kind: str = "int8"
    tags: tuple[str, ...] = ()


def described(
    version: int,
    now: float,
    files: Sequence[File],
    facts: Facts,
    *,
    golden: bytes | None,
    before: Sequence[Manifest],
    store: ChunkStore,
    bases: int,
    restores: int | None = None,
) -> Manifest:
    """The manifest of `files`, whose chunks are in `store` when this returns.

    Args:
        before: manifests of the versions before, oldest first, with their chunks in the store.
        bases: against how many of them deltas are made.

    Raises:
        ConfigError: a file is empty or longer than a device takes.
        RegistryError: the facts are not possible, or a chunk of a version before is damaged.
    """
    variants = tuple(_variant(file, before[-bases:] if bases else (), store) for file in files)
    parent = facts.parent
    if parent is None and before and restores is None:
        parent = before[-1].variants[0].blob.sha256
    return Manifest(
        version=version,
        created=int(now),
        variants=variants,
        inputs=facts.inputs,
        outputs=facts.outputs,
        parent=parent,
        round=facts.round,
        survivors=facts.survivors,
        epsilon=facts.epsilon,
        scenario=facts.scenario,
        task=facts.task,
        golden=None if golden is None else (hashlib.sha256(golden).digest(), len(golden)),
        restores=restores,
    )


def stored(data: bytes, store: ChunkStore) -> Blob:
    """`data`, cut into chunks that are in `store`."""
    digests = []
    for digest, chunk in split(data):
        if not store.has(digest):
            store.put(digest, chunk)
        digests.append(digest)
    return Blob(hashlib.sha256(data).digest(), len(data), tuple(digests))


def _variant(file: File, before: Sequence[Manifest], store: ChunkStore) -> Variant:
    longest = Limits().model_bytes
    if not 0 < len(file.data) <= longest:
        raise ConfigError(f"the {file.kind} model has {len(file.data)} bytes: devices take 1 to {longest}")
    blob = stored(file.data, store)
    from fedmesh.registry import delta

    deltas: dict[bytes, Delta] = {}
    for manifest in before:
        old = next((item.blob for item in manifest.variants if item.kind == file.kind), None)
        if old is None or old.sha256 == blob.sha256 or old.sha256 in deltas or 2 * old.length < blob.length:
            continue  # of a file that is half new, nothing is saved
        made = delta.encode(store.joined(old.chunks), file.data)
        if len(made) < blob.length:
            deltas[old.sha256] = Delta(old.sha256, GAPS, stored(made, store))
    return Variant(file.kind, file.tags, blob, tuple(deltas.values()))
