"""A manifest: what a version is, where it comes from and which bytes it consists of. Signed as a TUF target.

Deterministic CBOR: equal manifests are equal bytes. Every field is bounded and checked when it is read.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from fedmesh.errors import RegistryError
from fedmesh.registry.chunks import count_of
from fedmesh.registry.fields import Fields
from fedmesh.registry.limits import CHUNK_BYTES, LARGEST_CHUNK_BYTES, MANIFEST_BYTES
from fedmesh.wire import dumps

__all__ = ["Blob", "Delta", "Manifest", "Schema", "Variant", "manifest_target"]

FORMAT = "fedmesh-manifest/1"
GAPS = "gaps-values-zstd/1"
LARGEST_VERSION = 9_999_999_999
_MOST_BYTES = 1 << 32
_TAG = re.compile(r"[a-z0-9][a-z0-9_.=+-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Schema:
    """A tensor of the model: its type as numpy names it, and its shape; None where any size goes (the batch)."""

    dtype: str
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        sizes = (size for size in self.shape if size is not None)
        if not re.fullmatch(r"[a-z]{1,10}[0-9]{0,2}", self.dtype) or len(self.shape) > 8 or not all(map(_fits, sizes)):
            raise _malformed(f"a tensor of type {self.dtype[:20]!r} and shape {self.shape[:9]} is not one of a model")


@dataclass(frozen=True, slots=True)
class Blob:
    """Some bytes by their SHA-256, their length and the SHA-256 of each chunk: of 64 KiB, or 256 KiB before."""

    sha256: bytes
    length: int
    chunks: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 < self.length <= _MOST_BYTES:
            raise _malformed(f"a file of {self.length} bytes is announced: 1 to {_MOST_BYTES} are possible")
        counts = {count_of(self.length, chunk_bytes) for chunk_bytes in (CHUNK_BYTES, LARGEST_CHUNK_BYTES)}
        if len(self.chunks) not in counts or any(len(chunk) != 32 for chunk in (self.sha256, *self.chunks)):
            raise _malformed(
                f"{len(self.chunks)} chunks are announced for {self.length} bytes, or their hashes are none"
            )

    @property
    def chunk_bytes(self) -> int:
        """How long its chunks are, but for the last one."""
        return CHUNK_BYTES if len(self.chunks) == count_of(self.length) else LARGEST_CHUNK_BYTES

    def length_of(self, index: int) -> int:
        """How many bytes a chunk has."""
        return min(self.chunk_bytes, self.length - index * self.chunk_bytes)


@dataclass(frozen=True, slots=True)
class Delta:
    """How to make a variant out of another file: `base` is that one's SHA-256."""

    base: bytes
    algorithm: str
    blob: Blob

    def __post_init__(self) -> None:
        if len(self.base) != 32 or not self.algorithm or len(self.algorithm) > 64:
            raise _malformed("a delta says neither what it is against nor how it was made")


