"""A device of `faulty_fleet`: the real agent, over lives that end in any way; its training process is a thread."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from faulty_site import Killed, Trained

from fedmesh import events
from fedmesh.client.eligibility import Facts
from fedmesh.client.enrolled_home import EnrolledHome
from fedmesh.client.journal import DeviceJournal
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.policy import budgets_of, floor_of
from fedmesh.client.task import Task
from fedmesh.errors import FedMeshError
from fedmesh.fleet import child
from fedmesh.fleet.agent import Agent
from fedmesh.fleet.device import JOURNAL, load
from fedmesh.fleet.readiness import Readiness
from fedmesh.fleet.training import Outcome
from fedmesh.quantization.codec import DeltaCodec
from fedmesh.transport.spool import Spool
from fedmesh.wire import loads
from fedmesh_clients.training import TrainingApp

if TYPE_CHECKING:
    from faulty_fleet import Rig

_HEAD = 1 << 20


class RigDevice:
    """One device, over its lives."""

    def __init__(self, rig: "Rig", name: str) -> None:
        self.rig, self.name = rig, name
        self.path = rig.folder / f"{name}.toml"
        self.mail: Any = None
        self.lives = 0
        self._slow_until = 0.0
        self._over = self._dead = False
        self.agent: Agent | None = None
        self.journal: DeviceJournal | None = None
        self._away_s = 0.0

    @property
    def state(self) -> Path:
        return self.rig.folder / f"state-{self.name}"

    @property
    def ledger(self) -> Path:
        return self.state / "ledgers" / f"{self.name}.ledger"

    def runs(self) -> int:
        """Runs that its journal knows."""
        journal = DeviceJournal(self.state / JOURNAL)
        try:
            return len(journal.runs())
        finally:
            journal.close()

    async def live(self) -> None:
        """One life after another, until it is over."""
        while not self._over:
            self._dead = False
            try:
                await self._life()
            except (Killed, FedMeshError):  # whoever of a dead process's tasks is heard of first
                if not self._dead:
                    raise
            await asyncio.sleep(self._away_s)

    async def _life(self) -> None:
        device, self.lives = load(self.path), self.lives + 1
        device.config.state.folder.mkdir(mode=0o700, exist_ok=True)
        self.journal = DeviceJournal(self.state / JOURNAL)
        self.mail = self.rig.broker.join(
            self.name, spool=Spool(self.state / "spool", incarnation=time.time_ns() // 1_000_000)
        )
        ready = Readiness(device.config.eligibility, facts=lambda *_: Facts(datetime.now(UTC)))
        self.agent = Agent(
            device,
            _Gated(self),
            self.journal,
            readiness=ready,
            training=lambda spec, parts, **_: _Thread(self, spec, parts),  # type: ignore[arg-type,return-value]
            chance=random.Random(self.name),
            events=self._told,
        )
        try:
            await self.agent.run()
        finally:
            if not self.mail.is_closed:
                await self.mail.aclose()
            self.journal.close()

    def over(self) -> None:
        self._over = True
        if self.agent is not None:
            self.agent.stop()

    def _told(self, event: events.Event) -> None:
        match event:
            case events.OfferAnswered():
                self.strike("answering")
            case events.ReplyKept():
                self.strike("kept")
            case events.ReplyPosted():
                self.strike("posted")

    def strike(self, point: str) -> None:
        """The fault of this moment, if there is one, on the event loop's thread. Raises: Killed."""
        if (fault := self.rig.reached(self.name, point)) is not None:
            self._away_s = fault.lasts_s
            match fault.kind:
                case "kill":
                    self.die()
                    raise Killed
                case "restart":
                    assert self.agent is not None
                    self.agent.stop()
                case "cut":
                    self.rig.cut((self.name,), fault.lasts_s)
                case "slow":
                    self._slow_until = time.monotonic() + fault.lasts_s

    def strike_in_thread(self, point: str) -> None:
        """As `strike`, in the process that trains."""
        outcome: list[BaseException] = []
        done = threading.Event()

        def there() -> None:
            try:
                self.strike(point)
            except Killed as error:
                outcome.append(error)
            finally:
                done.set()

        self.rig.loop.call_soon_threadsafe(there)
        done.wait(120)
        if outcome:
            raise Killed
        time.sleep(max(0.0, self._slow_until - time.monotonic()) if point != "asked" else 0.0)

    def die(self) -> None:
        """Files stay as they are, nobody is told."""
        self._dead = True
        self.mail.crash()
        if self.journal is not None:
            self.journal.close()

    async def gate(self) -> None:
        """Returns when it is not slow any more."""
        await asyncio.sleep(max(0.0, self._slow_until - time.monotonic()))


