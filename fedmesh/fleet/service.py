"""A coordinator as a service: its identity, one connection, and every task in a thread of its own beside the others.

What it does at any moment can be cut off: tasks go on behind their last committed round when it is started again. It
keeps nothing of what it sends or gets: an instruction of a round that is begun anew would be worse than none (ADR 29).
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

from fedmesh.configuration.coordinator import CoordinatorConfig
from fedmesh.coordinator import RunStore, journal_url
from fedmesh.errors import ConfigError, FedMeshError, StoppedError
from fedmesh.events import Event, EventSink, Notice, OfTask, PacketRefused, ignore
from fedmesh.fleet.housekeeping import Housekeeping
from fedmesh.fleet.list_exchange import ListExchange
from fedmesh.fleet.plan import Plan
from fedmesh.fleet.roll import Roll
from fedmesh.fleet.switchboard import Switchboard
from fedmesh.fleet.task_run import Handover, Publish, TaskRun
from fedmesh.flower.logs import quiet_flower
from fedmesh.identity import Membership
from fedmesh.identity.packets import Gate, Signet
from fedmesh.transport.file_server import FileServer, routed
from fedmesh.transport.lists import ListsPublisher

if TYPE_CHECKING:
    from fedmesh.transport.courier import Courier
    from fedmesh.transport.file_server import Read

__all__ = ["CoordinatorService", "Opener"]

_TICK_S = 0.5
_FAREWELL_S = 3.0


Opener = Callable[[Membership], Awaitable["Courier"]]
"""Opens the coordinator's transport; it need not be connected yet."""