@dataclass(frozen=True, slots=True)
class Variant:
    """One file of the model: `kind` (int8, float16, ...), and what a device must have (`tags`) to run it."""

    kind: str
    tags: tuple[str, ...]
    blob: Blob
    deltas: tuple[Delta, ...] = ()

    def __post_init__(self) -> None:
        if not all(_TAG.fullmatch(tag) for tag in (self.kind, *self.tags)):
            raise _malformed(f"{self.kind[:70]!r} or a tag of it is not a tag (a-z, 0-9 and _.=+-)")
        if len(self.tags) > 16 or len(self.deltas) > 16:
            raise _malformed("a variant has more than 16 tags or deltas")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A version.

    Attributes:
        version: its number; the next is higher, whatever is in it.
        created: when it was published, seconds since 1970.
        variants: the files to choose from, best first.
        inputs, outputs: what all of them take and give; empty where nobody said.
        parent: SHA-256 of the model that it was trained from.
        round, survivors: which round of the run it comes from, and how many devices are in it.
        epsilon: the largest that any device has spent on it so far; None: without a promise.
        scenario: SHA-256 of the scenario; task: what the run is called.
        golden: SHA-256 and length of its golden set; None: there is none.
        restores: the version whose file this is again, if it undoes a rollout.

    Raises:
        RegistryError: ``malformed``.
    """

    version: int
    created: int
    variants: tuple[Variant, ...]
    inputs: tuple[Schema, ...] = ()
    outputs: tuple[Schema, ...] = ()
    parent: bytes | None = None
    round: int | None = None
    survivors: int | None = None
    epsilon: float | None = None
    scenario: bytes | None = None
    task: str = ""
    golden: tuple[bytes, int] | None = None
    restores: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.version <= LARGEST_VERSION or not 0 <= self.created < 1 << 40:
            raise _malformed(f"version {self.version} of the second {self.created} is announced")
        if not 1 <= len(self.variants) <= 8 or len(self.inputs) > 16 or len(self.outputs) > 16 or len(self.task) > 200:
            raise _malformed(f"version {self.version} has {len(self.variants)} variants, or too many tensors")
        hashes = [self.parent, self.scenario, self.golden and self.golden[0]]
        if any(item is not None and len(item) != 32 for item in hashes):
            raise _malformed(f"a hash in the manifest of version {self.version} is not one of 32 bytes")
        counts = [self.round, self.survivors, self.golden and self.golden[1], self.restores]
        if any(item is not None and not _fits(item) for item in counts):
            raise _malformed(f"a number in the manifest of version {self.version} is out of range")
        if self.epsilon is not None and not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise _malformed(f"version {self.version} is said to have cost an epsilon of {self.epsilon}")

    def variant(self, tags: Iterable[str]) -> Variant:
        """The first that a device with these `tags` can run. Raises: RegistryError: ``variant``: there is none."""
        have = set(tags)
        for item in self.variants:
            if have.issuperset(item.tags):
                return item
        wanted = ", ".join("+".join(item.tags) for item in self.variants)
        raise RegistryError(
            f"version {self.version} has no variant for this device: it needs {wanted}, here is "
            f"{', '.join(sorted(have)) or 'nothing'}; see tags in its configuration",
            code="variant",
        )

    def encode(self) -> bytes:
        """The file's content; equal manifests give equal bytes."""
        return dumps(
            {
                "format": FORMAT,
                "version": self.version,
                "created": self.created,
                "task": self.task,
                "variants": [
                    {
                        "kind": item.kind,
                        "tags": list(item.tags),
                        "file": _plain(item.blob),
                        "deltas": [
                            {"base": delta.base, "algorithm": delta.algorithm, "file": _plain(delta.blob)}
                            for delta in item.deltas
                        ],
                    }
                    for item in self.variants
                ],
                "inputs": [[item.dtype, list(item.shape)] for item in self.inputs],
                "outputs": [[item.dtype, list(item.shape)] for item in self.outputs],
                "parent": self.parent,
                "round": self.round,
                "survivors": self.survivors,
                "epsilon": self.epsilon,
                "scenario": self.scenario,
                "golden": None if self.golden is None else list(self.golden),
                "restores": self.restores,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The manifest in a file's content. Raises: RegistryError: ``malformed``: it is none."""
        fields = Fields.read(data, FORMAT, max_bytes=MANIFEST_BYTES)
        made = cls(
            version=fields.take("version", int),
            created=fields.take("created", int),
            task=fields.take("task", str),
            variants=tuple(_variant(item) for item in fields.items("variants")),
            inputs=tuple(_schema(item) for item in fields.take("inputs", list)),
            outputs=tuple(_schema(item) for item in fields.take("outputs", list)),
            parent=fields.maybe("parent", bytes),
            round=fields.maybe("round", int),
            survivors=fields.maybe("survivors", int),
            epsilon=fields.maybe("epsilon", float),
            scenario=fields.maybe("scenario", bytes),
            golden=_pair(fields.maybe("golden", list)),
            restores=fields.maybe("restores", int),
        )
        fields.finish()
        return made


def manifest_target(version: int) -> str:
    """What the manifest of a version is called among the targets."""
    return f"manifest-{version}.cbor"


def _fits(number: int) -> bool:
    return 0 <= number < 1 << 40


def _plain(blob: Blob) -> list[Any]:
    return [blob.sha256, blob.length, b"".join(blob.chunks)]


def _variant(fields: Fields) -> Variant:
    made = Variant(
        fields.take("kind", str), fields.texts("tags"), _blob(fields), tuple(map(_delta, fields.items("deltas")))
    )
    fields.finish()
    return made


def _delta(fields: Fields) -> Delta:
    made = Delta(fields.take("base", bytes), fields.take("algorithm", str), _blob(fields))
    fields.finish()
    return made


def _blob(fields: Fields) -> Blob:
    match fields.take("file", list):
        case [bytes(sha256), int(length), bytes(hashes)] if not isinstance(length, bool):
            return Blob(sha256, length, tuple(hashes[start : start + 32] for start in range(0, len(hashes), 32)))
        case _:
            raise _malformed("a file in the manifest is not a hash, a length and hashes of chunks")


def _schema(item: Any) -> Schema:
    match item:
        case [str(dtype), list(shape)] if all(size is None or type(size) is int for size in shape):
            return Schema(dtype, tuple(shape))
        case _:
            raise _malformed("a tensor in the manifest is not a type and a shape")


def _pair(item: list[Any] | None) -> tuple[bytes, int] | None:
    match item:
        case None:
            return None
        case [bytes(sha256), int(length)] if not isinstance(length, bool):
            return sha256, length
        case _:
            raise _malformed("the golden set in the manifest is not a hash and a length")


def _malformed(message: str) -> RegistryError:
    return RegistryError(message, code="malformed")
