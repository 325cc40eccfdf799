"""Charters from neighbour to neighbour: whoever joins the mesh hears of the runs that are under way. Sans-IO.

Neighbours tell each other which they have, by hash, when they meet and when there is a new one; who lacks one asks for
it. A charter is believed for its signature and its signer's right (`open_charter`), whoever it comes from, and told on
only then, also by who is no member of it. So who tells of one has believed it: that counts when one of its members has
been revoked since.

A message is two bytes, version and kind, and hashes of 32 bytes (have, want) or a charter.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from fedmesh.errors import ChainError, DecodeError
from fedmesh.mesh.rounds import Charter
from fedmesh.mesh.rounds.charter import MAX_CHARTER_BYTES, read_charter
from fedmesh.types import PeerId

__all__ = ["HAVE", "MAX_CHARTERS", "VERSION", "CharterGossip", "Outgoing"]

VERSION = 1
HAVE, WANT, CHARTER = range(3)
MAX_CHARTERS = 32
_HASH = 32
_ANSWER_S = 15.0
_GIVEN = 2.0 * MAX_CHARTERS
"""Charters that a neighbour gets at once; then one a second."""
_LATER_S = 30.0
_ASKED = 4


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be sent; it may be lost."""

    to: PeerId
    data: bytes


class CharterGossip:
    """Of one member. What its methods return is to be sent.

    Args:
        opened: the charter in these bytes, if it is to be believed, where these neighbours have taken it over; raises
            ChainError or DecodeError.
        accepted: takes a charter that was believed; False: there is no room for it.

    Attributes:
        known: hash -> charter, as it travels.
        counts: what was refused, by reason: ``charter`` (it is not believed), ``malformed``, ``unasked``, ``busy``
            (a neighbour asks again and again), ``full``, ``timeout``, ``stranger`` (there is no link).
    """

    def __init__(
        self, *, opened: Callable[[bytes, Collection[PeerId]], Charter], accepted: Callable[[Charter], bool]
    ) -> None:
        self.known: dict[bytes, bytes] = {}
        self.counts: Counter[str] = Counter()
        self._opened, self._accepted = opened, accepted
        self._theirs: dict[PeerId, tuple[bytes, ...]] = {}
        self._asked: dict[bytes, tuple[PeerId, float]] = {}
        self._given: dict[PeerId, tuple[float, float]] = {}
        self._refused: dict[tuple[PeerId, bytes], float] = {}
        self._full: set[bytes] = set()

    def connected(self, peer: PeerId) -> list[Outgoing]:
        """There is a link: tells which we have."""
        self._theirs.setdefault(peer, ())
        return [Outgoing(peer, self._have())] if self.known else []

    def disconnected(self, peer: PeerId, now: float) -> list[Outgoing]:
        """There is none any more; what it was asked for is asked of another."""
        self._theirs.pop(peer, None)
        self._given.pop(peer, None)
        self._asked = {digest: asked for digest, asked in self._asked.items() if asked[0] != peer}
        self._refused = {key: until for key, until in self._refused.items() if key[0] != peer}
        return self._wanted(now)

    def changed(self) -> list[Outgoing]:
        """There is another charter here: everybody is told."""
        have = self._have()
        return [Outgoing(peer, have) for peer in self._theirs]

    def roster_changed(self, now: float) -> list[Outgoing]:
        """A newer list counts from now on: what was refused may be right."""
        self._refused.clear()
        return self._wanted(now)

    def tick(self, now: float) -> list[Outgoing]:
        """To be called now and then: who did not answer in time is not waited for."""
        for digest, (peer, at) in list(self._asked.items()):
            if now >= at + _ANSWER_S:
                self.counts["timeout"] += 1
                del self._asked[digest]
                self._refused[peer, digest] = now + _LATER_S
        return self._wanted(now)

    def received(self, peer: PeerId, data: bytes, now: float) -> list[Outgoing]:
        """What is to be sent because this came, from the peer that the link's certificate names."""
        if peer not in self._theirs:
            self.counts["stranger"] += 1
            return []
        kind, rest = data[1:2], data[2:]
        if data[:1] != bytes([VERSION]) or not kind:
            self.counts["malformed"] += 1
        elif kind[0] == HAVE and len(rest) <= MAX_CHARTERS * _HASH and len(rest) % _HASH == 0:
            self._theirs[peer] = tuple(rest[at : at + _HASH] for at in range(0, len(rest), _HASH))
        elif kind[0] == WANT and len(rest) == _HASH:
            return self._give(peer, rest, now)
        elif kind[0] == CHARTER and len(rest) <= MAX_CHARTER_BYTES:
            return [*self._take(peer, rest), *self._wanted(now)]
        else:
            self.counts["malformed"] += 1
        return self._wanted(now)

    def put(self, charter: Charter) -> list[Outgoing]:
        """Tells of a charter that was signed here, or is known from before."""
        self.known[charter.hash] = charter.raw
        return self.changed()

    def forget(self, digest: bytes) -> None:
        """A run that nobody has to hear of any more; it is not asked for again."""
        self.known.pop(digest, None)
        self._full.add(digest)

    def _give(self, peer: PeerId, digest: bytes, now: float) -> list[Outgoing]:
        tokens, at = self._given.get(peer, (_GIVEN, now))
        tokens = min(_GIVEN, tokens + now - at)
        if tokens < 1:
            self.counts["busy"] += 1
            return []
        if digest not in self.known:
            return []
        self._given[peer] = tokens - 1, now
        return [Outgoing(peer, bytes([VERSION, CHARTER]) + self.known[digest])]

    def _take(self, peer: PeerId, raw: bytes) -> list[Outgoing]:
        asked = [digest for digest, (name, _) in self._asked.items() if name == peer]
        try:
            digest = read_charter(raw).hash
            if digest not in asked:
                self.counts["unasked"] += 1
                return []
            del self._asked[digest]
            self._refused[peer, digest] = math.inf  # it is not asked of this one again, whatever comes of it
            charter = self._opened(raw, [name for name, theirs in self._theirs.items() if digest in theirs])
        except DecodeError:
            self.counts["malformed"] += 1
            for digest in asked:
                del self._asked[digest]
                self._refused[peer, digest] = math.inf
            return []
        except ChainError as error:
            self.counts[error.code] += 1
            return []
        if not self._accepted(charter):
            self.counts["full"] += 1
            self._full.add(digest)
            return []
        self.known[digest] = raw
        return self.changed()

    def _wanted(self, now: float) -> list[Outgoing]:
        """Asks one who has it, for each that is not here and of which nothing is on its way."""
        out = []
        for peer, theirs in self._theirs.items():
            for digest in theirs:
                if digest in self.known or digest in self._asked or digest in self._full:
                    continue
                if self._refused.get((peer, digest), 0.0) <= now and self._has_room(peer):
                    self._asked[digest] = peer, now
                    out.append(Outgoing(peer, bytes([VERSION, WANT]) + digest))
        return out

    def _has_room(self, peer: PeerId) -> bool:
        """Whether it may be asked for more: one that makes up hashes is not, until the link ends."""
        asked = sum(name == peer for name, _ in self._asked.values())
        return asked < _ASKED and sum(name == peer for name, _ in self._refused) < 4 * MAX_CHARTERS

    def _have(self) -> bytes:
        return bytes([VERSION, HAVE]) + b"".join(self.known)