class CoordinatorService:
    """A coordinator.

    Args:
        config: its file. plans: its tasks.
        events: gets what it tells: of a task as `OfTask`. Called from several threads, one at a time.
        publish: delivers models, one at a time; None: nobody does.
        files: first part of a name -> where files of such names come from, which are served beside the lists.
        beside: what runs on the event loop as long as it is served, with its transport.
        once: end when all tasks have ended; otherwise it stays, for those who come late, and for runs that an operator
            has stopped and lets go on.
        again: begin a new run of every task, whatever was there.
        opener: of the transport; None: MQTT, by the config.

    Raises:
        ConfigError: the identity's folder is not one of an enrolled party, or two tasks have one name.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        plans: Sequence[Plan],
        *,
        events: EventSink = ignore,
        publish: Publish | None = None,
        files: "Mapping[str, Read] | None" = None,
        beside: "Sequence[Callable[[Courier], Coroutine[Any, Any, None]]]" = (),
        once: bool = False,
        again: bool = False,
        opener: Opener | None = None,
    ) -> None:
        names = [plan.name for plan in plans]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two tasks are called {twice[0]!r}: give each [[task]] a name of its own")
        self.membership = Membership(config.identity.folder)
        self.switchboard: Switchboard | None = None
        """There while it is served: its `refused` are counters."""
        self.files: FileServer | None = None
        """Likewise: its `counts`."""
        self.lists: ListsPublisher | None = None
        """Likewise."""
        self.list_exchange: ListExchange | None = None
        """Likewise: its `counts`."""
        self.results: dict[str, Mapping[str, Any]] = {}
        """Task -> content of its result.json, of those that are finished."""
        self._config, self._plans, self._once, self._again = config, plans, once, again
        self._sink, self._deliver, self._opener = events, publish, opener or self._mqtt
        self._telling, self._delivering = threading.Lock(), threading.Lock()
        self._files, self._beside = dict(files or {}), beside
        self._runs: list[TaskRun] = []
        self._stopped = asyncio.Event()
        self._housekeeping: Housekeeping | None = None

    @property
    def refused(self) -> Mapping[str, int]:
        """Every packet that was not taken, by reason: for metrics, from any thread."""
        return {} if self.switchboard is None else self.switchboard.refused

    def stop(self) -> None:
        """Ends it in good order, on the event loop's thread: rounds under way are abandoned."""
        self._stopped.set()
        for run in self._runs:
            run.stop()

    async def serve(self) -> None:
        """Until it is stopped, or with `once` until its tasks have ended.

        Raises:
            FedMeshError: what ended a task, when all have ended and none is left to go on.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(quiet_flower())
            store = stack.enter_context(await asyncio.to_thread(self._open_store))
            transport = await self._opener(self.membership)
            stack.push_async_callback(transport.aclose)
            switchboard = self._connect(transport)
            self.lists = publisher = ListsPublisher(transport, self.membership, None)
            keeper = Housekeeping(
                self.membership, self._config.issuer.address, switchboard, publisher, transport, events=self._tell
            )
            await keeper.begin()
            self._housekeeping = keeper
            self.files = FileServer(transport.channel("files"), routed({"lists": publisher.read, **self._files}))
            await stack.enter_async_context(self.files)
            await stack.enter_async_context(publisher)
            self.list_exchange = exchange = ListExchange(self.membership, transport, accepted=keeper.take_over_lists)
            works = [switchboard.serve(), self._tick(), keeper.serve(), exchange.serve()]
            works += [work(transport) for work in self._beside]
            tasks = [asyncio.ensure_future(work) for work in works]
            stack.push_async_callback(_cancelled, tasks)
            stack.enter_context(await asyncio.to_thread(_one_thread))
            failed = await self._run_all(store, switchboard, tasks)
            await switchboard.drain(_FAREWELL_S)
        if failed and not self._stopped.is_set():
            raise failed[0]

    def _connect(self, transport: "Courier") -> Switchboard:
        membership = self.membership
        signet = Signet(membership.name, membership.signing_key())
        gate = Gate(membership.name, self._key_of)
        switchboard = Switchboard(transport, signet, gate, Roll(membership.name.mesh), events=self._tell)
        transport.on_presence = switchboard.noticed
        self.switchboard = switchboard
        return switchboard

    def _open_store(self) -> RunStore:
        self._config.data.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return RunStore(journal_url(self._config.journal_url))

    async def _run_all(
        self, store: RunStore, switchboard: Switchboard, helpers: Sequence["asyncio.Future[Any]"]
    ) -> list[FedMeshError]:
        """Until all tasks have ended, and where it is to stay until it is stopped: what ended those that failed.

        Raises:
            FedMeshError: what a helper ended with; nothing goes on without it.
        """
        self._runs = [self._made(plan, store, switchboard) for plan in self._plans]
        if self._stopped.is_set():
            return []
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(len(self._runs), "task") as pool:
            ended = asyncio.gather(*(loop.run_in_executor(pool, self._run, run) for run in self._runs))
            try:
                await asyncio.wait([ended, *helpers], return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not ended.done():
                    self.stop()
            failed = [error for error in await ended if error is not None]
        if not self._once and len(failed) < len(self._runs):
            stopped = asyncio.ensure_future(self._stopped.wait())
            await asyncio.wait([stopped, *helpers], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
        for helper in helpers:
            if helper.done():
                helper.result()
        return failed

    def _made(self, plan: Plan, store: RunStore, switchboard: Switchboard) -> TaskRun:
        def tell(event: Event) -> None:
            self._tell(OfTask(plan.name, run.run_id, event))

        run = TaskRun(
            plan,
            self._config.data.folder / "runs" / plan.name,
            store=store,
            switchboard=switchboard,
            membership=self.membership,
            datasets=self._config.data.datasets,
            events=tell,
            publish=None if self._deliver is None else self._publish,
            again=self._again,
            once=self._once,
        )
        return run

    def _run(self, run: TaskRun) -> FedMeshError | None:
        """A task, in its thread; an error that is nobody's fault but ours is raised."""
        try:
            self.results[run.plan.name] = run.run()
        except StoppedError as stopped:
            if not self._stopped.is_set():
                self._tell(OfTask(run.plan.name, run.run_id, Notice(str(stopped))))
            return None
        except FedMeshError as error:
            if len(self._plans) > 1 or not self._once:
                self._tell(OfTask(run.plan.name, run.run_id, Notice(f"it has ended: {error}")))
            return error
        return None

    def _publish(self, handover: Handover) -> None:
        assert self._deliver is not None
        with self._delivering:
            self._deliver(handover)

    async def _tick(self) -> None:
        assert self.switchboard is not None
        while True:
            self.switchboard.tick()
            await asyncio.sleep(_TICK_S)

    def _tell(self, event: Event) -> None:
        with self._telling:
            self._sink(event)
        if isinstance(event, PacketRefused) and event.code == "name" and self._housekeeping is not None:
            self._housekeeping.look_now()  # somebody who enrolled a moment ago

    def _key_of(self, name: str) -> bytes | None:
        enrolled = self.membership.roster.enrolled.get(name)
        if enrolled is None or name == self.membership.name.id or self.membership.revocations.revoked(enrolled.serial):
            return None
        return enrolled.signing_key

    async def _mqtt(self, membership: Membership) -> "Courier":
        from fedmesh.transport.mqtt import MqttTransport, options_from

        broker = self._config.broker
        return await MqttTransport.open(options_from(membership, broker.host, broker.port, coordinator=True))


def _one_thread() -> AbstractContextManager[None]:
    from fedmesh.federation.start import one_thread  # torch takes seconds to import: not on the event loop's thread

    return one_thread()


async def _cancelled(tasks: Sequence["asyncio.Future[None]"]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, FedMeshError):
            await task
