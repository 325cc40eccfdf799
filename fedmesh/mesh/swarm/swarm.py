"""One device in the swarm: `received` and `tick` say what to send, and nothing here has a socket, a clock or a thread.

It announces what it verified, gives what it has, and fetches what it is told to want: small files of one neighbour,
files in chunks of several. A chunk that is not what its name says bans who sent it. Nothing is kept that was not
verified; metadata, which only signatures can verify, is handed to who asked for it (`fedmesh.mesh.swarm.delivery`).
"""

import random
from collections import Counter
from dataclasses import dataclass

from fedmesh.errors import DecodeError, RegistryError
from fedmesh.mesh.swarm.giving import Giving
from fedmesh.mesh.swarm.holdings import Holdings
from fedmesh.mesh.swarm.messages import Announce, Bits, Cancel, Message, Piece, Refusal, Request, decode, encode
from fedmesh.mesh.swarm.neighbours import Neighbour, Neighbours
from fedmesh.mesh.swarm.settings import Settings
from fedmesh.mesh.swarm.taking import Found, Taking
from fedmesh.mesh.swarm.telling import Telling
from fedmesh.mesh.swarm.uploads import Uploads
from fedmesh.registry.manifest import Blob
from fedmesh.registry.pointer import Pointer

__all__ = ["Outgoing", "Swarm"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be sent; it may be lost. `is_piece`: `Swarm.sent` is to be called when it has left."""

    to: str
    data: bytes
    is_piece: bool = False


class Swarm:
    """One device. What its methods return is to be sent; `due` is when `tick` is to be called.

    Args:
        holdings: what is here, and may be given to anybody.
        rng: for all choices; `random.SystemRandom()` but in tests.
        origin: whether this is where files come from: each chunk is then given away once at first.

    Attributes:
        counts: what was refused or went wrong, by reason: docs/mesh-delivery.md.
    """

    def __init__(
        self, holdings: Holdings, *, rng: random.Random, settings: Settings | None = None, origin: bool = False
    ) -> None:
        self._settings = settings or Settings()
        self._holdings, self._rng = holdings, rng
        self._neighbours = Neighbours(self._settings)
        self.counts: Counter[str] = self._neighbours.counts
        self._uploads = Uploads(self._settings)
        self._giving = Giving(holdings, self._neighbours, self._uploads, self._post)
        self._taking = Taking(holdings, self._neighbours, self._settings, rng, self._post)
        self._telling = Telling(
            holdings, self._neighbours, self._uploads, self._settings, rng=rng, post=self._post, origin=origin
        )
        self._out: list[Outgoing] = []
        self._announce_at = self._due = 0.0

    @property
    def due(self) -> float:
        """When `tick` is to be called, at the latest; every call of any method may change it."""
        return self._due

    @property
    def neighbours(self) -> Neighbours:
        """Who is linked, and what they said."""
        return self._neighbours

    @property
    def given(self) -> Counter[str]:
        """Bytes of files that were given away, by neighbour."""
        return self._uploads.given

    @property
    def found(self) -> Found | None:
        """The small file that was wanted last, once it is known whether it is to be had."""
        return self._taking.found

    @property
    def wasted(self) -> int:
        """Bytes that came too late to be of use."""
        return self._taking.wasted

    @property
    def fetching(self) -> Blob | None:
        """The file in chunks that is wanted."""
        return None if self._taking.download is None else self._taking.download.blob

    @property
    def is_complete(self) -> bool:
        """Whether all of that is here."""
        return self._taking.download is not None and self._taking.download.is_complete

    def want_file(self, name: str, max_bytes: int, now: float, *, guide: str, alone: bool) -> list[Outgoing]:
        """Wants a small file, in place of the one before; `found` is what becomes of it.

        Args:
            guide: who is asked first; alone: and nobody else.
        """
        self._taking.want_file(name, max_bytes, guide, now, alone=alone)
        return self._flush(now)

    def want_blob(self, blob: Blob | None, now: float) -> list[Outgoing]:
        """Wants a file in chunks, in place of the one before; None: none."""
        self._taking.want_blob(blob)
        return self._flush(now)

    def changed(self, now: float) -> list[Outgoing]:
        """To be called when the holdings have changed by other hands: there is another pointer, or less on the disk."""
        self._announce_at = now
        return self._flush(now)

    def blame(self, peer: str, reason: str, now: float) -> list[Outgoing]:
        """What a neighbour gave was refused by who verified it: nothing is heard of it for a while."""
        neighbour = self._neighbours.get(peer)
        if neighbour is not None:
            self._neighbours.ban(neighbour, reason, now)
            self._taking.gone(neighbour, now)
        return self._flush(now)

    def connected(self, peer: str, now: float) -> list[Outgoing]:
        """A link came up, with who its certificate says."""
        if self._neighbours.get(peer) is None and self._neighbours.add(peer, now) is not None:
            self._uploads.came(peer)
            if self._holdings.pointer:
                self._post(peer, Announce(self._holdings.pointer))
        return self._flush(now)

    def disconnected(self, peer: str, now: float) -> list[Outgoing]:
        """The link is gone, with all that was under way on it."""
        neighbour = self._neighbours.remove(peer)
        self._uploads.gone(peer)
        if neighbour is not None:
            self._taking.gone(neighbour, now)
        return self._flush(now)

    def sent(self, peer: str, now: float) -> list[Outgoing]:
        """A piece for `peer` has left: the transport takes another."""
        self._uploads.sent(peer, now)
        return self._flush(now)

    def received(self, peer: str, data: bytes, now: float) -> list[Outgoing]:
        """What is to be sent because this came; what is malformed, or too much, is counted."""
        neighbour = self._neighbours.get(peer)
        if neighbour is None or self._neighbours.is_banned(peer, now):
            self.counts["stranger" if neighbour is None else "banned"] += 1
            return []
        try:
            message = decode(data)
        except DecodeError:
            self.counts["malformed"] += 1
            self._neighbours.admits(neighbour, now)
            return []
        asked_for = isinstance(message, Piece) and message.number in neighbour.asked
        if not asked_for and not self._neighbours.admits(neighbour, now):
            self.counts["flood"] += 1
            return []
        self._handle(neighbour, message, now)
        return self._flush(now)

    def tick(self, now: float) -> list[Outgoing]:
        """What is to be sent because time has passed."""
        self._taking.expire(now)
        for peer in self._uploads.stuck(now):
            self.counts["stuck"] += 1
            if (neighbour := self._neighbours.get(peer)) is not None:
                self._neighbours.snub(neighbour, now)
        return self._flush(now)

    def _handle(self, neighbour: Neighbour, message: Message, now: float) -> None:
        match message:
            case Announce():
                self._announced(neighbour, message)
            case Bits():
                if not self._telling.heard(neighbour, message, now):
                    self.counts["bits"] += 1
            case Request():
                self._giving.asked(neighbour.name, message)
            case Piece():
                self._taking.piece(neighbour, message, now)
            case Refusal():
                self._taking.refused(neighbour, message, now)
            case Cancel():
                self._uploads.cancel(neighbour.name, message.number)

    def _announced(self, neighbour: Neighbour, message: Announce) -> None:
        try:
            neighbour.pointer = Pointer.decode(message.pointer)
        except RegistryError:
            self.counts["malformed"] += 1

    def _post(self, to: str, message: Message) -> None:
        self._out.append(Outgoing(to, encode(message), isinstance(message, Piece)))

    def _flush(self, now: float) -> list[Outgoing]:
        self._giving.pump(now)
        self._taking.plan(now)
        if now >= self._announce_at:
            self._announce_at = now + self._settings.announce_s
            if self._holdings.pointer:
                for one in self._neighbours:
                    self._post(one.name, Announce(self._holdings.pointer))
        blob = self.fetching
        wants = blob is not None and not self.is_complete
        telling_at = self._telling.flush(blob, wants=wants, now=now)
        self._due = min(self._announce_at, telling_at, self._taking.due(now), self._uploads.due(now))
        out, self._out = self._out, []
        return out
