"""The device's agent: tells that it is there, answers offers, has messages run, and keeps its membership fresh.

It loads neither torch nor Flower: what trains is a process of its own (`fedmesh.fleet.child`), there while needed.
Whatever ends the agent, a later one with the same state folder goes on (`fedmesh.fleet.work`).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fedmesh
from fedmesh.client.journal import DeviceJournal, KeptRun, Waiting
from fedmesh.client.policy import budgets_of, client_apps, refusal
from fedmesh.configuration import ClientConfig
from fedmesh.errors import ConfigError, FedMeshError, PeerError, TrustError
from fedmesh.events import AvailabilityChanged, EventSink, InstructionRefused, OfferAnswered, ignore
from fedmesh.fleet.office import Carrier, Office
from fedmesh.fleet.protocol import HERE_EVERY_S, Abandon, Answer, End, Here, Instruct, Offer, Reply, Report
from fedmesh.fleet.readiness import Readiness
from fedmesh.fleet.training import IDLE_S, Training
from fedmesh.fleet.work import Shared, Work
from fedmesh.identity import Membership
from fedmesh.identity.packets import Packet
from fedmesh.wire import dumps, loads

if TYPE_CHECKING:
    from fedmesh.client.task import Task

__all__ = ["Agent", "Beside", "Device"]

Beside = Callable[["Agent"], Coroutine[Any, Any, None]]
"""Something that runs as long as the agent does, and never returns by itself."""

_TASK_BYTES = 1 << 20
_LOOK_S = 15.0
"""So often the rules are looked at."""
STOP_S = 10.0
"""A message that is under way when the agent is asked to stop has so long to be answered."""
_REFUSED_S = 600.0
"""So long a refusal is carried: with `Office.affords` there is always room for one, and nobody else waits for it."""
STALE_S = 86_400.0
"""A run of which nothing came for so long gives way to a new one: its end is told for a day, and may be missed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Device:
    """What this device is.

    Attributes:
        config: of the operator; tables, folder: what it was read from, for the process that trains.
        membership: who it is.
    """

    config: ClientConfig
    tables: dict[str, Any]
    folder: Path
    membership: Membership


