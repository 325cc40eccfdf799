"""Files of a peer by name: fetched in pieces, several at a time, whole and of one version; not verified.

`RemoteFiles` is for the event loop, its `source` for code that blocks in a thread, as python-tuf's updater does.
"""

import asyncio
import hashlib
import random
from collections import Counter
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import TracebackType
from typing import Self

from fedmesh.errors import DecodeError, FileError
from fedmesh.transport.backoff import Backoff
from fedmesh.transport.channel import Channel
from fedmesh.transport.file_messages import PIECE_BYTES, Answer, Request, is_file_name
from fedmesh.types import PeerId

__all__ = ["RemoteFiles", "RemoteSource"]

_VERSIONS = 3
"""Times that a file may change while it is fetched."""
_GRACE_S = 5.0
_PAUSE_S = 0.1
_MEANINGS = {
    "unknown": "it has no such file",
    "name": "it takes no such name",
    "range": "it has fewer bytes",
    "too-large": "it serves no file so long",
    "failed": "it could not read it",
}


class RemoteFiles:
    """The files that `server` serves on `channel`, while it is entered.

    Args:
        channel: read by nobody else.
        server: whose answers are taken; others' are counted.
        window: requests under way, for all files; at most what the server allows a peer.
        retry_s: silence after which a request is repeated, doubling.
        chance: numbers of requests, and jitter.

    Attributes:
        server: whose files these are.
        counts: answers that were ``late``, ``malformed`` or a ``stranger``'s, requests that were ``repeated``.
    """

    def __init__(
        self,
        channel: Channel,
        server: PeerId,
        *,
        window: int = 8,
        retry_s: float = 20.0,
        chance: random.Random | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._channel, self.server, self._retry_s = channel, server, retry_s
        self._chance = chance or random.Random()  # noqa: S311 - no secrets
        self._window = asyncio.Semaphore(window)
        self._number = self._chance.getrandbits(60)  # answers to an earlier process are not taken for ours
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self._end()

    async def fetch(self, name: str, *, max_bytes: int, timeout_s: float = 300.0, offset: int = 0) -> bytes:
        """The file `name` from `offset` on (to resume), unverified.

        Args:
            name: as `is_file_name` says.
            max_bytes: longest file, counted from its beginning.
            timeout_s: for all of it.
            offset: bytes that are there already; whether of the same version is for the caller to find out.

        Raises:
            FileError: it is not to be had, or is longer.
            PeerError: the transport does not take the request.
        """
        if not is_file_name(name):
            raise FileError(f"{name[:100]!r} is not a file's name", code="name")
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(_VERSIONS):
                    if (data := await self._version(name, max_bytes, offset)) is not None:
                        return data
        except TimeoutError as error:
            raise FileError(f"{self.server} did not send {name} within {timeout_s:g} s", code="timeout") from error
        raise FileError(f"{name} changes faster than it can be fetched from {self.server}", code="changed")

    def source(self, *, timeout_s: float = 300.0) -> "RemoteSource":
        """For threads. To be called on the event loop."""
        return RemoteSource(self, asyncio.get_running_loop(), timeout_s)

    async def _version(self, name: str, max_bytes: int, offset: int) -> bytes | None:
        """One version of it; None: it changed meanwhile."""
        first = await self._piece(name, offset, PIECE_BYTES, b"")
        if first.code:
            raise self._error(name, first.code)
        if first.size > max_bytes:
            raise FileError(f"{name} has {first.size} bytes at {self.server}, wanted are {max_bytes}", code="too-large")
        starts = range(offset + len(first.data), first.size, PIECE_BYTES)
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._piece(name, start, PIECE_BYTES, first.digest)) for start in starts]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        answers = [first, *[task.result() for task in asked]]
        for answer in answers:
            if answer.code not in {"", "changed"}:
                raise self._error(name, answer.code)
        if any(answer.code or (answer.size, answer.digest) != (first.size, first.digest) for answer in answers):
            return None
        data = b"".join(answer.data for answer in answers)
        whole = offset + len(data) == first.size
        if not whole or (offset == 0 and hashlib.sha256(data).digest() != first.digest):
            raise FileError(f"what {self.server} sent of {name} is not what it announced", code="failed")
        return data

    async def _piece(self, name: str, offset: int, length: int, digest: bytes) -> Answer:
        async with self._window:
            backoff = Backoff(self._chance, first_s=_PAUSE_S, longest_s=self._retry_s)
            patience_s = self._retry_s
            while True:
                answer = await self._asked(name, offset, length, digest, patience_s)
                if answer is None:
                    self.counts["repeated"] += 1
                    patience_s = min(2 * patience_s, 16 * self._retry_s)
                elif answer.code == "busy":
                    await asyncio.sleep(backoff.next_s())
                else:
                    return answer

    async def _asked(self, name: str, offset: int, length: int, digest: bytes, patience_s: float) -> Answer | None:
        """The answer to one request; None: there was none in time."""
        if self._closed:
            raise self._error(name, "closed")
        self._number += 1
        number = self._number
        outcome: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = outcome
        try:
            request = Request(number, name, offset, length, digest)
            await self._channel.post(self.server, request.to_bytes(), expires_in_s=patience_s)
            done, _ = await asyncio.wait([outcome], timeout=patience_s)
        finally:
            del self._waiting[number]
        if not done:
            return None
        answer = outcome.result()
        if len(answer.data) > length:
            raise self._error(name, "failed")
        return answer

    async def _listen(self) -> None:
        async for peer, data in self._channel.receive():
            self._heard(peer, data)
            self._channel.done()
        self._end()

    def _heard(self, peer: PeerId, data: bytes) -> None:
        if peer != self.server:
            self.counts["stranger"] += 1
            return
        try:
            answer = Answer.from_bytes(data)
        except DecodeError:
            self.counts["malformed"] += 1
            return
        outcome = self._waiting.get(answer.number)
        if outcome is None or outcome.done():
            self.counts["late"] += 1
        else:
            outcome.set_result(answer)

    def _end(self) -> None:
        self._closed = True
        for outcome in self._waiting.values():
            if not outcome.done():
                outcome.set_result(Answer(0, "closed"))

    def _error(self, name: str, code: str) -> FileError:
        return FileError(f"{self.server} does not send {name}: {_MEANINGS.get(code, code)}", code=code)