class _Gated:
    """The device's transport, at which it is slow, and struck when something has come."""

    def __init__(self, device: RigDevice) -> None:
        self._device, self._mail = device, device.mail

    @property
    def on_presence(self) -> Any:
        return self._mail.on_presence

    @on_presence.setter
    def on_presence(self, call: Any) -> None:
        self._mail.on_presence = call

    async def post(self, to: str, data: bytes, *, expires_in_s: float | None = None) -> object:
        await self._device.gate()
        return await self._mail.post(to, data, expires_in_s=expires_in_s)

    async def receive(self) -> AsyncIterator[tuple[str, bytes]]:
        async for item in self._mail.receive():
            self._device.strike("arrived")
            await self._device.gate()
            yield item

    def done(self) -> None:
        self._mail.done()


class _Thread:
    """Where `fedmesh.fleet.training.Training` stands: the code of the training process, in a thread of ours."""

    pid = None

    def __init__(self, device: RigDevice, spec: Any, parts: Any) -> None:
        self._device, self._spec, self._parts = device, spec, parts
        self._bench: child.Bench | None = None

    async def ask(self, head: Any, state: bytes, envelope: Any, *, timeout_s: float) -> Outcome:
        loop = asyncio.get_running_loop()
        data = [bytes(part) for part in envelope]
        # Not ended by a deadline: a thread cannot be. The coordinator's deadline holds.
        parts = await loop.run_in_executor(self._device.rig.pool, self._answer, dict(head), state, data)
        told = loads(parts[0], max_bytes=_HEAD)
        return Outcome(told["error"]) if told["error"] else Outcome("", tuple(parts[2:]), bytes(parts[1]))

    def warm_up(self) -> None:
        """A thread is there."""

    def close(self) -> None:
        self._bench = None  # a training process that was ended begins anew

    def _answer(self, head: dict[str, Any], state: bytes, data: list[bytes]) -> list[Any]:
        self._device.strike_in_thread("asked")
        if self._bench is None:
            self._bench = self._made()
        if head["what"] == "train":
            self._device.rig.asked[self._device.name, head["message"]] += 1
        parts = child._answered(self._bench, head, [b"", state, *data])
        self._device.strike_in_thread("ran")
        return parts

    def _made(self) -> child.Bench:
        bench = child.Bench.of(self._spec, *self._parts)
        config = bench.config
        home = EnrolledHome(
            config.identity.folder,
            config.state.folder,
            budgets=budgets_of(config),
            floor=floor_of(config, self._spec["coordinator"]),
        )
        trainer = _Trainer(bench.task, self._device)
        app = TrainingApp(bench.task, bench.source, homes=_Homes(home, trainer), trainer=trainer)  # type: ignore[arg-type]
        return replace(bench, app=app)


class _Homes:
    def __init__(self, home: EnrolledHome, trainer: "_Trainer") -> None:
        self._home, self._trainer = home, trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._home, name)

    @contextmanager
    def ledger(self, *arguments: Any) -> Iterator["_Ledger"]:
        with self._home.ledger(*arguments) as ledger:
            yield _Ledger(ledger, self._trainer)


class _Ledger:
    def __init__(self, ledger: Any, trainer: "_Trainer") -> None:
        self._ledger, self._trainer = ledger, trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def charge(self, *arguments: Any, **options: Any) -> None:
        self._trainer.device.strike_in_thread("charging")
        self._ledger.charge(*arguments, **options)
        rig, device = self._trainer.device.rig, self._trainer.device
        rig.charged[device.name, self._trainer.round] += 1
        device.strike_in_thread("charged")


class _Trainer(LiteTrainer):
    def __init__(self, task: Task, device: RigDevice) -> None:
        super().__init__(task)
        self.device, self.round = device, 0

    def train(self, assignment: Any, *arguments: Any, **options: Any) -> Any:
        self.round = assignment.round
        rig = self.device.rig
        rig.began[self.device.name, assignment.round] += 1
        trained = super().train(assignment, *arguments, **options)
        codec = DeltaCodec(self.layout, self.task.bits, np.asarray(assignment.ranges, np.float32))
        delta = self.layout.flatten(codec.decode(trained.packet, max_bytes=codec.packet_bytes))
        rig.trained.append(Trained(self.device.name, assignment.round, assignment.weights.copy(), delta))
        self.device.strike_in_thread("trained")
        return trained
