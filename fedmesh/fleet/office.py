"""How a device talks: packets that it signs, and packets that it believes."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from fedmesh.errors import FedMeshError, IdentityError, PeerError
from fedmesh.events import EventSink, PacketRefused, ignore
from fedmesh.fleet.protocol import Answer, Here, Reply, Report
from fedmesh.identity import Membership
from fedmesh.identity.packets import MAX_LIFE_S, Gate, Packet, Signet

__all__ = ["Carrier", "Office"]

Buffer = bytes | memoryview
Body = Answer | Here | Reply | Report

_TELL_AGAIN_S, _MOST_TOLD = 60.0, 256
"""A flood of one kind from one peer is counted packet by packet, and told once a minute."""
_ANSWERS, _ANSWERS_WITHIN_S = 64, 60.0
"""What is answered out of hand to one coordinator: no flood is answered by another, or keeps others waiting."""

_log = logging.getLogger(__name__)


class Carrier(Protocol):
    """What of a transport (`fedmesh.transport`) the agent needs."""

    on_presence: Callable[[str, bool], None]

    async def post(self, to: str, data: bytes, *, expires_in_s: float | None = None) -> object:
        """Returns when the message is taken on. Raises: PeerError."""
        ...

    def receive(self) -> AsyncIterator[tuple[str, bytes]]:
        """What arrives, with who sent it; a message is taken when the next one is asked for."""
        ...

    def done(self) -> None:
        """The message in hand is dealt with."""
        ...


class Office:
    """Signs, posts and opens packets for one member.

    Args:
        membership: whose it is; its roster is looked at for every packet.
        coordinators: nobody else is heard.
        carrier: moves the packets.
        clock: Unix seconds; the time floor of the membership holds.
        events: told what was refused.
    """

    def __init__(
        self,
        membership: Membership,
        coordinators: Sequence[str],
        carrier: Carrier,
        *,
        clock: Callable[[], float] = time.time,
        events: EventSink = ignore,
    ) -> None:
        self._membership, self._coordinators, self._carrier = membership, frozenset(coordinators), carrier
        self._clock, self._events = clock, events
        self._signet = Signet(membership.name, membership.signing_key())
        self._gate = Gate(membership.name, self._key_of)
        self._counts: Counter[str] = Counter()
        self._told: dict[tuple[str, str], float] = {}
        self._answered: dict[str, tuple[float, int]] = {}  # coordinator -> since when, how many

    @property
    def refused(self) -> Mapping[str, int]:
        """Every packet that was not taken, by reason: for metrics, from any thread."""
        return Counter(dict(self._counts)) + Counter(dict(self._gate.counts))  # copies: they grow meanwhile

    def now(self) -> float:
        """Unix seconds."""
        return self._membership.now(self._clock())

    async def post(self, to: str, body: Body, *, expires_in_s: float, parts: Sequence[Buffer] = ()) -> bool:
        """Whether the packet was taken on; what was not is logged, and sent again when it is asked for again."""
        lives_s = min(expires_in_s, MAX_LIFE_S)
        if lives_s <= 0:
            return False
        try:
            packet = self._signet.seal(
                to, body.kind, now=self.now(), expires_in_s=lives_s, fields=body.plain(), parts=parts
            )
            async with asyncio.timeout(lives_s):
                await self._carrier.post(to, packet, expires_in_s=lives_s)
        except (PeerError, TimeoutError, ValueError) as error:
            _log.warning("a packet %r for %s was not taken on: %s", body.kind, to, error)
            return False
        return True

    def affords(self, sender: str) -> bool:
        """Whether `sender` is answered once more what takes no work: a refusal, an offer's answer, a reply it had.

        If not, that is counted, and the packet forgotten.
        """
        now = self.now()
        since, count = self._answered.get(sender, (now, 0))
        if not 0 <= now - since < _ANSWERS_WITHIN_S:
            since, count = now, 0
        if count >= _ANSWERS:
            self.refuse(sender, IdentityError(f"{sender} has had {_ANSWERS} answers in a minute", code="limit"))
            return False
        self._answered[sender] = since, count + 1
        return True

    def opened(self, sender: str, data: bytes) -> Packet | None:
        """The packet in what came; None: it is refused, which is told and forgotten."""
        try:
            return self._gate.open(data, sender=sender, now=self.now())
        except IdentityError as error:
            self._tell(sender, error.code, error)
            return None

    def _key_of(self, member: str) -> bytes | None:
        """The key under which `member` is heard: a coordinator's, on the newest roster and not revoked."""
        row = self._membership.roster.enrolled.get(member) if member in self._coordinators else None
        return None if row is None or self._membership.revocations.revoked(row.serial) else row.signing_key

    def refuse(self, sender: str, error: FedMeshError) -> None:
        """Something that `sender` asked for is passed over."""
        code = error.code if isinstance(error, IdentityError) else "malformed"
        self._counts[code] += 1
        self._tell(sender, code, error)

    def _tell(self, sender: str, code: str, error: FedMeshError) -> None:
        now = self.now()
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        if now - self._told.get((sender, code), -_TELL_AGAIN_S) >= _TELL_AGAIN_S:
            self._told[sender, code] = now
            self._events(PacketRefused(sender, code))
        _log.debug("refused, from %.80s: %s", sender, error)
