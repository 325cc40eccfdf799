"""The life of a worker process: build the client app once, then run it for whichever device comes next.

Nothing of a device stays here: its Context travels with each job, so that any worker can run it next and a killed
worker takes nothing with it. Frames (see `pipes`), all JSON headers:

    engine -> worker    spec; then jobs: header, and parts that are too small for shared memory
    worker -> engine    ``ready`` or ``refused``; then one reply for each job, in order
"""

import importlib
import itertools
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flwr.app import Context, Message, MessageType, RecordDict

from fedmesh.client.home import SimulatedHomes
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, FedMeshError
from fedmesh.flower.envelope import Envelope, fold, unfold
from fedmesh.flower.identity import acting_as, partition_of
from fedmesh.flower.node import ClientCallable, Node
from fedmesh.pipes import Pipe
from fedmesh.plugins import CLIENTS, load
from fedmesh.simulation.shared import Block, SharedExamples
from fedmesh.simulation.tiers import LITE, TieredApp

__all__ = ["CohortApp", "Job", "Runner", "imported_app", "serve", "serve_app"]


@runtime_checkable
class CohortApp(Protocol):
    """A client app that can train several devices at once: the optional fast path of the engine."""

    cohort_size: int
    """Most devices at once; 1 means that it would not be faster."""

    def __call__(self, message: Message, context: Context) -> Message:
        """One device."""
        ...

    def train_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[RecordDict | Exception]:
        """Contents of the replies to train messages, in order; a device that failed has an exception."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One message for one device: its folded message and the state of its node."""

    node_id: int
    envelope: Envelope
    state: bytes


class Runner:
    """Runs jobs on a client app, alone or several at once.

    Args:
        app: the client app.
        nodes: number of devices in the federation, for their Contexts.
    """

    def __init__(self, app: ClientCallable, nodes: int) -> None:
        self._app = app
        self._nodes = nodes

    @property
    def cohort_size(self) -> int:
        """Most train jobs that `run` takes at once to advantage."""
        return self._app.cohort_size if isinstance(self._app, CohortApp) else 1

    def run(self, jobs: Sequence[Job]) -> list[tuple[Envelope, bytes]]:
        """Reply and new state of each job."""
        messages = [unfold(job.envelope) for job in jobs]
        nodes = [self._node(job) for job in jobs]
        if len(jobs) > 1 and all(message.metadata.message_type == MessageType.TRAIN for message in messages):
            self._train_together(nodes, messages)
        results = []
        for node, message in zip(nodes, messages, strict=True):
            with acting_as(message.metadata.run_id, node.node_id):
                reply = node.handle(message)
            results.append((fold(reply), node.state()))
        return results

    def _node(self, job: Job) -> Node:
        config = {"partition-id": partition_of(job.node_id), "num-partitions": self._nodes}
        node = Node(job.node_id, self._app, config, remember=0, explain=True)
        node.restore(job.state)
        return node

    def _train_together(self, nodes: Sequence[Node], messages: Sequence[Message]) -> None:
        """Trains all, and makes each node answer with its part of the result."""
        if not isinstance(self._app, CohortApp):
            raise ConfigError("several devices were sent to an app that trains one at a time")
        contexts = [node.context(m.metadata.run_id) for node, m in zip(nodes, messages, strict=True)]
        contents: Sequence[RecordDict | Exception]
        try:
            contents = self._app.train_cohort(messages, contexts)
        except Exception as error:  # noqa: BLE001 - as for a single device: it becomes the reply of each
            contents = [error] * len(nodes)
        for node, content in zip(nodes, contents, strict=True):
            node.client_app = _answering(content)


def _answering(content: RecordDict | Exception) -> ClientCallable:
    def answer(message: Message, _context: Context) -> Message:
        if isinstance(content, Exception):
            raise content
        return Message(content, reply_to=message)

    return answer


def serve(pipe: Pipe) -> None:
    """A worker of the zygote: reads what to build, then serves jobs until the pipe closes."""
    (header,), fds = pipe.receive()
    spec = json.loads(header)
    _serve(pipe, lambda: _build(spec, fds), spec["nodes"])


def serve_app(app: ClientCallable, nodes: int) -> Callable[[Pipe], None]:
    """What a forked worker runs: jobs on an app that exists already."""
    return lambda pipe: _serve(pipe, lambda: app, nodes)


def _serve(pipe: Pipe, build: Callable[[], ClientCallable], nodes: int) -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # the cores are shared out by processes
    try:
        runner = Runner(build(), nodes)
    except Exception as error:  # noqa: BLE001 - whatever building the app raises has to reach the operator
        if not isinstance(error, FedMeshError):
            traceback.print_exc()
        pipe.send([b"refused", f"{type(error).__name__}: {error}".encode()])
        return
    pipe.send([b"ready", str(runner.cohort_size).encode()])
    blocks: dict[int, Block] = {}
    while True:
        parts, fds = pipe.receive()
        header = json.loads(parts[0])
        for (number, size), fd in zip(header["blocks"], fds, strict=True):
            blocks[number] = Block.attach(fd, size)
            blocks[number].close()  # the mapping stays
        for number in header["dropped"]:
            blocks.pop(number, None)
        results = runner.run([_job(item, parts, blocks) for item in header["jobs"]])
        pipe.send(_reply(results))


def _job(item: Mapping[str, Any], parts: Sequence[bytes], blocks: Mapping[int, Block]) -> Job:
    def read(reference: Mapping[str, Any]) -> list[bytes]:
        lengths = reference["lengths"]
        starts = [0, *itertools.accumulate(lengths)]
        if "part" in reference:
            part = parts[reference["part"]]
            return [part[start : start + length] for start, length in zip(starts, lengths, strict=False)]
        block = blocks[reference["block"]]
        return [block.read(length, start) for start, length in zip(starts, lengths, strict=False)]

    (meta,), (state,) = read(item["meta"]), read(item["state"])
    return Job(item["node"], Envelope(meta, tuple(read(item["buffers"]))), state)


def _reply(results: Sequence[tuple[Envelope, bytes]]) -> list[bytes | memoryview]:
    """Number of parts of each result, then its metadata, state and buffers."""
    parts: list[bytes | memoryview] = [json.dumps([2 + len(envelope.buffers) for envelope, _ in results]).encode()]
    for envelope, state in results:
        parts += [envelope.meta, state, *(memoryview(buffer) for buffer in envelope.buffers)]
    return parts


def _build(spec: Mapping[str, Any], fds: Sequence[int]) -> ClientCallable:
    if "import" in spec:
        return imported_app(spec["import"])
    data = SharedExamples.attach(fds[0], spec["data"])
    folders = {name: None if spec[name] is None else Path(spec[name]) for name in ("ledgers", "identities")}

    def built(client: str) -> ClientCallable:
        build = load(CLIENTS, client)
        app: ClientCallable = build(Task.from_plain(spec["task"]), data.source(), homes=SimulatedHomes(**folders))
        return app

    return TieredApp(built(spec["client"]), built(LITE), spec["lite"]) if spec["lite"] else built(spec["client"])


def imported_app(reference: str) -> ClientCallable:
    """The client app that ``module:attribute`` names. Raises: ConfigError: there is none."""
    module, _, name = reference.partition(":")
    try:
        app = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{reference!r} names no client app ({error}): write module:attribute") from error
    if not callable(app):
        raise ConfigError(f"{reference!r} is a {type(app).__name__}, not a client app")
    found: ClientCallable = app
    return found
