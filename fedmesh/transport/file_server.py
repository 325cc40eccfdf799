"""Files by name, served on a channel: whoever may write to us may read them, in pieces, a bounded number at a time.

Nothing here is secret and nothing is signed: who reads a file checks what it holds. A peer that asks for more at a time
than its share is told ``busy``, beyond twice that it is not answered; when all have too much under way, the channel is
not read, and the transport's back-pressure holds the requests at their senders.
"""

import asyncio
import hashlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from fedmesh.errors import DecodeError, DeliveryError, FedMeshError, PeerError
from fedmesh.transport.channel import Channel
from fedmesh.transport.file_messages import PIECE_BYTES, Answer, Request, is_file_name
from fedmesh.types import PeerId

__all__ = ["FileServer", "Read", "routed"]

_ANSWER_WORTH_S = 120.0
_READERS = 4
_log = logging.getLogger(__name__)


class Read(Protocol):
    """Where files come from. Called in a thread, several at a time."""

    def __call__(self, name: str, *, max_bytes: int) -> bytes:
        """The whole file. Raises: PeerError, LookupError or FileNotFoundError: there is none of this name."""
        ...


def routed(routes: Mapping[str, Read]) -> Read:
    """Reads ``PREFIX/...`` by the one of `routes` that has this prefix; it gets the whole name."""

    def read(name: str, *, max_bytes: int) -> bytes:
        return routes[name.partition("/")[0]](name, max_bytes=max_bytes)

    return read


class FileServer:
    """Answers requests on `channel` while it is entered.

    Args:
        channel: read by nobody else.
        read: gives files.
        max_bytes: longest file.
        most: answers under way, to everybody. per_peer: to one peer.
        kept_bytes: of long files, in memory, so that they are not read again for each piece.

    Attributes:
        counts: answers by code (``served`` for a piece), ``malformed`` requests, ``dropped`` ones.
    """

    def __init__(
        self,
        channel: Channel,
        read: Read,
        *,
        max_bytes: int = 256 << 20,
        most: int = 512,
        per_peer: int = 8,
        kept_bytes: int = 64 << 20,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._channel, self._read, self._max_bytes, self._per_peer = channel, read, max_bytes, per_peer
        self._slots = asyncio.Semaphore(most)
        self._reading = asyncio.Semaphore(_READERS)
        self._busy: Counter[PeerId] = Counter()
        self._kept = _Kept(kept_bytes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._tasks, *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self) -> None:
        async for peer, data in self._channel.receive():
            if self._busy[peer] >= 2 * self._per_peer:
                self.counts["dropped"] += 1
                continue
            try:
                request = Request.from_bytes(data)
            except DecodeError:
                self.counts["malformed"] += 1
                continue
            await self._slots.acquire()
            over = self._busy[peer] >= self._per_peer
            self._busy[peer] += 1
            task = asyncio.create_task(self._serve_one(peer, request, over=over))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_one(self, peer: PeerId, request: Request, *, over: bool) -> None:
        """From the request until the peer has the answer: until then it counts."""
        try:
            answer = Answer(request.number, "busy") if over else await self._answer(request)
            self.counts[answer.code or "served"] += 1
            with suppress(DeliveryError):  # gone, or shunned meanwhile: nobody waits for it
                receipt = await self._channel.post(peer, answer.to_bytes(), expires_in_s=_ANSWER_WORTH_S)
                await receipt.delivered()
        finally:
            self._slots.release()
            self._busy[peer] -= 1
            if not self._busy[peer]:
                del self._busy[peer]

    async def _answer(self, request: Request) -> Answer:
        if not is_file_name(request.name):
            return Answer(request.number, "name")
        try:
            digest, data = await self._file(request)
        except (PeerError, LookupError, FileNotFoundError):
            return Answer(request.number, "unknown")
        except (FedMeshError, OSError) as error:
            _log.error("the file %s cannot be served: %s", request.name, error)
            return Answer(request.number, "failed")
        return self._piece(request, digest, data)

    def _piece(self, request: Request, digest: bytes, data: bytes) -> Answer:
        if len(data) > self._max_bytes:
            return Answer(request.number, "too-large")
        if request.digest not in {b"", digest}:
            return Answer(request.number, "changed")
        if request.offset > len(data) or not 0 < request.length <= PIECE_BYTES:
            return Answer(request.number, "range")
        piece = data[request.offset : request.offset + request.length]
        return Answer(request.number, "", len(data), digest, piece)

    async def _file(self, request: Request) -> tuple[bytes, bytes]:
        kept = self._kept.get(request.name, request.digest) if request.digest else None
        if kept is not None:
            return request.digest, kept
        async with self._reading:
            digest, data = await asyncio.to_thread(self._read_and_hash, request.name)
        if len(data) > PIECE_BYTES:
            self._kept.put(request.name, digest, data)
        return digest, data

    def _read_and_hash(self, name: str) -> tuple[bytes, bytes]:
        data = self._read(name, max_bytes=self._max_bytes)
        return hashlib.sha256(data).digest(), data


class _Kept:
    """Files that were read last, at most `max_bytes` of them, or one that is longer."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._files: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()

    def get(self, name: str, digest: bytes) -> bytes | None:
        data = self._files.get((name, digest))
        if data is not None:
            self._files.move_to_end((name, digest))
        return data

    def put(self, name: str, digest: bytes, data: bytes) -> None:
        if (name, digest) not in self._files:
            self._files[name, digest] = data
            self._bytes += len(data)
        while self._bytes > self._max_bytes and len(self._files) > 1:
            _, oldest = self._files.popitem(last=False)
            self._bytes -= len(oldest)
