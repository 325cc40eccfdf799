"""Blobs from whoever has them: asked for by SHA-256, piece by piece, verified as a whole, of another source if wrong.

A fetch goes on until the bytes are here or nobody wants them any more: sources that have it not, or do not answer, are
asked again later. What came of a source that has gone is gone on with from the next; if the whole is then wrong, each
is asked for all of it by itself, and who gave wrong bytes alone is not asked again.

Messages are CBOR: ``[1, 0, number, digest, offset]`` asks, ``[1, 1, number, size, data]`` answers, size -1: it is
not here.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from fedmesh.errors import ConfigError, DecodeError
from fedmesh.events import EventSink, Notice, ignore
from fedmesh.peer.blobs import MAX_BLOB_BYTES, BlobStore
from fedmesh.peer.post import Post
from fedmesh.transport.channel import Channel
from fedmesh.types import PeerId
from fedmesh.wire import dumps, loads

__all__ = ["PIECE_BYTES", "BlobExchange"]

VERSION = 1
PIECE_BYTES = 192 << 10
"""A message with one fits a chunk of the transport."""
_WORTH_S = 30.0
_ANSWERS_EACH, _ANSWERS = 8, 64
_AT_ONCE = 4
_PAUSE_S, _LONGEST_S = 0.25, 30.0


@dataclass(slots=True)
class _Fetch:
    """One blob on its way. `givers`: whose bytes `parts` are; `alone`: one source has to give all of it."""

    digest: bytes
    sources: list[PeerId]
    parts: bytearray = field(default_factory=bytearray)
    size: int = -1
    givers: set[PeerId] = field(default_factory=set)
    wrong: set[PeerId] = field(default_factory=set)
    alone: bool = False

    def clear(self) -> None:
        self.parts.clear()
        self.givers.clear()
        self.size = -1


class BlobExchange:
    """Of one node.

    Args:
        channel: for this alone. store: where they are.
        others: who may have one, beside the sources that are named.
        answer_s: how long one is waited for.

    Attributes:
        counts: ``hash`` (wrong bytes), ``malformed``, ``late``, ``timeout``, ``busy`` (too many questions at a time),
            ``storage``, ``unknown`` (asked for what is not here).
    """

    def __init__(
        self,
        channel: Channel,
        store: BlobStore,
        *,
        others: Callable[[], Iterable[PeerId]],
        answer_s: float = 10.0,
        events: EventSink = ignore,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._channel, self._store, self._others, self._answer_s = channel, store, others, answer_s
        self._events = events
        self._post = Post(channel, expires_in_s=_WORTH_S)
        self._loop = asyncio.get_running_loop()
        self._fetches: dict[bytes, tuple[_Fetch, asyncio.Task[None]]] = {}
        self._waiting: dict[int, tuple[PeerId, asyncio.Future[tuple[int, bytes]]]] = {}
        self._number = 0
        self._answering: Counter[PeerId] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._news = asyncio.Event()
        self._closed = False

    def want(self, digest: bytes, sources: Iterable[PeerId]) -> "asyncio.Task[None]":
        """Sees to it that it comes here, from one of `sources` first; the task ends when it has."""
        if digest in self._fetches:
            fetch, task = self._fetches[digest]
            fetch.sources = list(dict.fromkeys([*sources, *fetch.sources]))[:64]
            self._news.set()
            return task
        fetch = _Fetch(digest, list(dict.fromkeys(sources)))
        task = self._loop.create_task(self._fetched(fetch))
        self._fetches[digest] = fetch, task
        task.add_done_callback(lambda task: self._ended(digest, task))
        return task

    def only(self, digests: Collection[bytes]) -> None:
        """Gives up what is not among them."""
        for digest, (_, task) in list(self._fetches.items()):
            if digest not in digests:
                del self._fetches[digest]
                task.cancel()

    def connected(self) -> None:
        """There is another link: who waits looks again."""
        self._news.set()

    async def receive(self) -> None:
        """Takes what comes, until the transport is closed."""
        async for peer, data in self._channel.receive():
            try:
                self._take(peer, data)
            except DecodeError:
                self.counts["malformed"] += 1

    async def aclose(self) -> None:
        """Nothing is fetched or given any more."""
        self._closed = True
        tasks = [task for _, task in self._fetches.values()] + list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._post.aclose()

    def _take(self, peer: PeerId, data: bytes) -> None:
        match loads(data, max_bytes=PIECE_BYTES + 256, max_depth=1, max_items=8):
            case [1, 0, int(number), bytes(digest), int(offset)] if len(digest) == 32 and 0 <= offset < MAX_BLOB_BYTES:
                self._answer(peer, number, digest, offset)
            case [1, 1, int(number), int(size), bytes(piece)]:
                asked = self._waiting.get(number)
                if asked is None or asked[0] != peer or asked[1].done():
                    self.counts["late"] += 1
                else:
                    asked[1].set_result((size, piece))
            case _:
                raise DecodeError("it is no message about blobs, version 1")

    # What others ask for.

    def _answer(self, peer: PeerId, number: int, digest: bytes, offset: int) -> None:
        if self._answering[peer] >= _ANSWERS_EACH or self._answering.total() >= _ANSWERS or self._closed:
            self.counts["busy"] += 1
            return
        self._answering[peer] += 1
        task = self._loop.create_task(self._give(peer, number, digest, offset))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give(self, peer: PeerId, number: int, digest: bytes, offset: int) -> None:
        size = self._store.size(digest)
        piece = b"" if size < 0 else await asyncio.to_thread(self._store.piece, digest, offset, PIECE_BYTES)
        if size < 0:
            self.counts["unknown"] += 1
        self._post.send(peer, dumps([VERSION, 1, number, size, piece]), arrived=lambda: self._given(peer))

    def _given(self, peer: PeerId) -> None:
        self._answering[peer] -= 1
        if self._answering[peer] <= 0:
            del self._answering[peer]

    # What is fetched.

    async def _fetched(self, fetch: _Fetch) -> None:
        pause_s = _PAUSE_S
        while fetch.digest not in self._store:
            self._news.clear()
            for source in self._ordered(fetch):
                if source in fetch.wrong:
                    continue
                async with self._at_once:
                    if await self._is_from(source, fetch):
                        return
            try:
                async with asyncio.timeout(pause_s):
                    await self._news.wait()
                await asyncio.sleep(_PAUSE_S)  # what is new comes in swarms
            except TimeoutError:
                pause_s = min(2 * pause_s, _LONGEST_S)

    def _ordered(self, fetch: _Fetch) -> list[PeerId]:
        """Who is asked, in this order: named and linked; linked, who say at once that they have it not; named."""
        links = sorted(self._others())
        named = [source for source in fetch.sources if source in links]
        return list(dict.fromkeys([*named, *links, *fetch.sources]))

    def _ended(self, digest: bytes, task: "asyncio.Task[None]") -> None:
        if digest in self._fetches and self._fetches[digest][1] is task:
            del self._fetches[digest]

    async def _is_from(self, source: PeerId, fetch: _Fetch) -> bool:
        """Whether the blob is here, with what `source` has given of it."""
        if fetch.alone:
            fetch.clear()
        while True:
            answer = await self._asked(source, fetch.digest, len(fetch.parts))
            if answer is None or answer[0] < 0:
                return False
            if not self._is_next(fetch, *answer):
                return self._failed(source, fetch, "malformed")
            fetch.givers.add(source)
            fetch.size = answer[0]
            fetch.parts += answer[1]
            if len(fetch.parts) == fetch.size:
                return await self._is_kept(source, fetch)

    def _is_next(self, fetch: _Fetch, size: int, piece: bytes) -> bool:
        whole = len(fetch.parts) + len(piece)
        return (
            0 <= size <= MAX_BLOB_BYTES
            and fetch.size in {-1, size}
            and (whole == size or len(piece) == PIECE_BYTES)
            and whole <= size
        )

    async def _is_kept(self, source: PeerId, fetch: _Fetch) -> bool:
        data = bytes(fetch.parts)
        if await asyncio.to_thread(lambda: hashlib.sha256(data).digest()) != fetch.digest:
            return self._failed(source, fetch, "hash")
        try:
            await asyncio.to_thread(self._store.put, data)
        except ConfigError as error:  # the disk is full: it is fetched again later
            if not self.counts["storage"]:
                self._events(Notice(str(error)))
            self.counts["storage"] += 1
            fetch.clear()
            return False
        return True

    def _failed(self, source: PeerId, fetch: _Fetch, reason: str) -> bool:
        self.counts[reason] += 1
        if fetch.givers <= {source}:
            fetch.wrong.add(source)
        fetch.alone = True
        fetch.clear()
        return False

    async def _asked(self, source: PeerId, digest: bytes, offset: int) -> tuple[int, bytes] | None:
        """Size and piece; None: no answer in time."""
        self._number += 1
        number = self._number
        answer: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()
        self._waiting[number] = source, answer
        try:
            self._post.send(source, dumps([VERSION, 0, number, digest, offset]))
            async with asyncio.timeout(self._answer_s):
                return await answer
        except TimeoutError:
            self.counts["timeout"] += 1
            return None
        finally:
            del self._waiting[number]
