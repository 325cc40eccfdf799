"""The signed lists from neighbour to neighbour: the newest roster and revocation list reach every member. Sans-IO.

Neighbours tell each other which lists they have, when they meet and when that changes; who has older ones asks for the
newer. A list is believed for its signature and its version (`Membership.accept`), whoever it comes from, and told on
only then. A neighbour can keep one back, which the next one makes up for.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedmesh.errors import ConfigError, DecodeError, IdentityError
from fedmesh.identity import Membership
from fedmesh.identity.lists import MAX_LIST_BYTES
from fedmesh.types import PeerId
from fedmesh.wire import dumps, loads

__all__ = ["KINDS", "MAX_MESSAGE_BYTES", "ListGossip", "Outgoing"]

VERSION = 1
KINDS = ("revocations", "roster")
"""What is asked for first comes first: who is thrown out counts more than who is new."""
MAX_MESSAGE_BYTES = MAX_LIST_BYTES + 64
_HAVE, _WANT, _LIST = range(3)
_LARGEST = 1 << 62
_ANSWER_S = 60.0
_GIVEN_EACH_S = 5.0
_BANNED_S = 600.0
_TOLD_S = 300.0
_REFUSED = 64

_Rank = tuple[int, int]
"""Generation of the issuer, and version: of two lists of a kind the greater one is newer."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be sent; it may be lost."""

    to: PeerId
    data: bytes


@dataclass(frozen=True, slots=True)
class _Held:
    """What somebody says it has of a kind."""

    rank: _Rank
    digest: bytes


