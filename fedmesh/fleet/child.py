"""``python -m fedmesh.fleet.child FD PARENT``: the process in which a device trains for one run of a coordinator.

The agent starts and ends it. It holds whatever is heavy (torch, Flower, the data) under a memory limit and a nice
level, and is gone when the agent is, however that ended. It keeps nothing: the state of the node comes with every
message and goes back with the reply.

Frames (`fedmesh.pipes`), all heads deterministic CBOR::

    agent -> child    spec, task, feature map; then jobs: head, state of the node, envelope
    child -> agent    for each job: head, state of the node, envelope; the last two only where there is no error. Beside
                      an error of the client app, which is an envelope, the head says in a word whether it refused

Of an exception its type and the places it passed are told, to the log of this device; its text could hold data.
"""

import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Context, Message

from fedmesh import plugins
from fedmesh.client.enrolled_home import EnrolledHome
from fedmesh.client.policy import budgets_of, floor_of, most_steps
from fedmesh.client.task import Task
from fedmesh.configuration import ClientConfig
from fedmesh.configuration.device import LimitsSection
from fedmesh.errors import BudgetError, ConfigError, DataError, DecodeError, PeerError, SecAggError, TrustError
from fedmesh.features.stored import decode
from fedmesh.fleet.protocol import node_id_of
from fedmesh.fleet.sources import Source
from fedmesh.flower.envelope import Envelope, fold, unfold
from fedmesh.flower.identity import adopt
from fedmesh.flower.node import ClientCallable, Node
from fedmesh.identity import Name
from fedmesh.pipes import Pipe, PipeClosedError
from fedmesh.wire import dumps, loads

__all__ = ["Answers", "Bench", "Beyond", "check_size", "confined", "is_memory", "main", "serve", "watched", "why_not"]

_PR_SET_PDEATHSIG = 1
_HEAD_BYTES = 1 << 16
_SPEC_BYTES = 1 << 27  # task, feature map and configuration together
_NODE = {"partition-id": 0, "num-partitions": 1}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bench:
    """A run on this device: what its messages are held against, and what answers them.

    Attributes:
        run: its id; name: of this device.
        app: the client app. source: the device's examples. task: as it is deployed.
        config: of the operator.
    """

    run: int
    name: Name
    app: ClientCallable
    source: Callable[[int], Any]
    task: Task
    config: ClientConfig

    @classmethod
    def of(cls, spec: Mapping[str, Any], task_data: bytes, features: bytes) -> "Bench":
        """What a spec asks for.

        Raises:
            FedMeshError: it cannot be done here.
        """
        config = ClientConfig.parse(spec["tables"], source="the configuration", folder=Path(spec["folder"]))
        assert config.data is not None
        task = Task.from_plain(loads(task_data, max_bytes=_SPEC_BYTES)).as_deployed()
        home = EnrolledHome(
            config.identity.folder,
            config.state.folder,
            budgets=budgets_of(config),
            floor=floor_of(config, spec["coordinator"]),
        )
        source = Source(config.data, decode(features) if features else None)
        app: ClientCallable = plugins.load(plugins.CLIENTS, spec["client"])(task, source, homes=home)
        return cls(spec["run"], Name.parse(spec["name"]), app, source, task, config)

    @property
    def cpu_seconds(self) -> float | None:
        """As the operator allows."""
        return self.config.limits.cpu_seconds

    def answer(self, head: Mapping[str, Any], state: bytes, envelope: Envelope) -> tuple[Envelope, bytes, str]:
        """The reply to a message, the state of the node after it, and why the app refused it, if it did.

        Raises:
            DecodeError, PeerError: the message is not what the head says, or not for this node.
            Beyond: what it asks for is more than the operator allows.
        """
        message = unfold(envelope)
        metadata = message.metadata
        said = (metadata.run_id, metadata.message_id, metadata.message_type)
        if said != (self.run, head["message"], head["what"]):
            raise DecodeError("a message is not the one that it was announced as")
        self._check_size(message)
        outcome: list[BaseException] = []
        node = Node(node_id_of(self.name), watched(self.app, outcome), _NODE, remember=0)
        node.restore(state)
        reply = fold(node.handle(message))
        if outcome and is_memory(outcome[0]):
            raise Beyond("memory")
        return reply, node.state(), why_not(outcome[0]) if outcome else ""

    def _check_size(self, message: Message) -> None:
        if not message.metadata.message_type.startswith("train"):
            return
        records = message.content.array_records.values() if message.has_content() else ()
        parameters = sum(len(array.data) for record in records for array in record.values()) // 4
        check_size(self.config.limits, self.task, parameters, self.source)


class Beyond(Exception):  # noqa: N818 - not a fault
    """More is asked for than the operator lends."""


def check_size(limits: LimitsSection, task: Task, parameters: int, source: Callable[[int], Any]) -> None:
    """Raises: Beyond: the training is larger than the operator lends."""
    if parameters > limits.max_parameters:
        raise Beyond("parameters")
    if most_steps(task, len(source(0))) > limits.max_steps:
        raise Beyond("steps")


class Answers(Protocol):
    """What such a process builds once, and asks then: `Bench`, or that of another kind of run."""

    @property
    def cpu_seconds(self) -> float | None:
        """Processor time that one message may take."""
        ...

    def answer(self, head: Mapping[str, Any], state: bytes, envelope: Envelope) -> tuple[Envelope, bytes, str]:
        """As `Bench.answer`."""
        ...


