"""The bytes of a version by the shortest way: from a slot that has them, by a delta, or chunk by chunk.

Chunks that came stay over a crash or a lost connection, and only what is missing is asked for. What cannot be undone of
a delta is fetched whole. Returns nothing that has not the SHA-256 of the manifest.
"""

import hashlib
import shutil
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fedmesh.errors import ConfigError, RegistryError
from fedmesh.files import read_bounded
from fedmesh.registry.chunks import ChunkStore
from fedmesh.registry.limits import Limits
from fedmesh.registry.manifest import GAPS, Blob, Delta, Variant
from fedmesh.registry.source import Source, check_name, chunk_name

__all__ = ["Fetched", "Fetching"]

_SPARE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model's bytes, how many came over the network for them, and whether as a delta."""

    data: bytes
    bytes_over_network: int
    as_delta: bool


class Fetching:
    """Fetches from one source into one store.

    Args:
        keeps: whether what comes is kept there over a crash; False: the source has it, and the whole file is checked.
        window: chunks that are asked for at a time; where it is not 1, `Source.fetch` is called by several threads.

    Attributes:
        refused: how often something was refused, by code.
    """

    def __init__(
        self,
        source: Source,
        store: ChunkStore,
        limits: Limits,
        refused: Counter[str],
        *,
        keeps: bool = True,
        window: int = 1,
    ) -> None:
        self._source, self._store, self._limits, self.refused = source, store, limits, refused
        self._keeps, self._window = keeps, window
        self._came = 0

    def model(self, variant: Variant, have: Mapping[bytes, Path]) -> Fetched:
        """The file of `variant`.

        Args:
            have: files on this device by what their SHA-256 is said to be.

        Raises:
            RegistryError: what came is not what was signed, or it is longer than this device takes.
            PeerError: the source did not answer; ConfigError: no room.
        """
        blob, self._came = variant.blob, 0
        if blob.length > self._limits.model_bytes:
            raise RegistryError(
                f"the model has {blob.length} bytes, this device takes {self._limits.model_bytes}", code="oversize"
            )
        if (data := _read(have, blob.sha256, blob.length)) is not None:
            return Fetched(data, 0, as_delta=False)
        for item in sorted(variant.deltas, key=lambda item: item.blob.length):
            if item.blob.length < self._missing(blob) and (data := self._by_delta(item, blob, have)) is not None:
                return Fetched(data, self._came, as_delta=True)
        return Fetched(self._whole(blob), self._came, as_delta=False)

    def golden(self, sha256: bytes, length: int) -> bytes:
        """A golden set. Raises: as `model`."""
        if length > self._limits.golden_bytes:
            raise RegistryError(
                f"the golden set has {length} bytes: {self._limits.golden_bytes} are read", code="oversize"
            )
        name = check_name(f"targets/{sha256.hex()}.golden.cbor")
        data = self._source.fetch(name, max_bytes=length)
        if len(data) > length or hashlib.sha256(data).digest() != sha256:
            code = "oversize" if len(data) > length else "hash"
            raise RegistryError("what came for the golden set is not what was signed", code=code)
        return data

    def _by_delta(self, item: Delta, blob: Blob, have: Mapping[bytes, Path]) -> bytes | None:
        if item.algorithm != GAPS or (base := _read(have, item.base, self._limits.model_bytes)) is None:
            return None
        from fedmesh.registry import delta  # and numpy, which a device without a delta does without

        try:
            packed = self._whole(item.blob)
        except RegistryError as error:
            if error.code != "missing":
                raise
            self.refused["delta"] += 1  # its source has thrown it away, which still may have the file
            return None
        try:
            data = delta.decode(base, packed, max_bytes=blob.length)
        except RegistryError:
            data = b""
        if hashlib.sha256(data).digest() == blob.sha256:
            return data
        self.refused["delta"] += 1
        return None

    def _whole(self, blob: Blob) -> bytes:
        self._check_room(self._missing(blob))
        lengths = {digest: blob.length_of(index) for index, digest in enumerate(blob.chunks)}
        parts = {digest: data for digest in lengths if (data := self._kept(digest)) is not None}
        parts |= self._fetched({digest: lengths[digest] for digest in lengths if digest not in parts})
        data = b"".join(parts[digest] for digest in blob.chunks)
        if len(data) != blob.length or hashlib.sha256(data).digest() != blob.sha256:
            raise RegistryError("the chunks of a file make another file than the one that was signed", code="hash")
        return data

    def _kept(self, digest: bytes) -> bytes | None:
        """A chunk that is on this disk already."""
        if not self._store.has(digest):
            return None
        try:
            return self._store.get(digest)
        except RegistryError as error:  # rotten on this disk, and gone: fetched anew
            self.refused[error.code] += 1
            return None

    def _fetched(self, lengths: Mapping[bytes, int]) -> dict[bytes, bytes]:
        """Chunks from the source: while one is looked at, the next are on their way."""
        came: dict[bytes, bytes] = {}
        if self._window == 1:
            for digest in lengths:
                came[digest] = self._checked(digest, lengths[digest], self._ask(digest, lengths[digest]))
            return came
        under_way: deque[tuple[bytes, Future[bytes]]] = deque()

        def take() -> None:
            digest, answer = under_way.popleft()
            came[digest] = self._checked(digest, lengths[digest], answer.result())

        with ThreadPoolExecutor(self._window, thread_name_prefix="fetch") as threads:
            try:
                for digest, length in lengths.items():
                    if len(under_way) == self._window:
                        take()
                    under_way.append((digest, threads.submit(self._ask, digest, length)))
                while under_way:
                    take()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)  # one that failed is enough
        return came

    def _ask(self, digest: bytes, length: int) -> bytes:
        return self._source.fetch(chunk_name(digest), max_bytes=length)

    def _checked(self, digest: bytes, length: int, data: bytes) -> bytes:
        if len(data) > length:
            raise RegistryError(f"{len(data)} bytes came for a chunk of {length}", code="oversize")
        if self._keeps:
            self._store.put(digest, data)
        self._came += len(data)
        return data

    def _missing(self, blob: Blob) -> int:
        """How many bytes of it are not in the store."""
        return sum(blob.length_of(index) for index, digest in enumerate(blob.chunks) if not self._store.has(digest))

    def _check_room(self, wanted: int) -> None:
        folder = self._store.folder
        free = shutil.disk_usage(folder).free
        if free < 2 * wanted + _SPARE_BYTES:  # once as chunks, once in the slot
            raise ConfigError(
                f"a model of {wanted} bytes does not fit on the disk of {folder}: {free} are free; make room"
            )


def _read(have: Mapping[bytes, Path], sha256: bytes, max_bytes: int) -> bytes | None:
    """The file that is said to have this hash, if it has."""
    if sha256 not in have:
        return None
    try:
        data = read_bounded(have[sha256], max_bytes)
    except ConfigError:
        return None  # unreadable or grown: what is fetched takes its place
    return data if hashlib.sha256(data).digest() == sha256 else None
