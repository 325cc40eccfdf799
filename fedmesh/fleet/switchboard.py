"""The one reader and writer of what a coordinator and its devices say to each other, on the event loop's thread.

Verified packets are sorted: how a device is goes to the roll, an answer and a reply to the run that they are of. What
is forged, late, repeated or nobody's is counted and costs its sender nothing but the packet: no device can end a round,
or another's part in one. Threads of runs send by `send_soon` and look up by ``with switchboard.roll() as roll``.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from fedmesh.errors import DecodeError, IdentityError, PeerError
from fedmesh.events import DeviceAnswered, DeviceSeen, EventSink, ModelReported, PacketRefused, ignore
from fedmesh.fleet.protocol import Abandon, Answer, End, Here, Instruct, Offer, Reply, Report
from fedmesh.fleet.roll import OFFER_AGAIN_S, Roll
from fedmesh.identity.packets import Buffer, Gate, Packet, Signet

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Mail", "Party", "Receipt", "Switchboard"]

_AT_ONCE = 4
"""Packets that are sealed at a time and wait for room in the transport: what bounds the copies of a model."""
_LONG = 1 << 18
"""Packets above so many bytes are sealed outside the event loop's thread."""
_END_S = 86_400.0
_TELL_AGAIN_S, _MOST_TOLD = 60.0, 4096
"""A flood of one kind from one device is counted packet by packet, and told once a minute."""


class Receipt(Protocol):
    """For a packet that the transport has taken on."""

    async def delivered(self) -> None:
        """Returns when the device has it. Raises: DeliveryError: it never will."""
        ...


class Mail(Protocol):
    """What of a transport, or of one of its channels, is used here."""

    async def post(self, to: str, data: bytes, *, expires_in_s: float | None = None) -> Receipt:
        """Takes a message on. Raises: PeerError."""
        ...

    def receive(self) -> AsyncIterator[tuple[str, bytes]]:
        """What arrives, with who the carrier says it is from."""
        ...


class Party(Protocol):
    """A run, as the switchboard sees it; called on the event loop's thread."""

    def offer(self, name: str, here: Here) -> tuple[Offer, Sequence[Buffer]] | None:
        """What to offer to a device, with the parts of the packet; None: nothing."""
        ...

    def replied(self, sender: str, reply: Reply, parts: Sequence[Buffer]) -> str:
        """Takes a reply; returns why not, a word for `Switchboard.counts`, or nothing."""
        ...

    def look_after(self, is_gone: Callable[[str], bool]) -> None:
        """Time has passed: gives up on whom there is no use in waiting for."""
        ...

    def events(self, event: DeviceAnswered) -> None:
        """Tells a fact of this run."""
        ...