def serve(pipe: Pipe, build: Callable[[Mapping[str, Any], bytes, bytes], Answers]) -> None:
    """Builds what the first frame says, and answers the others until the pipe closes."""
    bench: Answers | None = None
    refused = ""
    (data, task, features), _ = pipe.receive(_SPEC_BYTES)
    spec = loads(data, max_bytes=_SPEC_BYTES)
    confined(spec["memory_mb"], spec["nice"])
    adopt(spec["run"])
    try:
        bench = build(spec, task, features)
    except Exception as error:  # noqa: BLE001 - a client app is anybody's code
        refused = _refusal(error)
        _tell("this run cannot be served", error)
    while True:
        parts, _ = pipe.receive(spec["max_bytes"])
        head = loads(parts[0], max_bytes=_HEAD_BYTES)
        if bench is None:
            pipe.send([dumps({"error": refused})])
            continue
        with _processor_time(bench.cpu_seconds):
            pipe.send(_answered(bench, head, parts))


def confined(memory_mb: int | None, nice: int) -> None:
    """Lowers what this process may take; it is never raised again.

    RLIMIT_DATA: all writable memory of its own, resident or not. RLIMIT_AS also counts what torch only reserves, twice
    as much as it uses; a cgroup is not every user's to make.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold data and keys
    if memory_mb is not None:
        soft, _ = _within(resource.RLIMIT_DATA, memory_mb << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, soft))
    os.nice(nice)
    if sys.platform == "linux":  # where memory runs out, the kernel takes this process before any other
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")


def tied_to(parent: int) -> None:
    """Ends this process when the one that started it ends. Linux; elsewhere it ends when the pipe closes."""
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it ended before this was said


class _processor_time:  # noqa: N801 - reads as a verb
    """Within the block this process may take `seconds` of processor time, or is ended by SIGXCPU."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        if self._seconds is not None:
            used = resource.getrusage(resource.RUSAGE_SELF)
            self._set(int(used.ru_utime + used.ru_stime + self._seconds) + 1)

    def __exit__(self, *_: object) -> None:
        if self._seconds is not None:
            self._set(resource.RLIM_INFINITY)

    def _set(self, seconds: int) -> None:
        resource.setrlimit(resource.RLIMIT_CPU, _within(resource.RLIMIT_CPU, seconds))


def _within(which: int, wanted: int) -> tuple[int, int]:
    """The soft limit that is wanted, or the hard one there is, which stays."""
    _, hard = resource.getrlimit(which)
    is_over = hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard)
    return (hard if is_over else wanted), hard


def _answered(bench: Answers, head: Mapping[str, Any], parts: Sequence[bytes]) -> list[bytes | memoryview]:
    try:
        reply, state, refused = bench.answer(head, parts[1], Envelope(parts[2], tuple(parts[3:])))
    except Exception as error:  # noqa: BLE001 - whatever it is, the agent is told one word
        _tell(f"a message of round {head['round']} was not answered", error)
        return [dumps({"error": _refusal(error)})]
    buffers = (memoryview(buffer) for buffer in reply.buffers)
    return [dumps({"error": "", "refused": refused}), state, reply.meta, *buffers]


def _refusal(error: BaseException) -> str:
    if isinstance(error, Beyond) or is_memory(error):
        return "limits"
    for kind, word in ((DataError, "data"), (PeerError, "malformed"), (ConfigError, "policy")):
        if isinstance(error, kind):
            return word
    return "crashed"


def why_not(error: BaseException) -> str:
    """Why a client app refused, one word; empty where its error is no refusal. For this device's own metrics."""
    if isinstance(error, SecAggError):
        return error.code
    kinds = ((BudgetError, "budget"), (TrustError, "trust"), (PeerError, "malformed"), (ConfigError, "policy"))
    return next((word for kind, word in kinds if isinstance(error, kind)), "")


def is_memory(error: BaseException | None) -> bool:
    """Whether the memory limit is behind an error: torch says so in words only."""
    while error is not None:
        text = str(error)
        if isinstance(error, MemoryError) or "can't allocate memory" in text or "bad_alloc" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def watched(app: ClientCallable, outcome: list[BaseException]) -> ClientCallable:
    """`app`, which also puts into `outcome` what it raises."""

    def answer(message: Message, context: Context) -> Message:
        try:
            return app(message, context)
        except Exception as error:
            outcome.append(error)
            _tell("the client app failed", error)
            raise

    return answer


def _tell(what: str, error: BaseException) -> None:
    """To the log: an error of ours speaks of settings; of any other one its type, and where it was."""
    causes: list[str] = []
    found: BaseException | None = error
    while found is not None:
        frame = (traceback.extract_tb(found.__traceback__) or [None])[-1]
        place = f" at {Path(frame.filename).name}:{frame.lineno}" if frame else ""
        text = f": {found}" if isinstance(found, ConfigError) else ""
        causes.append(f"{type(found).__name__}{place}{text}")
        found = found.__cause__
    _log.warning("%s: %s", what, "; from ".join(causes))


def main(build: Callable[[Mapping[str, Any], bytes, bytes], Answers] = Bench.of) -> None:
    """Serves the pipe whose descriptor is the first argument, until it closes; `build` as for `serve`."""
    tied_to(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the agent ends its children
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    sys.excepthook = lambda _kind, error, _trace: _tell("the training process fails", error)
    with suppress(PipeClosedError):
        serve(Pipe.from_fd(int(sys.argv[1])), build)


if __name__ == "__main__":
    main()
