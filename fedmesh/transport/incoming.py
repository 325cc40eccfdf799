"""The receiving half, without I/O: what a frame of a peer does, and what is answered.

Guaranteed: a message is given out once for as long as the peer's record is kept (for ever where there is a spool); what
is given out is what its announcement described, bit for bit; memory is reserved when a message is announced and bounded
for each peer and in all; whatever breaks a rule changes nothing and is counted by its reason.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from fedmesh.errors import ConfigError
from fedmesh.transport.accounts import Account
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Chunk, Data, Done, Have, Ident, Open, Refuse, Whole
from fedmesh.transport.limits import CHANNELS, FLEETING, MAX_CHUNK_BYTES, Limits
from fedmesh.transport.transfers import Record, Transfer
from fedmesh.types import PeerId

__all__ = ["Delivered", "Keeper", "Receiver"]

ACK_S = 0.5
"""A chunk that comes so long after the last acknowledgement is acknowledged at once: a slow link is not a dead one."""
_AHEAD_MS = 86_400_000
"""How far an incarnation (the Unix milliseconds of a start) may lie in the future."""
_INVITED = 4
"""Messages that are asked for when room came free."""
_REMEMBERED = 4096
"""Messages above the floor that a record holds; beyond, a peer waits for its oldest to be settled."""


class Delivered(NamedTuple):
    """A message that is whole."""

    peer: PeerId
    ident: Ident
    data: bytes
    channel: int = 0


Answer = Delivered | Have | Done | Refuse


class Keeper(Protocol):
    """Where a receiver keeps what has to outlive the process. Every call is durable when it returns, but `chunk`."""

    def begin(self, peer: PeerId, announced: Open) -> None:
        """A message was announced."""
        ...

    def chunk(self, peer: PeerId, ident: Ident, start: int, data: Data) -> None:
        """A part of it; it need not be durable: it is checked when it is read again."""
        ...

    def complete(self, peer: PeerId, ident: Ident, data: bytes | None, channel: int) -> None:
        """It is whole; `data` where nothing was begun."""
        ...

    def forget(self, peer: PeerId, ident: Ident) -> None:
        """What was begun is given up."""
        ...

    def taken(self, peer: PeerId, ident: Ident, record: Record) -> None:
        """The application is done with it."""
        ...


@dataclass(slots=True)
class _Peer:
    record: Record
    transfers: dict[int, Transfer] = field(default_factory=dict)
    held: dict[Ident, tuple[int, int]] = field(default_factory=dict)
    """Channel and bytes of what has reserved some: announced, or whole and not yet taken."""
    messages: Account = field(default_factory=Account)
    bytes: Account = field(default_factory=Account)

    def open(self, channel: int) -> int:
        """Transfers that are open on `channel`."""
        return sum(transfer.announced.channel == channel for transfer in self.transfers.values())


class Receiver:
    """Messages from many peers.

    Args:
        wall: Unix seconds, for deadlines.
        counts: what was refused, by reason.
        keeper: the spool, or None.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        counts: Counter[str],
        wall: Callable[[], float] = time.time,
        keeper: Keeper | None = None,
    ) -> None:
        self._limits, self._counts, self._wall, self._keeper = limits, counts, wall, keeper
        self._peers: dict[PeerId, _Peer] = {}
        self._turned_away: dict[tuple[PeerId, Ident], int] = {}
        self._ack_every = max(1, limits.window // 4)
        self._held = Account()

    @property
    def held_bytes(self) -> int:
        """Reserved, for all peers."""
        return self._held.total

    def restore(self, peer: PeerId, record: Record) -> None:
        """Takes up what was remembered of a peer."""
        self._peers[peer] = _Peer(record)

    def resume(self, peer: PeerId, announced: Open, chunks: dict[int, bytes], now: float) -> None:
        """Takes up a message that was begun; chunks that are not what was announced are dropped."""
        ident = announced.ident
        known = self._peers.setdefault(peer, _Peer(Record(ident.incarnation)))
        content = Content.described(announced.size, announced.chunk_bytes, announced.hashes)
        transfer = Transfer.of(announced, content, now)
        for index, data in chunks.items():
            if content.holds(index, data):
                transfer.put(index, data)
        if ident.incarnation > known.record.incarnation:
            self._catch_up(peer, known, announced)
        known.transfers[ident.sequence] = transfer
        self._hold(known, ident, content.size, announced.channel)
        if ident.incarnation < known.record.incarnation or known.record.had(ident.sequence):
            self._drop(peer, known, transfer)

    def whole(self, peer: PeerId, ident: Ident, size: int, channel: int = 0) -> None:
        """Takes up a message that was whole, but not taken."""
        known = self._peers.setdefault(peer, _Peer(Record(ident.incarnation)))
        if ident.incarnation > known.record.incarnation:
            known.record = Record(ident.incarnation)
        if ident.incarnation == known.record.incarnation:
            known.record.add(ident.sequence)
        self._hold(known, ident, size, channel)

    def handle(self, peer: PeerId, frame: Open | Whole | Chunk, now: float) -> list[Answer]:
        """Takes a frame in: what to answer, and a message if this made it whole."""
        if isinstance(frame, Chunk):
            return self._chunk(peer, frame, now)
        if frame.channel >= len(CHANNELS):  # of a later fedmesh
            return self._refuse(frame.ident, "channel")
        return self._message(peer, frame, now)

    def _message(self, peer: PeerId, frame: Open | Whole, now: float) -> list[Answer]:
        content = self._described(frame)
        if content is None:
            self._counts["digest"] += 1
            return []
        if peer not in self._peers and len(self._peers) >= self._limits.peers:
            return self._refuse(frame.ident, "busy")
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = _Peer(Record())
        if (code := self._objection(peer, known, frame)) is not None:
            return self._refuse(frame.ident, code, known.record.incarnation)
        if known.record.had(frame.ident.sequence):
            self._counts["duplicate"] += 1  # acknowledged again, however late
            return [Done(frame.ident, content.digest)]
        if isinstance(frame, Whole):
            return self._whole(peer, known, frame)
        return self._open(peer, known, frame, content, now)

    def taken(self, peer: PeerId, ident: Ident) -> list[tuple[PeerId, Refuse]]:
        """The application is done with a message: its memory is free. Gives answers for those who waited for some."""
        known = self._peers[peer]
        channel = self._free(known, ident)
        if self._keeper is not None and channel not in FLEETING:
            self._keeper.taken(peer, ident, known.record)
        if not self._turned_away:
            return []
        alike = (one for one, on in self._turned_away.items() if on == channel)
        invited = list(itertools.islice(itertools.chain(alike, self._turned_away), _INVITED))
        invited = list(dict.fromkeys(invited))
        for one in invited:
            del self._turned_away[one]
        return [(waiting, Refuse(refused, "again")) for waiting, refused in invited]

    def tick(self, now: float) -> None:
        """Gives up what has expired, and without a spool what nothing came of for long."""
        wall = self._wall()
        for peer, known in self._peers.items():
            for transfer in list(known.transfers.values()):
                fleeting = self._keeper is None or transfer.announced.channel in FLEETING
                idle = fleeting and now - transfer.heard_at > self._limits.idle_s
                if idle or self._is_over(transfer.announced.expires_ms, wall):
                    self._counts["abandoned"] += 1
                    self._drop(peer, known, transfer)

    def _objection(self, peer: PeerId, known: _Peer, frame: Open | Whole) -> str | None:
        """Why a message is not wanted, whatever room there is; settles incarnation and floor."""
        limits, wall = self._limits, self._wall()
        if frame.ident.incarnation < known.record.incarnation:
            return "stale"
        if frame.ident.incarnation > wall * 1000 + _AHEAD_MS + limits.clock_skew_s * 1000:
            return "clock"
        if (frame.size if isinstance(frame, Open) else len(frame.data)) > limits.message_bytes:
            return "too-large"
        self._catch_up(peer, known, frame)
        if not known.record.had(frame.ident.sequence):
            if self._is_over(frame.expires_ms, wall):
                return "expired"
            if frame.expires_ms > (wall + limits.lifetime_s + limits.clock_skew_s) * 1000:
                return "clock"
        return None

    def _catch_up(self, peer: PeerId, known: _Peer, frame: Open | Whole) -> None:
        """Drops what will not come any more: of an earlier incarnation, or below the floor."""
        began_anew = frame.ident.incarnation > known.record.incarnation
        for transfer in list(known.transfers.values()) if known.transfers else ():
            if began_anew or transfer.announced.ident.sequence < frame.floor:
                self._drop(peer, known, transfer)
        if began_anew:
            known.record = Record(frame.ident.incarnation)
        known.record.rise(frame.floor)

    def _whole(self, peer: PeerId, known: _Peer, frame: Whole) -> list[Answer]:
        if frame.ident.sequence in known.transfers:
            return self._refuse(frame.ident, "conflict")
        if not self._has_room(known, len(frame.data), frame.channel):
            return self._turn_away(peer, frame)
        if not self._kept(frame.channel, lambda keeper: keeper.complete(peer, frame.ident, frame.data, frame.channel)):
            return self._refuse(frame.ident, "busy")
        self._hold(known, frame.ident, len(frame.data), frame.channel)
        known.record.add(frame.ident.sequence)
        return [Delivered(peer, frame.ident, frame.data, frame.channel), Done(frame.ident, frame.digest)]

    def _open(self, peer: PeerId, known: _Peer, frame: Open, content: Content, now: float) -> list[Answer]:
        transfer = known.transfers.get(frame.ident.sequence)
        if transfer is None:
            full = known.open(frame.channel) >= self._limits.transfers
            if full or not self._has_room(known, frame.size, frame.channel):
                return self._turn_away(peer, frame)
            try:
                transfer = Transfer.of(frame, content, now)
            except MemoryError:  # the system has less than our limits say: the sender asks again
                self._counts["memory"] += 1
                return self._refuse(frame.ident, "busy")
            if not self._kept(frame.channel, lambda keeper: keeper.begin(peer, frame)):
                return self._refuse(frame.ident, "busy")
            known.transfers[frame.ident.sequence] = transfer
            self._hold(known, frame.ident, frame.size, frame.channel)
        elif transfer.content.digest != content.digest:
            return self._refuse(frame.ident, "conflict")
        transfer.attempt = frame.attempt  # not the highest: a sender that was restarted counts anew
        if not transfer.missing:  # all of it was there when the spool was read
            return self._complete(peer, known, transfer)
        return [self._have(transfer, now)]

    def _chunk(self, peer: PeerId, frame: Chunk, now: float) -> list[Answer]:
        known = self._peers.get(peer, _Peer(Record()))
        transfer = known.transfers.get(frame.ident.sequence)
        if transfer is None or transfer.announced.ident != frame.ident:
            if frame.ident.incarnation != known.record.incarnation or not known.record.had(frame.ident.sequence):
                return self._refuse(frame.ident, "unknown")
            self._counts["duplicate"] += 1  # of a message that is whole: that was answered
            return []
        if reason := self._flaw(peer, transfer, frame):
            self._counts[reason] += 1
            return []
        transfer.put(frame.place, frame.data)
        transfer.fresh += 1
        transfer.heard_at = now
        if not transfer.missing:
            return self._complete(peer, known, transfer)
        due = transfer.fresh >= self._ack_every or now - transfer.acked_at >= ACK_S
        return [self._have(transfer, now)] if due else []

    def _flaw(self, peer: PeerId, transfer: Transfer, frame: Chunk) -> str:
        """Why a chunk is not taken; empty: it is good, and kept where there is a spool."""
        content, start = transfer.content, frame.place * transfer.content.chunk_bytes
        if frame.place >= content.chunks or len(frame.data) != content.length(frame.place):
            return "chunk_size"
        if transfer.has(frame.place):
            return "duplicate"
        if not content.holds(frame.place, frame.data):
            return "chunk_hash"
        channel = transfer.announced.channel
        kept = self._kept(channel, lambda keeper: keeper.chunk(peer, frame.ident, start, frame.data))
        return "" if kept else "chunk_not_kept"

    def _complete(self, peer: PeerId, known: _Peer, transfer: Transfer) -> list[Answer]:
        ident, content, channel = transfer.announced.ident, transfer.content, transfer.announced.channel
        if not self._kept(channel, lambda keeper: keeper.complete(peer, ident, None, channel)):
            return self._refuse(ident, "busy")
        del known.transfers[ident.sequence]
        known.record.add(ident.sequence)
        return [Delivered(peer, ident, transfer.whole(), channel), Done(ident, content.digest)]

    def _have(self, transfer: Transfer, now: float) -> Have:
        transfer.fresh, transfer.acked_at = 0, now
        bitmap = transfer.have.to_bytes(-(-transfer.content.chunks // 8), "little")
        return Have(transfer.announced.ident, transfer.attempt, transfer.content.digest, bitmap)

    def _kept(self, channel: int, write: Callable[[Keeper], None]) -> bool:
        """Whether the spool could write; a full disk is a reason to wait, not to end."""
        if self._keeper is None or channel in FLEETING:
            return True
        try:
            write(self._keeper)
        except ConfigError:
            self._counts["disk"] += 1
            return False
        return True

    def _described(self, frame: Open | Whole) -> Content | None:
        if isinstance(frame, Open):
            return Content.described(frame.size, frame.chunk_bytes, frame.hashes)
        content = Content.of(frame.data, MAX_CHUNK_BYTES)
        return content if content.digest == frame.digest else None

    def _refuse(self, ident: Ident, code: str, newest: int = 0) -> list[Answer]:
        self._counts[code.replace("-", "_")] += 1
        return [Refuse(ident, code, newest)]

    def _turn_away(self, peer: PeerId, frame: Open | Whole) -> list[Answer]:
        if len(self._turned_away) < _REMEMBERED:
            self._turned_away[peer, frame.ident] = frame.channel
        return self._refuse(frame.ident, "busy")

    def _is_over(self, expires_ms: int, wall: float) -> bool:
        return wall * 1000 > expires_ms + self._limits.clock_skew_s * 1000

    def _has_room(self, known: _Peer, size: int, channel: int) -> bool:
        limits = self._limits
        return (
            len(known.record.done) < _REMEMBERED
            and known.messages.has_room(1, channel, limits.peer_messages)
            and known.bytes.has_room(size, channel, limits.peer_bytes)
            and self._held.has_room(size, channel, limits.incoming_bytes)
        )

    def _hold(self, known: _Peer, ident: Ident, size: int, channel: int) -> None:
        known.held[ident] = channel, size
        self._account(known, channel, 1, size)

    def _free(self, known: _Peer, ident: Ident) -> int:
        """Returns on which channel it was."""
        if ident not in known.held:
            return -1
        channel, size = known.held.pop(ident)
        self._account(known, channel, -1, -size)
        return channel

    def _account(self, known: _Peer, channel: int, messages: int, size: int) -> None:
        known.messages.add(messages, channel)
        known.bytes.add(size, channel)
        self._held.add(size, channel)

    def forget(self, peer: PeerId) -> None:
        """Gives up what has arrived of messages of `peer` that are not whole."""
        known = self._peers.get(peer, _Peer(Record()))
        for transfer in list(known.transfers.values()):
            self._counts["abandoned"] += 1
            self._drop(peer, known, transfer)

    def _drop(self, peer: PeerId, known: _Peer, transfer: Transfer) -> None:
        del known.transfers[transfer.announced.ident.sequence]
        self._free(known, transfer.announced.ident)
        if self._keeper is not None and transfer.announced.channel not in FLEETING:
            self._keeper.forget(peer, transfer.announced.ident)
