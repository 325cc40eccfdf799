"""One party's whole transport without I/O: bytes of frames in, bytes of frames out, messages at the application's side.

`Endpoint` has no thread, no clock and no socket: a carrier (MQTT, peers, memory) hands it what arrived, from whom, and
takes out what is to be sent when it has room for it. All that hostile frames can do is be counted in `counts`.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import filterfalse
from typing import NamedTuple

from fedmesh.errors import DecodeError
from fedmesh.transport.content import Content
from fedmesh.transport.frames import Chunk, Data, Done, Frame, Have, Ident, Open, Refuse, Whole, decode, encode
from fedmesh.transport.incoming import Delivered, Receiver
from fedmesh.transport.limits import FLEETING, Limits
from fedmesh.transport.outgoing import Sender, Settled
from fedmesh.transport.parcels import PARCEL_FRAMES, parts_of, unpack
from fedmesh.transport.spool import Spool
from fedmesh.types import PeerId

__all__ = ["Carried", "Endpoint"]

_ANSWERS = 1024
"""Answers to one peer that wait to be sent; what is dropped beyond is asked for again."""
ANSWER_WORTH_S = 60.0
_ANSWER_BYTES = 8 * 1024
"""Answers of one parcel: with the longest one (1 KB and a bit) and the longest frame it stays below `PARCEL_BYTES`."""


class Carried(NamedTuple):
    """A parcel to be carried to `peer`; after `worth_s` seconds it is of no use any more.

    `parts` follow one another, so that long data is not copied. `whole`: the number of the message that is in it from
    the first to the last byte; 0: of none.
    """

    peer: PeerId
    parts: tuple[Data, ...]
    worth_s: float
    whole: int = 0

    @property
    def data(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)


class Endpoint:
    """Sends and receives messages for one party.

    Args:
        limits: bounds.
        chance: jitter; nothing secret is drawn from it.
        wall: Unix seconds. The other times are `now` of some monotonic clock.
        spool: keeps messages over restarts, or None.

    Attributes:
        counts: what was refused or out of the ordinary, by reason.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        chance: random.Random,
        wall: Callable[[], float] = time.time,
        spool: Spool | None = None,
    ) -> None:
        self.limits = limits
        self.counts: Counter[str] = Counter()
        self._spool = spool
        self._wall = wall
        self._incarnation = int(wall() * 1000) if spool is None else spool.incarnation
        self._sequence = 0
        self._answers: dict[PeerId, dict[Ident, Have | Done | Refuse]] = {}
        self._shunned: set[PeerId] = set()
        self._held: set[PeerId] = set()
        self._sender = Sender(
            limits,
            self._incarnation,
            chance=chance,
            wall=wall,
            counts=self.counts,
            load=None if spool is None else spool.load,
            renew=None if spool is None else spool.renew,
        )
        self._receiver = Receiver(limits, wall=wall, counts=self.counts, keeper=spool)

    @property
    def incarnation(self) -> int:
        """Of this sender: grows with each start, or with a spool stays."""
        return self._incarnation

    def restore(self, now: float) -> list[Delivered]:
        """Takes up what the spool holds: messages to be sent, begun ones, and those the application has not taken."""
        if self._spool is None:
            return []
        for peer, record in self._spool.records():
            self._receiver.restore(peer, record)
        for peer, announced, chunks in self._spool.begun():
            self._receiver.resume(peer, announced, chunks, now)
        delivered = []
        for message in self._spool.complete_messages():
            self._receiver.whole(message.peer, message.ident, len(message.data), message.channel)
            delivered.append(message)
        for kept in self._spool.outgoing():
            incarnation = self._spool.incarnation_for(kept.peer)
            self._sender.submit(
                kept.peer,
                kept.sequence,
                kept.content,
                kept.expires_at,
                None,
                channel=kept.channel,
                incarnation=incarnation,
                restored=True,
            )
        return delivered

    def has_room(self, peer: PeerId, size: int, channel: int = 0) -> bool:
        """Whether a message of `size` bytes for `peer` would be taken now."""
        return self._sender.has_room(peer, size, channel)

    def next_sequence(self) -> int:
        """A number for `submit`, never given out before, not even by an earlier process with the same spool."""
        self._sequence = self._sequence + 1 if self._spool is None else self._spool.next_sequence()
        return self._sequence

    def submit(
        self, peer: PeerId, sequence: int, content: Content, expires_at: float, data: bytes, *, channel: int = 0
    ) -> None:
        """Takes a message on; where there is a spool, it is in there already (`Spool.put`), if its channel is kept.

        Raises:
            PeerError: too long, or there is no room.
        """
        incarnation = 0 if self._spool is None else self._spool.incarnation_for(peer)
        held = data if self._spool is None or channel in FLEETING else None
        self._sender.submit(peer, sequence, content, expires_at, held, channel=channel, incarnation=incarnation)

    def handle(self, peer: PeerId, parcel: Data, now: float) -> list[Delivered | Settled]:
        """A parcel from `peer` (the carrier vouches for that): what came of it. It is not needed after that."""
        if peer in self._shunned:
            self.counts["shunned"] += 1
            return []
        effects: list[Delivered | Settled] = []
        try:
            for data in unpack(parcel):
                self._handle(peer, decode(data), now, effects)
        except DecodeError:  # what came before it is good
            self.counts["malformed"] += 1
        return effects

    def poll(self, now: float) -> Carried | None:
        """The next parcel to carry: answers to one peer, and a message's frame with them; None: nothing to send now."""
        peer = next(filterfalse(self._held.__contains__, self._answers), None)
        if peer is None:
            if (outgoing := self._sender.poll(now)) is None:
                return None
            to, frame, worth_s = outgoing
            return Carried(to, parts_of((), frame), worth_s, _whole(frame))
        answers = self._answers.pop(peer)
        frames: list[bytes] = []
        size, last = 0, None
        while answers and size < _ANSWER_BYTES and len(frames) < PARCEL_FRAMES - 1:
            frames.append(encode(answers.pop(next(iter(answers)))))
            size += len(frames[-1])
        if answers:
            self._answers[peer] = answers  # behind the others: nobody's answers wait for one peer's flood
        elif (outgoing := self._sender.poll(now, peer)) is not None:
            last = outgoing[1]
        return Carried(peer, parts_of(frames, last), ANSWER_WORTH_S, 0 if last is None else _whole(last))

    def tick(self, now: float) -> list[Delivered | Settled]:
        """Lets time pass: call it by `wakeup`."""
        self._receiver.tick(now)
        return self._settled(self._sender.tick(now))

    def wakeup(self, now: float) -> float:
        """Time by which to call `tick`; at most ten seconds away."""
        return min(self._sender.wakeup(now), now + 10.0)

    def taken(self, delivered: Delivered) -> None:
        """The application is done with a message."""
        for peer, frame in self._receiver.taken(delivered.peer, delivered.ident):
            self._answer(peer, frame)

    def reached(self, peer: PeerId | None = None) -> None:
        """A peer (None: the link) is back: asks at once how far everything is."""
        self._sender.reached(peer)

    def hold(self, peer: PeerId) -> None:
        """`poll` gives nothing for `peer` until it is released: there is no way to it, or its link is full."""
        self._held.add(peer)
        self._sender.hold(peer)

    def release(self, peer: PeerId) -> None:
        """There is room for `peer` again."""
        self._held.discard(peer)
        self._sender.release(peer)

    def give_up(self, peer: PeerId, reason: str) -> list[Delivered | Settled]:
        """Settles what is out to `peer` with an error."""
        return self._settled(self._sender.give_up(peer, reason))

    def shun(self, peer: PeerId) -> list[Delivered | Settled]:
        """Takes nothing from `peer` any more, nor sends it anything: its certificate was revoked."""
        self._shunned.add(peer)
        self._answers.pop(peer, None)
        self._receiver.forget(peer)
        return self.give_up(peer, f"{peer} is shunned")

    def readmit(self, peer: PeerId) -> None:
        """Takes `peer` for a peer again: it has enrolled anew."""
        self._shunned.discard(peer)

    def is_shunned(self, peer: PeerId) -> bool:
        """Whether `shun` was called for it."""
        return peer in self._shunned

    def _handle(self, peer: PeerId, frame: Frame, now: float, effects: list[Delivered | Settled]) -> None:
        match frame:
            case Have() | Done() | Refuse():
                effects += self._settled(self._sender.handle(peer, frame, now))
            case _:
                for effect in self._receiver.handle(peer, frame, now):
                    if isinstance(effect, Delivered):
                        effects.append(effect)
                    else:
                        self._answer(peer, effect)

    def _answer(self, peer: PeerId, frame: Have | Done | Refuse) -> None:
        answers = self._answers.get(peer)
        if answers is None:
            answers = self._answers[peer] = {}
        if len(answers) >= _ANSWERS and frame.ident not in answers:
            self.counts["answers_dropped"] += 1
            return
        answers[frame.ident] = frame  # a later one says all that the earlier one said

    def _settled(self, settled: list[Settled]) -> list[Delivered | Settled]:
        if self._spool is not None:
            for message in settled:
                self._spool.drop(message.sequence)
        return list(settled)


def _whole(frame: Open | Whole | Chunk) -> int:
    return frame.ident.sequence if isinstance(frame, Whole) else 0