class Switchboard:
    """Of one coordinator.

    Args:
        mail: carries the packets. signet, gate: the coordinator's. roll: used by nobody else but through `roll`.
        wall: Unix seconds.
        events: gets DeviceSeen, PacketRefused and ModelReported.

    Attributes:
        counts: what was not taken, by reason, beyond what `Gate.counts` has.
    """

    def __init__(
        self,
        mail: Mail,
        signet: Signet,
        gate: Gate,
        roll: Roll,
        *,
        wall: Callable[[], float] = time.time,
        events: EventSink = ignore,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._mail, self._signet, self._gate, self._roll = mail, signet, gate, roll
        self._wall, self._events = wall, events
        self._lock = threading.Lock()
        self._parties: dict[int, Party] = {}
        self._farewells: list[Future[None]] = []
        self._told: dict[tuple[str, str], float] = {}
        self._loop = asyncio.get_running_loop()
        self._sealing = asyncio.Semaphore(_AT_ONCE)

    @property
    def refused(self) -> Mapping[str, int]:
        """Everything that was not taken, by reason: for metrics, from any thread."""
        return Counter(dict(self.counts)) + Counter(dict(self._gate.counts))  # copies: they grow meanwhile

    @contextmanager
    def roll(self) -> Iterator[Roll]:
        """The roll, for one thread at a time: briefly."""
        with self._lock:
            yield self._roll

    def taking_part(self, run: int) -> tuple[int, ...]:
        """Node ids of the devices that can be asked now."""
        with self._lock:
            return self._roll.taking_part(run, self._wall())

    def attach(self, run: int, party: Party) -> None:
        """From now on the run is offered, and gets its replies."""
        with self._lock:
            self._parties[run] = party

    def detach(self, run: int, *, over: bool) -> None:
        """The run gets nothing any more; `over`: its devices are told to forget it."""
        with self._lock:
            if self._parties.pop(run, None) is None:
                return
            names = [name for name in self._roll.names() if self._roll.standing(run, name) is not None]
            self._roll.ended(run)
        for name in names if over else ():
            self._farewells.append(self.send_soon(name, End(run), expires_in_s=_END_S, wait=True))

    async def serve(self) -> None:
        """Reads for ever, or until the transport is closed."""
        async for sender, data in self._mail.receive():
            self.take(sender, data)

    def take(self, sender: str, data: Buffer) -> None:
        """A packet came from `sender`, as the carrier says."""
        try:
            packet = self._gate.open(data, sender=sender, now=self._wall())
            with self._lock:
                self._roll.heard(sender, self._wall())
            refusal = self._sort(packet)
        except IdentityError as error:  # counted by the gate
            self._tell_refusal(sender, error.code)
            return
        except DecodeError:
            refusal = "fields"
        if refusal:
            self.counts[refusal] += 1
            self._tell_refusal(sender, refusal)

    def noticed(self, name: str, there: bool) -> None:
        """The carrier says that a device came or went."""
        with self._lock:
            self._roll.presence(name, self._wall(), there=there)

    def tick(self) -> None:
        """Makes the offers that are due, and has runs give up on devices that are gone: call it every second or so."""
        now = self._wall()
        with self._lock:
            due = [(run, party, self._roll.to_offer(run, now)) for run, party in self._parties.items()]
        for run, party, devices in due:
            for name, here in devices.items():
                if (made := party.offer(name, here)) is not None:
                    with self._lock:
                        self._roll.offered(run, name, now)
                    self.send_soon(name, made[0], made[1], expires_in_s=OFFER_AGAIN_S)
            party.look_after(lambda name: self._roll.is_gone(name, now))

    async def send(
        self,
        to: str,
        body: Offer | Instruct | Abandon | End,
        parts: Sequence[Buffer] = (),
        *,
        expires_in_s: float,
    ) -> Receipt:
        """Seals a packet and hands it to the transport. Raises: PeerError: the transport does not take it."""
        async with self._sealing:
            size = sum(memoryview(part).nbytes for part in parts)
            if size > _LONG:
                data = await asyncio.to_thread(self._sealed, to, body, parts, expires_in_s)
            else:
                data = self._sealed(to, body, parts, expires_in_s)
            return await self._mail.post(to, data, expires_in_s=expires_in_s)

    async def drain(self, timeout_s: float) -> None:
        """Returns when devices have heard of the end of runs that are over, or after `timeout_s`."""
        waiting = [asyncio.wrap_future(future) for future in self._farewells if not future.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)

    def send_soon(
        self,
        to: str,
        body: Offer | Abandon | End,
        parts: Sequence[Buffer] = (),
        *,
        expires_in_s: float,
        wait: bool = False,
    ) -> "Future[None]":
        """As `send`, from any thread; what cannot be sent is counted as ``unsent``.

        `wait`: whether what is returned is done only when the device has it.
        """

        async def sending() -> None:
            try:
                receipt = await self.send(to, body, parts, expires_in_s=expires_in_s)
                if wait:
                    await receipt.delivered()
            except PeerError:
                self.counts["unsent"] += 1

        return self.start(sending())

    def start(self, work: Coroutine[Any, Any, None]) -> "Future[None]":
        """Runs `work` on the event loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _sealed(
        self, to: str, body: Offer | Instruct | Abandon | End, parts: Sequence[Buffer], expires_in_s: float
    ) -> bytes:
        return self._signet.seal(
            to, body.kind, now=self._wall(), expires_in_s=expires_in_s, fields=body.plain(), parts=parts
        )

    def _sort(self, packet: Packet) -> str:
        """Gives a packet to whom it is for; returns why it was not taken, or nothing."""
        match packet.kind:
            case Here.kind:
                return self._here(packet, Here.read(packet.fields))
            case Answer.kind:
                return self._answer(packet, Answer.read(packet.fields))
            case Reply.kind:
                return self._reply(packet, Reply.read(packet.fields))
            case Report.kind:
                report = Report.read(packet.fields)
                self._events(ModelReported(packet.sender, report.version, report.outcome))
                return ""
        return "kind"

    def _tell_refusal(self, sender: str, code: str) -> None:
        now = self._wall()
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        if now - self._told.get((sender, code), -_TELL_AGAIN_S) >= _TELL_AGAIN_S:
            self._told[sender, code] = now
            self._events(PacketRefused(sender, code))

    def _here(self, packet: Packet, here: Here) -> str:
        with self._lock:
            before = self._roll.last(packet.sender)
            news = self._roll.here(packet.sender, here, packet.sent)
        if news and here != before:
            self._events(DeviceSeen(packet.sender, here.tier, here.available, here.why))
        return "" if news else "stale"

    def _answer(self, packet: Packet, answer: Answer) -> str:
        with self._lock:
            party = self._parties.get(answer.run)
            counts = party is not None and self._roll.answered(
                answer.run,
                packet.sender,
                accepted=answer.accepted,
                why=answer.why,
                sent=packet.sent,
                now=self._wall(),
            )
        if party is None or not counts:
            return "stale"
        party.events(DeviceAnswered(packet.sender, answer.accepted, answer.why))
        return ""

    def _reply(self, packet: Packet, reply: Reply) -> str:
        with self._lock:
            party = self._parties.get(reply.run)
            if party is not None and reply.error == "run":
                self._roll.forgotten(reply.run, packet.sender)
        return "unasked" if party is None else party.replied(packet.sender, reply, packet.parts)