class RemoteSource:
    """`RemoteFiles` for a thread: blocks. `RemoteFiles.source` makes it."""

    def __init__(self, files: RemoteFiles, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._files, self._loop, self._timeout_s = files, loop, timeout_s
        self._fetching: set[Future[bytes]] = set()
        self._closed = False

    def close(self) -> None:
        """What is being fetched is given up, and nothing is fetched any more. From any thread; idempotent."""
        self._closed = True
        for future in tuple(self._fetching):
            future.cancel()

    def fetch(self, name: str, *, max_bytes: int) -> bytes:
        """What the file holds, unverified. Not from the thread of the event loop. Raises: as `RemoteFiles.fetch`."""
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise ValueError("a source blocks: call it from a thread, or await RemoteFiles.fetch")
        fetching = self._files.fetch(name, max_bytes=max_bytes, timeout_s=self._timeout_s)
        try:
            future = asyncio.run_coroutine_threadsafe(fetching, self._loop)
        except RuntimeError as error:
            fetching.close()
            raise FileError(f"{name} cannot be fetched: the event loop has ended", code="closed") from error
        self._fetching.add(future)
        try:
            if self._closed:  # after the future is there to be cancelled: one of both sees the other
                future.cancel()
            return future.result(self._timeout_s + _GRACE_S)
        except CancelledError as error:
            raise FileError(f"{name} is not fetched any more: its source was closed", code="closed") from error
        except TimeoutError as error:
            future.cancel()
            raise FileError(f"{name} cannot be fetched: the event loop does not answer", code="timeout") from error
        finally:
            self._fetching.discard(future)
