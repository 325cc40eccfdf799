"""The roster and the revocation list: announced by a coordinator, fetched by devices, believed for their signature.

An announcement says version and SHA-256 of both lists and is a hint: what it leads to goes through `Membership.accept`.
At both ends a revoked party is shunned as soon as the list that revokes it is accepted, whatever connections it has,
and is a peer again when the roster has a new certificate of it. A broker cannot forge a list; it can keep one back,
which shows as a stale one after seven days.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from fedmesh.errors import DecodeError, FedMeshError, IdentityError, PeerError
from fedmesh.identity import Membership
from fedmesh.identity.lists import MAX_LIST_BYTES
from fedmesh.transport.backoff import Backoff
from fedmesh.transport.courier import Courier
from fedmesh.transport.files import RemoteFiles
from fedmesh.transport.issuing import fetch_lists
from fedmesh.types import PeerId
from fedmesh.wire import dumps, loads

__all__ = ["ListsFollower", "ListsPublisher", "Shunning", "revoked_parties"]

ANNOUNCED = "lists"
_KINDS = ("roster", "revocations")
_VERSION = 1
_MAX_POINTER_BYTES = 256
_log = logging.getLogger(__name__)


def revoked_parties(membership: Membership) -> set[PeerId]:
    """Who has a revoked certificate and, by the roster, no other one."""
    enrolled, revocations = membership.roster.enrolled, membership.revocations
    return {
        name
        for name in revocations.serials.values()
        if name not in enrolled or revocations.revoked(enrolled[name].serial)
    }


class Shunning:
    """Keeps a transport from talking with who is revoked.

    Attributes:
        shunned: who is, by the lists that `apply` saw last.
    """

    def __init__(self, transport: Courier, membership: Membership) -> None:
        self.shunned: set[PeerId] = set()
        self._transport, self._membership = transport, membership

    def apply(self) -> set[PeerId]:
        """Shuns who is revoked, and takes back who has a new certificate; returns who was not shunned before."""
        revoked = revoked_parties(self._membership)
        new = revoked - self.shunned
        for peer in new:
            self._transport.shun(peer)
        for peer in self.shunned - revoked:
            self._transport.readmit(peer)
        self.shunned = revoked
        if new:
            _log.warning("revoked and shunned: %s", ", ".join(sorted(new)))
        return new


class ListsPublisher:
    """A coordinator's part: gets lists from the issuer now and then, announces and serves them, while it is entered.

    Args:
        transport: the coordinator's. membership: whose lists are published.
        issuer: where it listens; None: lists come by another way, and `publish` is called when they did.
        every_s: between two questions to the issuer.
        clock: Unix seconds.

    Attributes:
        counts: ``published``, and ``failed`` questions and announcements.
        shunning: what it did about who is revoked.
    """

    def __init__(
        self,
        transport: Courier,
        membership: Membership,
        issuer: tuple[str, int] | None,
        *,
        every_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.shunning = Shunning(transport, membership)
        self._transport, self._membership, self._issuer = transport, membership, issuer
        self._every_s, self._clock = every_s, clock
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.shunning.apply()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """For a `FileServer`: ``lists/roster`` and ``lists/revocations``. Raises: LookupError: another name."""
        data = self._membership.signed_lists()[name.removeprefix("lists/")]
        if len(data) > max_bytes:
            raise PeerError(f"{name} has {len(data)} bytes, {max_bytes} are served")
        return data

    async def refresh(self) -> bool:
        """Asks the issuer, and publishes what is new; returns whether something was. Raises: as `fetch_lists`."""
        if self._issuer is None or not await fetch_lists(self._membership, self._issuer, clock=self._clock):
            return False
        await self.publish()
        return True

    async def publish(self) -> None:
        """Acts on the lists there are, and announces them. Raises: DeliveryError: they were not announced."""
        self.shunning.apply()
        await self._transport.announce(ANNOUNCED, pointer(self._membership))
        self.counts["published"] += 1

    async def _run(self) -> None:
        await self._tried(self.publish)
        while True:
            await self._tried(self.refresh)
            await asyncio.sleep(self._every_s)

    async def _tried(self, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except FedMeshError as error:
            self.counts["failed"] += 1
            _log.warning("the lists are not renewed: %s", error)


class ListsFollower:
    """A device's part: takes over the lists that coordinators announce, while it is entered.

    Args:
        transport: the device's. membership: what is kept up to date.
        files: of the coordinator whose announcements are followed.
        pause_s: between two fetches, doubling while they come to nothing.
        clock: Unix seconds. chance: jitter.

    Attributes:
        counts: ``accepted`` lists, refused ones by the code of the `IdentityError`, ``unreachable``,
            ``malformed``, ``failed`` (the disk is full).
        on_announced: called when lists were announced, and taken over where they were new: if they are not, they may
            have been to the coordinator, which did not know us until then.
    """

    def __init__(
        self,
        transport: Courier,
        membership: Membership,
        files: RemoteFiles,
        *,
        pause_s: float = 1.0,
        clock: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._chance = chance or random.Random()  # noqa: S311 - jitter
        self.shunning = Shunning(transport, membership)
        self.on_announced: Callable[[], None] = lambda: None
        self._transport, self._membership, self._files = transport, membership, files
        self._pause_s, self._clock = pause_s, clock
        self._news = asyncio.Event()
        self._refused: set[bytes] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def refused(self) -> Counter[str]:
        """`counts` of what was not taken over, by reason."""
        return Counter({reason: count for reason, count in self.counts.items() if reason != "accepted"})

    async def __aenter__(self) -> Self:
        self.shunning.apply()
        self._transport.subscribe(ANNOUNCED, self._heard)
        self._news.set()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.unsubscribe(ANNOUNCED, self._heard)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _heard(self, peer: PeerId, _data: bytes) -> None:
        if peer == self._files.server:
            self._news.set()

    async def _run(self) -> None:
        backoff = Backoff(self._chance, first_s=self._pause_s, longest_s=64 * self._pause_s)
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                if await self._follow():
                    backoff.reset()
                    self.on_announced()
            except PeerError as error:
                self.counts["unreachable"] += 1
                _log.info("the announced lists are not to be had: %s", error)
                self._news.set()
            except FedMeshError as error:
                self.counts["failed"] += 1
                _log.error("the lists cannot be kept: %s", error)
                self._news.set()
            await asyncio.sleep(backoff.next_s())  # whoever announces without end is followed less and less often

    async def _follow(self) -> bool:
        """Fetches what is announced and is neither known nor was refused; returns whether there was something good."""
        try:
            announced = _read_pointer(self._transport.announced.get((self._files.server, ANNOUNCED), b""))
        except DecodeError:
            self.counts["malformed"] += 1
            return False
        known = {hashlib.sha256(data).digest() for data in self._membership.signed_lists().values()}
        wanted = {kind: digest for kind, digest in announced.items() if digest not in known | self._refused}
        self._refused &= set(announced.values())
        good = [await self._taken_over(kind, wanted[kind]) for kind in sorted(wanted)]  # revocations before the roster
        return not good or any(good)

    async def _taken_over(self, kind: str, announced: bytes) -> bool:
        data = await self._files.fetch(f"lists/{kind}", max_bytes=MAX_LIST_BYTES)
        try:
            accepted = self._membership.accept(self._clock(), **{kind: data})
        except IdentityError as error:
            self.counts[error.code] += 1
            self._refused.add(announced)
            _log.warning("the %s that %s serves is refused (%s): %s", kind, self._files.server, error.code, error)
            return False
        if accepted:
            self.counts["accepted"] += 1
            self.shunning.apply()
        return accepted


def pointer(membership: Membership) -> bytes:
    """What is announced of the lists that `membership` has."""
    lists = membership.signed_lists()
    versions = membership.roster.header.version, membership.revocations.header.version
    described = zip(versions, [lists[kind] for kind in _KINDS], strict=True)
    return dumps([_VERSION, *[[version, hashlib.sha256(data).digest()] for version, data in described]])


def _read_pointer(data: bytes) -> dict[str, bytes]:
    """Kind -> SHA-256 of what is announced; empty where nothing is. Raises: DecodeError."""
    if not data:
        return {}
    match loads(data, max_bytes=_MAX_POINTER_BYTES, max_depth=2, max_items=8):
        case [1, [int(), bytes(roster)], [int(), bytes(revocations)]] if len(roster) == len(revocations) == 32:
            return {"roster": roster, "revocations": revocations}
        case _:
            raise DecodeError("what is announced are not two lists")
