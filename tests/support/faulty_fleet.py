"""A whole federation in one process on which faults are laid: the real service and agents, folders, journals, ledgers.

A *moment* is (actor, step, point) in a round; a `Fault` strikes the first time that its moment comes. What is not real:
the broker is in memory, and a device's training process is a thread, with the process's own code. `kill -9` leaves the
files as they are at that moment and unwinds nothing but locks and open files, as the kernel would.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faulty_device import RigDevice
from faulty_site import COORDINATOR, OFFER, Fault, Killed, Site, Trained

from fedmesh import events
from fedmesh.configuration.coordinator import CoordinatorConfig
from fedmesh.fleet.service import CoordinatorService
from fedmesh.transport.memory import Faults, MemoryBroker

__all__ = ["COORDINATOR", "OFFER", "Fault", "Rig", "RigDevice", "Site", "Trained", "play"]


class Rig:
    """A federation in `folder`, which a site was copied to.

    Args:
        site: where it was copied from. faults: laid on it.
        deadline_s: of a stage.

    Attributes:
        told: events of the coordinator, over all its lives. began, charged: (device, round) -> how often.
        trained: what came out of trainings. struck: faults that were laid, with the time.
    """

    def __init__(self, site: Site, folder: Path, faults: tuple[Fault, ...] = (), *, deadline_s: float = 20.0) -> None:
        self.site, self.folder, self.deadline_s = site, folder, deadline_s
        self.plan = site.plan(deadline_s=deadline_s, wait_s=30.0, min_devices=len(site.names))
        self.pending, self.struck = list(faults), list[Fault]()
        self.told: list[events.Event] = []
        self.keeps: tuple[type[events.Event], ...] = (events.Event,)
        self.asked: Counter[tuple[str, str]] = Counter()
        self.began: Counter[tuple[str, int]] = Counter()
        self.charged: Counter[tuple[str, int]] = Counter()
        self.trained: list[Trained] = []
        self.stage, self.number = OFFER, 0
        self.broker = MemoryBroker(chance=random.Random(1))
        self.pool = ThreadPoolExecutor(1, "training")
        self.devices = {name: RigDevice(self, name) for name in site.names}
        self.coordinator = RigCoordinator(self)
        self._helpers: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def _loop(self) -> Iterator[None]:
        self.loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self.pool.shutdown()

    async def play(self, patience_s: float = 300.0) -> None:
        """The whole run, with all faults, until devices have forgotten it."""
        with self._loop():
            lives = [asyncio.ensure_future(device.live()) for device in self.devices.values()]
            try:
                async with asyncio.timeout(patience_s):
                    leading = asyncio.ensure_future(self.coordinator.live())
                    done, _ = await asyncio.wait([leading, *lives], return_when=asyncio.FIRST_COMPLETED)
                    for ended in done:
                        ended.result()
                    await self._forgotten()
            finally:
                for device in self.devices.values():
                    device.over()
                await asyncio.gather(*lives)
                for helper in self._helpers:
                    helper.cancel()

    async def _forgotten(self) -> None:
        end = time.monotonic() + 30  # what was told has arrived, and a busy machine takes its time to take it
        while any(device.runs() for device in self.devices.values()) and time.monotonic() < end:
            await asyncio.sleep(0.02)

    def reached(self, actor: str, point: str) -> Fault | None:
        """The fault that is due at this moment; it is due once. From any thread."""
        with self._lock:
            for fault in self.pending:
                wanted = (fault.actor, fault.step, fault.point, fault.round)
                if wanted == (actor, self.stage, point, self.number):
                    self.pending.remove(fault)
                    self.struck.append(fault)
                    return fault
        return None

    def cut(self, names: tuple[str, ...], lasts_s: float) -> None:
        """These lose the broker for a while; the others hear of it, as of a last will."""

        async def work() -> None:
            self.broker.cut.update(names)
            self._presence(names, there=False)
            await asyncio.sleep(lasts_s)
            self.broker.cut.difference_update(names)
            self._presence(names, there=True)

        self.helper(work())

    def slow(self, lasts_s: float) -> None:
        """The broker loses, repeats and delays frames for a while."""

        async def work() -> None:
            self.broker.faults = Faults(loss=0.2, duplication=0.2, delay_s=min(0.3, lasts_s))
            await asyncio.sleep(lasts_s)
            self.broker.faults = Faults()

        self.helper(work())

    def helper(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._helpers.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._helpers.discard(task)

        task.add_done_callback(ended)

    def _presence(self, names: tuple[str, ...], *, there: bool) -> None:
        parties = [self.coordinator.mail, *(device.mail for device in self.devices.values())]
        for party in parties:
            for other in parties:
                if (
                    party is not None
                    and other is not None
                    and other is not party
                    and {party.name, other.name} & {*names}
                ):
                    party.noticed(other.name, there=there)

    def events(self, kind: type) -> list[Any]:
        """What the coordinator told, of a kind."""
        bare = (event.event if isinstance(event, events.OfTask) else event for event in self.told)
        return [event for event in bare if isinstance(event, kind)]


class RigCoordinator:
    """The coordinator, over its lives."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.mail: Any = None
        self.service: CoordinatorService | None = None
        self.lives = 0
        self.result: Any = None
        self._replied: set[tuple[int, str]] = set()
        self._again = False
        self._away_s = 0.0

    async def live(self) -> None:
        """One life after another, until the run is over."""
        while self.result is None:
            self.lives, self._again = self.lives + 1, False
            rig = self.rig
            rig.stage, rig.number = OFFER, 0
            config = CoordinatorConfig.parse(
                {
                    "identity": {"folder": str(rig.folder / COORDINATOR)},
                    "broker": {"host": "localhost", "port": 1},
                    "data": {"folder": str(rig.folder / "data")},
                    "task": [{"scenario": "faults"}],
                },
                source="a test",
            )
            self.service = CoordinatorService(config, [rig.plan], events=self._told, once=True, opener=self._opener)
            try:
                await self.service.serve()
            except Killed:
                self._again = True
            if not self._again:
                self.result = self.service.results.get("faults")
                assert self.result is not None, "it ended without a result"
            await asyncio.sleep(self._away_s)

    async def _opener(self, membership: Any) -> Any:
        self.mail = self.rig.broker.join(membership.name.id, coordinator=True)
        return self.mail

    def _told(self, event: events.Event) -> None:
        """On the run's thread."""
        rig = self.rig
        inner = event.event if isinstance(event, events.OfTask) else event
        if isinstance(inner, rig.keeps):
            rig.told.append(event)
        match inner:
            case events.StepDone():
                self._strike("prepared")
            case events.StageStarted(number, stage):
                rig.stage, rig.number = stage, number
                self._strike("asking")
            case events.DeviceReplied() if (rig.number, rig.stage) not in self._replied:
                self._replied.add((rig.number, rig.stage))
                self._strike("hearing")
            case events.ModelChecked(number) if number:
                rig.stage = "commit"
                self._strike("before")
            case events.RoundFinished():
                rig.stage = "commit"
                self._strike("after")

    def _strike(self, point: str) -> None:
        rig = self.rig
        if (fault := rig.reached(COORDINATOR, point)) is not None:
            self._away_s = fault.lasts_s
            match fault.kind:
                case "kill":
                    self._there(self.mail.crash)
                    self._again = True
                    raise Killed
                case "restart":
                    assert self.service is not None
                    self._again = True
                    self._there(self.service.stop)
                case "cut":
                    self._there(lambda: rig.cut((COORDINATOR,), fault.lasts_s))
                case "slow":
                    time.sleep(fault.lasts_s)
        if (fault := rig.reached("broker", point)) is not None:
            self._there(lambda: self._strike_broker(fault))

    def _strike_broker(self, fault: Fault) -> None:
        rig, everybody = self.rig, (COORDINATOR, *self.rig.devices)
        match fault.kind:
            case "kill":  # what it retained is lost, too
                rig.broker._kept.clear()
                rig.cut(everybody, fault.lasts_s)
            case "restart":
                rig.cut(everybody, 0.01)
            case "cut":
                rig.cut(tuple(rig.devices), fault.lasts_s)
            case "slow":
                rig.slow(fault.lasts_s)

    def _there(self, call: Any) -> None:
        """On the event loop's thread, and waits for it."""
        done = threading.Event()

        def work() -> None:
            call()
            done.set()

        self.rig.loop.call_soon_threadsafe(work)
        assert done.wait(120)


def play(site: Site, folder: Path, *faults: Fault, deadline_s: float = 20.0) -> Rig:
    """A whole run under faults; what it came to."""

    async def main() -> Rig:
        rig = Rig(site, site.copied(folder), faults, deadline_s=deadline_s)
        await rig.play()
        return rig

    return asyncio.run(main())