class Agent:
    """A device over a transport.

    Args:
        device: what it is.
        carrier: an open transport, which the caller closes.
        journal: of the state folder, which the caller closes.
        readiness: whether it works now; None: by the configuration's rules.
        office: None: one over `carrier`.
        beside: what runs as long as the agent does: renewals, delivery, metrics.
        training: makes what a run's messages are answered in: a process of its own.
        idle_s: after so long without a message a run's process is ended.
        chance: jitter. events: told what happens.

    Attributes:
        carrier: what it was given.
        model: version of the model that runs here; 0 for none. Set by who installs one; `changed` tells it.
    """

    def __init__(
        self,
        device: Device,
        carrier: Carrier,
        journal: DeviceJournal,
        *,
        readiness: Readiness | None = None,
        office: Office | None = None,
        beside: Sequence[Beside] = (),
        training: Callable[..., Training] = Training,
        idle_s: float = IDLE_S,
        chance: random.Random | None = None,
        events: EventSink = ignore,
    ) -> None:
        config = device.config
        self.device, self.carrier, self._journal, self._beside = device, carrier, journal, beside
        self.office = office or Office(device.membership, config.coordinators, carrier, events=events)
        self._readiness = readiness or Readiness(config.eligibility)
        self._events, self._chance = events, chance or random.Random()  # noqa: S311 - jitter
        self._training, self._idle_s = training, idle_s
        self._shared = Shared(journal, self.office, self._readiness, events, asyncio.Lock())
        self._works: dict[int, tuple[Work, asyncio.Task[None]]] = {}
        self._news, self._stop = asyncio.Event(), asyncio.Event()
        self._once = False
        self._failure: BaseException | None = None
        self.model = 0

    async def run(self, *, once: bool = False) -> None:
        """Until `stop`; with `once`, until the first run that it takes part in is over.

        Raises:
            ConfigError: the journal or the identity cannot be used.
        """
        self._once = once
        self._journal.recover()
        self._journal.expire(self.office.now())
        for kept in self._journal.runs():
            self._begin(kept)
        self.carrier.on_presence = self._noticed
        loops = [self._receive(), self._tell(), self._resend(), *(job(self) for job in self._beside)]
        tasks = [asyncio.ensure_future(loop) for loop in loops]
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
            await self._finish()
        for task in done - {stopping}:
            await task  # a loop that failed ends the agent

    def stop(self) -> None:
        """Ends `run`: the message that is under way has a while to be answered, nothing is lost."""
        self._stop.set()

    def changed(self) -> None:
        """Something that a coordinator should know has changed: it is told soon."""
        self._news.set()

    async def report(self, coordinator: str, version: int, outcome: str) -> bool:
        """Tells what became of a delivered model; one of `protocol.OUTCOMES`. Whether it was taken on."""
        return await self.office.post(coordinator, Report(version, outcome), expires_in_s=3_600.0)

    # What arrives.

    async def _receive(self) -> None:
        async for sender, data in self.carrier.receive():
            packet = self.office.opened(sender, data)
            if packet is not None:
                try:
                    await self._take(packet)
                except PeerError as error:
                    self.office.refuse(sender, error)
            self.carrier.done()  # it is in the journal, or nothing is to be remembered

    async def _take(self, packet: Packet) -> None:
        match packet.kind:
            case Offer.kind:
                await self._offered(Offer.read(packet.fields), packet)
            case Instruct.kind:
                await self._instructed(Instruct.read(packet.fields), packet)
            case Abandon.kind:
                abandoned = Abandon.read(packet.fields)
                if work := self._work(abandoned.run, packet.sender):
                    work.abandon(abandoned.messages)
            case End.kind:
                await self._over(End.read(packet.fields).run, packet.sender)
            case _:
                raise PeerError(f"a packet {packet.kind!r:.40} came from {packet.sender}: a device takes no such thing")

    async def _offered(self, offer: Offer, packet: Packet) -> None:
        if not self.office.affords(packet.sender):
            return
        task_data, features = (bytes(part) for part in packet.parts) if len(packet.parts) == 2 else (b"", b"")
        kept = KeptRun(offer.run, packet.sender, dumps(offer.plain()), task_data, features)
        why = await self._refusal(offer, kept)
        if not why and not await self._keep(kept):
            why = "busy"
        if not why:
            if work := self._work(offer.run, packet.sender):  # its coordinator has started anew: see the protocol
                work.abandon(self._journal.outstanding(offer.run))
                if work.kept != kept:
                    await self._close(offer.run)
            self._begin(kept)
            if not any(work.has_process for work, _ in self._works.values()):  # one: it is as large as torch
                self._works[kept.run][0].warm_up()
        self._events(OfferAnswered(offer.run, offer.name, why))
        await self.office.post(packet.sender, Answer(offer.run, not why, why), expires_in_s=HERE_EVERY_S)

    async def _keep(self, kept: KeptRun) -> bool:
        """Remembers a run, if there is room; one whose end was missed long ago gives way."""
        try:
            self._journal.keep(kept)
        except PeerError as error:
            stale = [run for run in self._journal.stale(self.office.now() - STALE_S) if run != kept.run]
            if not stale:
                _log.warning("%s", error)
                return False
            if stale[0] in self._works:
                await self._close(stale[0])
            self._journal.forget(stale[0])
            return await self._keep(kept)
        return True

    async def _refusal(self, offer: Offer, kept: KeptRun) -> str:
        from fedmesh.client.task import Task

        config = self.device.config
        try:
            task = Task.from_plain(loads(kept.task, max_bytes=_TASK_BYTES)).as_deployed()
        except (FedMeshError, TypeError, ValueError) as error:
            self.office.refuse(kept.coordinator, PeerError(f"run {offer.run} was offered without a task: {error}"))
            return "policy"
        if len(kept.features) > config.limits.message_mb << 20:
            return "limits"
        return refusal(config, offer.client, task) or await self._budget(task)

    async def _budget(self, task: "Task") -> str:
        if task.budget is None:
            return ""
        from fedmesh.client.enrolled_home import EnrolledHome

        config = self.device.config
        home = EnrolledHome(config.identity.folder, config.state.folder, budgets=budgets_of(config))
        try:
            return "" if await asyncio.to_thread(home.affords, task) else "budget"
        except (TrustError, ConfigError) as error:
            _log.error("the privacy ledger cannot be used: %s", error)
            return "budget"

    async def _instructed(self, body: Instruct, packet: Packet) -> None:
        work = self._work(body.run, packet.sender)
        parts, most = tuple(map(bytes, packet.parts)), self.device.config.limits.message_mb << 20
        why = "run" if work is None else "malformed" if not parts else ""
        why = why or ("limits" if sum(map(len, parts)) > most else "")
        if work is None or why:
            if self.office.affords(packet.sender):
                self._events(InstructionRefused(body.run, why))
                left_s = min(packet.expires - self.office.now(), _REFUSED_S)
                await self.office.post(packet.sender, Reply(body.run, body.message, why), expires_in_s=left_s)
            return
        item = Waiting(body.run, body.message, body.what, body.round, packet.expires, parts)
        if self._journal.receive(item):
            work.wake()
        elif self._journal.answered(body.run, body.message) and self.office.affords(packet.sender):
            work.post_again(body.message)

    async def _over(self, run: int, sender: str) -> None:
        if self._work(run, sender) is None:
            return
        await self._close(run)
        self._journal.forget(run)
        if self._once:
            self.stop()

    # Runs.

    def _work(self, run: int, coordinator: str) -> Work | None:
        """The work for a run, if it is that coordinator's."""
        found = self._works.get(run)
        return found[0] if found is not None and found[0].kept.coordinator == coordinator else None

    def _begin(self, kept: KeptRun) -> None:
        if kept.run in self._works:
            return
        config, offer = self.device.config, loads(kept.offer, max_bytes=1 << 16)
        spec = {
            "run": kept.run,
            "name": self.device.membership.name.uri,
            "coordinator": kept.coordinator,
            "client": offer["client"],
            "tables": self.device.tables,
            "folder": str(self.device.folder),
            "memory_mb": config.limits.memory_mb,
            "nice": config.limits.nice,
        }
        parts, max_bytes = (kept.task, kept.features), config.limits.message_mb << 20
        training = self._training(spec, parts, max_bytes=max_bytes, idle_s=self._idle_s)
        work = Work(kept, training, self._shared)
        task = asyncio.create_task(work.run())
        task.add_done_callback(self._ended)
        self._works[kept.run] = (work, task)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the device cannot go on: %s", error)
            self._failure = error
            self.stop()

    async def _close(self, run: int) -> None:
        """Ends the work for a run at once."""
        _, task = self._works[run]
        task.cancel()
        await asyncio.wait([task])
        del self._works[run]

    async def _finish(self) -> None:
        """Ends all work; what is under way has a while."""
        tasks = [task for _, task in self._works.values()]
        for work, _ in self._works.values():
            work.stop()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_S)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)
        self._works.clear()
        if self._failure is not None:
            raise self._failure

    # What it says by itself.

    def _noticed(self, peer: str, there: bool) -> None:
        if there and peer in self.device.config.coordinators:
            self.changed()

    async def _tell(self) -> None:
        """Here, now and then; at once when something has changed."""
        loop = asyncio.get_running_loop()
        due, said = 0.0, None
        look_s = _LOOK_S if self.device.config.eligibility.hook is None else HERE_EVERY_S  # a hook is a process
        while True:
            self._news.clear()
            why = await self._readiness.why_not()
            body = self._here(why)
            if body != said or loop.time() >= due:
                if said is None or said.why != why:
                    self._events(AvailabilityChanged(why))
                for coordinator in self.device.config.coordinators:
                    await self.office.post(coordinator, body, expires_in_s=2 * HERE_EVERY_S)
                due, said = loop.time() + HERE_EVERY_S * self._chance.uniform(0.5, 0.9), body
            try:
                async with asyncio.timeout(min(look_s, max(0.1, due - loop.time()))):
                    await self._news.wait()
                said = None  # whoever came asks for it
            except TimeoutError:
                continue

    def _here(self, why: str) -> Here:
        config = self.device.config
        trains = config.tier != "inference"
        return Here(config.tier, client_apps(config), trains and not why, why, self.model, fedmesh.__version__)

    async def _resend(self) -> None:
        """Replies that are kept and perhaps not posted, those of an earlier process first; drops what has expired."""
        while True:
            for answered in self._journal.unposted():
                if work := self._works.get(answered.run):
                    await work[0].post(answered)
            await asyncio.sleep(60.0)
            self._journal.expire(self.office.now())
