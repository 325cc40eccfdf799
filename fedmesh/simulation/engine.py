"""The simulation engine: a fleet whose nodes share a few worker processes.

Guaranteed: the replies to a round's messages are the same whatever the number of workers, their speed, or their deaths.
A node's state lives in the engine and travels with its messages; a device's randomness is its own
(`client.randomness`); which devices train together is decided by the messages alone. A worker that dies is replaced and
its message run again; a message that kills two workers gets an error reply. Workers are single-threaded processes: one
for a core.

Not guaranteed: an app that keeps something of one message for the next outside its Context sees other messages with
another number of workers.
"""

import json
import math
import selectors
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flwr.app import Message
from flwr.common.constant import ErrorCode

from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, PeerError
from fedmesh.flower.envelope import Envelope, fold, unfold
from fedmesh.flower.identity import FIRST_NODE_ID, partition_of
from fedmesh.flower.node import ClientCallable, error_reply
from fedmesh.machine import cores
from fedmesh.pipes import Pipe, PipeClosedError
from fedmesh.simulation.placement import Placement
from fedmesh.simulation.schedule import Bundle, Schedule
from fedmesh.simulation.shared import SharedExamples
from fedmesh.simulation.worker import serve_app
from fedmesh.simulation.zygote import Forked, Launcher, WorkerProcess, Zygote

__all__ = ["ClientSpec", "ImportedApp", "WorkerFleet"]

_DEPTH = 2  # jobs a worker holds: one that it runs, and one so that it need not wait for the next
_ATTEMPTS = 2
_FAILED_STARTS = 3
_LARGEST_COHORT = 64  # what a frame can carry descriptors for


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """A client app by its factory: entry point `client` of the group fedmesh.clients, built once in every worker.

    Attributes:
        client, task, data: what it is, what it trains and on what.
        ledgers: folder of the devices' privacy ledgers.
        identities: folder of the devices' keys; None without secure aggregation.
        lite: numbers of the devices that run the client app ``lite`` instead.
    """

    client: str
    task: Task
    data: SharedExamples
    ledgers: Path | None = None
    identities: Path | None = None
    lite: frozenset[int] = frozenset()

    def to_plain(self) -> dict[str, Any]:
        """What a worker reads."""
        folders = {"ledgers": self.ledgers, "identities": self.identities}
        plain = {name: None if folder is None else str(folder.absolute()) for name, folder in folders.items()}
        task, data = self.task.to_plain(), self.data.to_plain()
        return {"client": self.client, "task": task, "data": data, "lite": sorted(self.lite), **plain}


@dataclass(frozen=True, slots=True)
class ImportedApp:
    """Any Flower client app that a fresh process can import, as ``module:attribute``."""

    reference: str

    def to_plain(self) -> dict[str, Any]:
        """What a worker reads."""
        return {"import": self.reference}


@dataclass(slots=True, eq=False)
class _Worker:
    process: WorkerProcess
    ready: bool = False
    bundles: deque[Bundle] = field(default_factory=deque)

    def fileno(self) -> int:
        return self.process.pipe.fileno()

    @property
    def pipe(self) -> Pipe:
        return self.process.pipe