class ListGossip:
    """Of one member. What its methods return is to be sent.

    Args:
        membership: whose lists are kept up to date, on disk too.
        clock: seconds since 1970.
        accepted: called with the kind and version of a list that was taken over.

    Attributes:
        counts: what was refused, by reason: codes of `IdentityError`, ``malformed``, ``unasked``, ``busy`` (a neighbour
            asks again and again), ``banned`` (it gave a list that was none), ``timeout``, ``storage``.
    """

    def __init__(
        self, membership: Membership, *, clock: Callable[[], float], accepted: Callable[[str, int], None]
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._membership, self._clock, self._accepted = membership, clock, accepted
        self._theirs: dict[PeerId, dict[str, _Held]] = {}
        self._asked: dict[str, tuple[PeerId, float]] = {}
        self._given: dict[tuple[PeerId, str], float] = {}
        self._banned: dict[PeerId, float] = {}
        self._refused: dict[bytes, None] = {}
        self._told_at = 0.0

    def connected(self, peer: PeerId) -> list[Outgoing]:
        """There is a link: tells what we have."""
        self._theirs.setdefault(peer, {})
        return [Outgoing(peer, self._have())]

    def disconnected(self, peer: PeerId, now: float) -> list[Outgoing]:
        """There is none any more; what it was asked for is asked of another."""
        self._theirs.pop(peer, None)
        self._given = {key: at for key, at in self._given.items() if key[0] != peer}
        self._asked = {kind: asked for kind, asked in self._asked.items() if asked[0] != peer}
        return self._wanted(now)

    def changed(self, now: float) -> list[Outgoing]:
        """The membership has other lists than before, from elsewhere: everybody is told."""
        have, self._told_at = self._have(), now
        return [*(Outgoing(peer, have) for peer in self._theirs), *self._wanted(now)]

    def tick(self, now: float) -> list[Outgoing]:
        """To be called now and then: who did not answer in time is not waited for, nor asked for a while."""
        for kind, (peer, at) in list(self._asked.items()):
            if now >= at + _ANSWER_S:
                self.counts["timeout"] += 1
                del self._asked[kind]
                self._ban(peer, now)
        return self.changed(now) if now >= self._told_at + _TOLD_S else self._wanted(now)

    def received(self, peer: PeerId, data: bytes, now: float) -> list[Outgoing]:
        """What is to be sent because this came, from the peer that the link's certificate names."""
        if peer not in self._theirs or self._banned.get(peer, now) > now:
            self.counts["banned" if peer in self._theirs else "stranger"] += 1
            return []
        try:
            return [*self._handle(peer, data, now), *self._wanted(now)]
        except DecodeError:
            self.counts["malformed"] += 1
            return []

    def _handle(self, peer: PeerId, data: bytes, now: float) -> list[Outgoing]:
        match loads(data, max_bytes=MAX_MESSAGE_BYTES, max_depth=4, max_items=32):
            case [1, 0, *held] if len(held) == len(KINDS):
                self._theirs[peer] = {kind: _held(item) for kind, item in zip(KINDS, held, strict=True)}
            case [1, 1, str(kind)] if kind in KINDS:
                return self._give(peer, kind, now)
            case [1, 2, str(kind), bytes(content)] if kind in KINDS:
                return self.changed(now) if self._take(peer, kind, content, now) else []
            case _:
                raise DecodeError("it is no message about lists, version 1")
        return []

    def _give(self, peer: PeerId, kind: str, now: float) -> list[Outgoing]:
        if now < self._given.get((peer, kind), now - _GIVEN_EACH_S) + _GIVEN_EACH_S:
            self.counts["busy"] += 1
            return []
        self._given[peer, kind] = now
        return [Outgoing(peer, dumps([VERSION, _LIST, kind, self._membership.signed_lists()[kind]]))]

    def _take(self, peer: PeerId, kind: str, data: bytes, now: float) -> bool:
        """Whether it is newer, and counts from now on."""
        asked = self._asked.get(kind)
        if asked is None or asked[0] != peer:
            self.counts["unasked"] += 1
            return False
        del self._asked[kind]
        self._theirs[peer].pop(kind, None)  # it has said so itself once: it is not asked again before it says more
        try:
            lists: dict[str, Any] = {kind: data}
            newer = self._membership.accept(self._clock(), **lists)
        except IdentityError as error:
            self.counts[error.code] += 1
            self._remember(hashlib.sha256(data).digest())
            if error.code not in {"rollback", "fork"}:  # it may have been the newest, and the fork is the issuer's
                self._ban(peer, now)
        except ConfigError:  # the disk is full: somebody says again what there is
            self.counts["storage"] += 1
        else:
            if newer:
                self._accepted(kind, self._own(kind).rank[1])
            return newer
        return False

    def _ban(self, peer: PeerId, now: float) -> None:
        self._banned = {name: until for name, until in self._banned.items() if until > now}
        self._banned[peer] = now + _BANNED_S

    def _wanted(self, now: float) -> list[Outgoing]:
        """Asks one who has a newer list, for each kind of which nothing is on its way."""
        out = []
        for kind in KINDS:
            if kind in self._asked:
                continue
            own = self._own(kind)
            newer = {
                peer: theirs[kind]
                for peer, theirs in self._theirs.items()
                if kind in theirs and self._is_news(theirs[kind], own) and self._banned.get(peer, now) <= now
            }
            if newer:
                peer = max(newer, key=lambda name: newer[name].rank)
                self._asked[kind] = peer, now
                out.append(Outgoing(peer, dumps([VERSION, _WANT, kind])))
        return out

    def _is_news(self, theirs: _Held, own: _Held) -> bool:
        """Newer, or another of the same version: two such prove that the issuer is in two places."""
        return theirs.rank >= own.rank and theirs.digest != own.digest and theirs.digest not in self._refused

    def _own(self, kind: str) -> _Held:
        held = self._membership.roster if kind == "roster" else self._membership.revocations
        digest = hashlib.sha256(self._membership.signed_lists()[kind]).digest()
        return _Held((held.issuer.serial_number, held.header.version), digest)

    def _have(self) -> bytes:
        held = map(self._own, KINDS)
        return dumps([VERSION, _HAVE, *([*one.rank, one.digest] for one in held)])

    def _remember(self, digest: bytes) -> None:
        while len(self._refused) >= _REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[digest] = None


def _held(item: object) -> _Held:
    match item:
        case [int(generation), int(version), bytes(digest)] if (
            type(generation) is int and type(version) is int and len(digest) == 32
        ):
            if 0 <= generation < _LARGEST and 0 <= version < _LARGEST:
                return _Held((generation, version), digest)
    raise DecodeError("what somebody has of a list is a generation, a version and a SHA-256")