class WorkerFleet:
    """A `Fleet` of `nodes` devices on `workers` processes.

    Args:
        app: how a worker gets the client app. A client app itself works too: workers are then forks of this process, as
            it is when the fleet is made, which is only sound while it has no GPU context and no busy threads.
        nodes: number of devices; device i is partition i.
        workers: number of processes; None for one on each core.
        launcher: where workers come from, e.g. a zygote that was started earlier; the fleet closes it.

    Raises:
        ConfigError: an impossible number, or workers that cannot be started.
    """

    def __init__(
        self,
        app: ClientSpec | ImportedApp | ClientCallable,
        nodes: int,
        *,
        workers: int | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        if nodes < 1:
            raise ConfigError(f"a fleet of {nodes} devices was asked for: it needs at least one")
        if workers is not None and workers < 1:
            raise ConfigError(
                f"{workers} workers were asked for: use at least one, or leave it out for one on each core"
            )
        self._ids = range(FIRST_NODE_ID, FIRST_NODE_ID + nodes)
        self._spec: bytes | None = None
        self._data: SharedExamples | None = None
        self._launcher: Launcher
        if isinstance(app, ClientSpec | ImportedApp):
            self._data = app.data if isinstance(app, ClientSpec) else None
            self._spec = json.dumps({**app.to_plain(), "nodes": nodes}).encode()
            self._launcher = launcher or Zygote()
        else:
            self._launcher = Forked(serve_app(app, nodes))
        self._states: dict[int, bytes] = {}
        self._schedule = Schedule(self._cost_of)
        self._placement = Placement()
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._cohort_size: int | None = None
        self._failed_starts = 0
        self._replies: list[Message] = []
        self._closed = False
        try:
            for _ in range(min(workers or cores(), nodes)):
                self._launch()
        except BaseException:
            self.close()
            raise

    @property
    def node_ids(self) -> Sequence[int]:
        """Ids of all nodes, ascending."""
        return self._ids

    def submit(self, message: Message) -> None:
        """Queues the message; it is sent to a worker in the next `collect`."""
        node_id = message.metadata.dst_node_id
        if node_id not in self._ids:
            raise PeerError(f"there is no node {node_id}: this fleet has {self._ids[0]} to {self._ids[-1]}")
        if self._closed:
            raise PeerError(f"node {node_id} cannot be reached: the fleet was closed")
        self._schedule.add((node_id, fold(message)))

    def collect(self, timeout_s: float | None) -> list[Message]:
        """See `Fleet.collect`. After an exception, a KeyboardInterrupt included, the fleet can only be closed."""
        end = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._send_bundles()
            if self._replies or not self._outstanding:
                break
            left = end - time.monotonic()
            ready = self._selector.select(None if left == math.inf else max(0.0, left))
            for key, _ in ready:
                self._read(key.data)
            if not ready and time.monotonic() >= end:
                break
        replies, self._replies = self._replies, []
        return replies

    def abandon(self, message_ids: Collection[str]) -> None:
        """What is queued is run all the same: a device that is too late has trained, and kept what it lost."""

    def states(self) -> Mapping[int, bytes]:
        """States by node id, ascending; nodes without any are left out."""
        return {node_id: self._states[node_id] for node_id in sorted(self._states)}

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Forgets every node's state and takes up the given ones."""
        if strangers := sorted(set(states) - set(self._ids)):
            raise ConfigError(f"states of nodes {strangers} are to be restored; the fleet has {len(self._ids)} nodes")
        self._states = {node_id: state for node_id, state in states.items() if state}

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers."""
        return tuple(worker.process.pid for worker in self._workers)

    def close(self) -> None:
        """Ends the workers, whatever they are doing, and gives the shared memory back; idempotent."""
        if self._closed:
            return
        self._closed = True
        for worker in self._workers:
            worker.pipe.close()
        self._launcher.close()
        self._selector.close()
        self._placement.close()
        if self._data is not None:
            self._data.block.close()
        self._schedule.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _outstanding(self) -> bool:
        return bool(self._schedule) or any(worker.bundles for worker in self._workers)

    def _launch(self) -> None:
        worker = _Worker(self._launcher.launch())
        if self._spec is not None:
            fds = [self._data.block.fd] if self._data else []
            # A worker that is dead already is found so when its pipe is read.
            _send(worker.pipe, [self._spec], fds)
        self._workers.append(worker)
        self._selector.register(worker, selectors.EVENT_READ, worker)

    def _send_bundles(self) -> None:
        if self._cohort_size is None:  # no worker is ready yet
            return
        self._schedule.group(self._cohort_size)
        for depth in range(1, _DEPTH + 1):
            for worker in self._workers:
                if worker.ready and len(worker.bundles) < depth and (bundle := self._schedule.next()) is not None:
                    self._send(worker, bundle)

    def _cost_of(self, node_id: int) -> float:
        """The node's number of examples, where the engine knows it."""
        partition = partition_of(node_id)
        return self._data.counts[partition] if self._data and partition < len(self._data.counts) else 0

    def _send(self, worker: _Worker, bundle: Bundle) -> None:
        worker.bundles.append(bundle)
        jobs = [(node_id, envelope, self._states.get(node_id, b"")) for node_id, envelope in bundle.items]
        parts, fds = self._placement.place(worker, bundle, jobs)
        _send(worker.pipe, parts, fds)

    def _read(self, worker: _Worker) -> None:
        try:
            parts, _ = worker.pipe.receive()
        except PipeClosedError:
            self._replace(worker)
            return
        if worker.ready:
            self._take(worker.bundles.popleft(), parts)
            return
        if parts[0] == b"refused":
            raise ConfigError(f"the client app cannot be built in a worker: {parts[1].decode()}")
        worker.ready = True
        self._failed_starts = 0
        self._cohort_size = min(max(1, int(parts[1])), _LARGEST_COHORT)

    def _take(self, bundle: Bundle, parts: Sequence[bytes]) -> None:
        self._placement.release(bundle)
        self._schedule.done(bundle)
        start = 1
        for (node_id, _), length in zip(bundle.items, json.loads(parts[0]), strict=True):
            meta, state, *buffers = parts[start : start + length]
            start += length
            if state:
                self._states[node_id] = state
            else:
                self._states.pop(node_id, None)
            self._replies.append(unfold(Envelope(meta, tuple(buffers))))

    def _replace(self, worker: _Worker) -> None:
        """Buries a worker, runs its bundles again and starts another."""
        self._selector.unregister(worker)
        self._workers.remove(worker)
        self._placement.forget(worker)
        ending = self._launcher.ending(worker.process)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise ConfigError(f"{_FAILED_STARTS} workers ended before they were ready; the last {ending}")
        for position, bundle in enumerate(reversed(worker.bundles)):
            self._placement.release(bundle)
            is_running = position == len(worker.bundles) - 1
            bundle.deaths += is_running
            if bundle.deaths < _ATTEMPTS:
                self._schedule.again(bundle)
            else:
                self._give_up(bundle, ending)
        self._launch()

    def _give_up(self, bundle: Bundle, ending: str) -> None:
        self._schedule.done(bundle)
        for _, envelope in bundle.items:
            reason = f"the worker that ran this device {ending}, and so did the {_ATTEMPTS - 1} before it"
            self._replies.append(error_reply(unfold(envelope), ErrorCode.NODE_UNAVAILABLE, reason))


def _send(pipe: Pipe, parts: Sequence[bytes | memoryview], fds: Sequence[int]) -> None:
    """Sends a frame, or leaves it: the end of a dead worker's pipe is noticed when it is read."""
    try:
        pipe.send(parts, fds)
    except PipeClosedError:
        return
