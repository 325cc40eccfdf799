"""``python -m fedmesh.fleet.mesh_child FD PARENT``: where a member of a mesh trains, and works when it coordinates.

The same process as `fedmesh.fleet.child`, by the same frames, with other jobs. No model and no instruction comes from
who coordinates: what a round begins with is certified, and each member works out from it what is trained, by the
strategy of the scenario. Jobs, by ``what`` in the head; ``round`` is in each:

    prepare   model, state      -> {model, scales: the hashes that a session names; affords}
    step      one message       -> one message of secure aggregation; ``step`` in the head says which
    apply     sum, int64 [n]    -> {epsilon}; the new model and state. ``weight`` in the head
    deliver   model             -> figures of the signed version; survivors, epsilon and ``last`` in the head, or
                                   ``averaged``: epsilon is then that of who was in every step so far

In a run of gossip averaging, where ``round`` is a step:

    average   model on the grid -> {pays}; the input of a sum, and the model if it is in none (`fleet.mesh_averaging`)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Message

from fedmesh import plugins
from fedmesh.client.enrolled_home import EnrolledHome
from fedmesh.client.policy import budgets_of, floor_of
from fedmesh.client.task import Task
from fedmesh.configuration import PeerConfig
from fedmesh.coordinator.instructions import Instructions
from fedmesh.coordinator.snapshot import restore, snapshot
from fedmesh.errors import DecodeError
from fedmesh.features.stored import decode
from fedmesh.federation.plan import make_strategy
from fedmesh.federation.scenario import Scenario
from fedmesh.federation.sums import sums_of
from fedmesh.fleet.child import Beyond, check_size, is_memory, main, watched, why_not
from fedmesh.fleet.mesh_averaging import averaged
from fedmesh.fleet.mesh_delivery import Delivery, deliver
from fedmesh.fleet.result import epsilon_after
from fedmesh.fleet.sources import Source
from fedmesh.flower import FleetGrid, InlineFleet
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.flower.envelope import Buffer, Envelope
from fedmesh.flower.identity import FIRST_NODE_ID
from fedmesh.flower.node import ClientCallable, Node
from fedmesh.flower.records import new_message_id
from fedmesh.flower.secure import MAX_ORDER_BYTES, QUERY, Order, answer_in, asked
from fedmesh.types import Layout
from fedmesh.wire import dumps, loads

__all__ = ["MeshBench"]

_NODE = {"partition-id": 0, "num-partitions": 1}
_KIT_BYTES = 1 << 26


@dataclass(slots=True)
class _Round:
    """A round as this member works it out: `strategy` is configured for it, `instructions` say what is trained."""

    number: int
    model: bytes
    state: bytes
    strategy: Any
    instructions: Instructions


class MeshBench:
    """One run on this member: see `fedmesh.fleet.child.Answers`.

    Args:
        run: its id. members: of its charter, how many. config: of the operator.
        scenario, task, layout: of the run. app: the client app. source: this member's examples.
        home: its keys and ledgers. features: the run's feature map, as bytes.
    """

    def __init__(
        self,
        run: int,
        members: int,
        config: PeerConfig,
        *,
        scenario: Scenario,
        task: Task,
        layout: Layout,
        app: ClientCallable,
        source: Callable[[int], Any],
        home: EnrolledHome,
        features: bytes = b"",
    ) -> None:
        self._run, self._members, self._config = run, members, config
        self._scenario, self._task, self._layout = scenario, task, layout
        self._app, self._source, self._home, self._features = app, source, home, features
        self._round: _Round | None = None

    @classmethod
    def of(cls, spec: Mapping[str, Any], task_data: bytes, features: bytes) -> "MeshBench":
        """What a spec asks for. Raises: FedMeshError: it cannot be done here."""
        config = PeerConfig.parse(spec["tables"], source="the configuration", folder=Path(spec["folder"]))
        assert config.data is not None
        task = Task.from_plain(loads(task_data, max_bytes=_KIT_BYTES)).as_deployed()
        home = EnrolledHome(
            config.identity.folder,
            config.state_folder,
            budgets=budgets_of(config),
            floor=floor_of(config, None, successors=spec["members"]),
        )
        source = Source(config.data, decode(features) if features else None)
        app: ClientCallable = plugins.load(plugins.CLIENTS, spec["client"])(task, source, homes=home)
        names, shapes = zip(*spec["layout"], strict=True)
        layout = Layout(tuple(names), tuple(map(tuple, shapes)))
        scenario = Scenario.parse(spec["scenario"], source="the run's kit")
        # What the first figure costs takes seconds: spent while all load, not in the round that it coordinates first.
        epsilon_after(task, 1)
        return cls(
            spec["run"], len(spec["members"]), config,
            scenario=scenario, task=task, layout=layout, app=app, source=source, home=home,
            features=features,
        )  # fmt: skip

    @property
    def cpu_seconds(self) -> float | None:
        """As the operator allows."""
        return self._config.limits.cpu_seconds

    def answer(self, head: Mapping[str, Any], state: bytes, envelope: Envelope) -> tuple[Envelope, bytes, str]:
        """What comes of a job, the state of the node after it, and why it was refused, if it was.

        Raises:
            FedMeshError: the job is none, or of a round that was not prepared.
            Beyond: it is more than the operator allows.
        """
        number, buffers = head["round"], [bytes(buffer) for buffer in envelope.buffers]
        match head["what"]:
            case "prepare":
                self._round = self._configured(number, *buffers)
                return self._facts(self._round), state, ""
            case "step":
                return self._step(self._of(number), Order(head["step"], **_named(head["step"], buffers)), state)
            case "apply":
                return self._applied(self._of(number), buffers[0], head["weight"]), state, ""
            case "average":
                return self._averaged(number, buffers[0]), state, ""
            case "deliver":
                return self._delivered(head, buffers[0]), state, ""
        raise DecodeError(f"there is no job {head['what']!r:.40}")

    def _of(self, number: int) -> _Round:
        if self._round is None or self._round.number != number:
            raise DecodeError(f"round {number} was not prepared")
        return self._round

    def _configured(self, number: int, model: bytes, state: bytes) -> _Round:
        check_size(self._config.limits, self._task, len(model) // 4, self._source)
        strategy = make_strategy(self._scenario, self._layout, self._task)
        restore(strategy, state)
        if len(model) != 4 * self._layout.size:
            raise DecodeError(f"a model of {len(model)} bytes came where the run's has {4 * self._layout.size}")
        arrays = vector_record("model", np.frombuffer(model, "<f4"))
        grid = FleetGrid(InlineFleet(self._app, self._members), run_id=self._run)
        messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        return _Round(number, model, state, strategy, Instructions(tuple(messages), self._layout))

    def _facts(self, prepared: _Round) -> Envelope:
        model, scales = prepared.instructions.belongs
        affords = self._home.affords(self._task)
        return Envelope(dumps({"model": model, "scales": scales, "affords": affords}), ())

    def _step(self, prepared: _Round, order: Order, state: bytes) -> tuple[Envelope, bytes, str]:
        if order.step == "train":
            message = prepared.instructions.message(FIRST_NODE_ID, order, None)
        else:
            group = str(prepared.number)
            message = Message(asked(prepared.number, order), FIRST_NODE_ID, QUERY, group_id=group)
        message.metadata.__dict__["_message_id"] = new_message_id()
        outcome: list[BaseException] = []
        node = Node(FIRST_NODE_ID, watched(self._app, outcome), _NODE, remember=0)
        node.restore(state)
        reply = node.handle(message)
        if outcome and is_memory(outcome[0]):
            raise Beyond("memory")
        if reply.has_error():
            return Envelope(b"", ()), state, (why_not(outcome[0]) if outcome else "") or "crashed"
        answer = answer_in(reply.content, max_bytes=MAX_ORDER_BYTES + 16 * self._layout.size)
        return Envelope(b"", (answer or b"",)), node.state(), ""

    def _applied(self, prepared: _Round, data: bytes, weight: int) -> Envelope:
        # As from the start: a sum may be applied twice, by two sessions of one round, and a strategy has moved on then.
        fresh = self._configured(prepared.number, prepared.model, prepared.state)
        total = np.frombuffer(data, "<i8").astype(np.int64)
        size = len(total) - sums_of(self._task).metrics.length
        arrays = fresh.strategy.apply_sum(total[:size], weight)
        weights = vector(arrays, "model", dtype="float32", max_bytes=4 * self._layout.size)
        model = np.ascontiguousarray(weights, "<f4").tobytes()
        facts = {"epsilon": epsilon_after(self._task, prepared.number)}
        return Envelope(dumps(facts), cast("tuple[Buffer, ...]", (model, snapshot(fresh.strategy))))

    def _averaged(self, step: int, codes: bytes) -> Envelope:
        check_size(self._config.limits, self._task, len(codes) // 8, self._source)
        scenario, task = self._scenario, self._task
        return averaged(step, codes, scenario, task, app=self._app, examples=self._source(0), home=self._home)

    def _delivered(self, head: Mapping[str, Any], model: bytes) -> Envelope:
        assert self._config.publish is not None
        epsilon = epsilon_after(self._task, head["round"]) if head.get("averaged") else head["epsilon"]
        verdict = deliver(
            Delivery(self._run, head["round"], head["survivors"], epsilon, model, head["last"]),
            scenario=self._scenario,
            task=self._task,
            layout=self._layout,
            features=self._features,
            repository=self._config.publish.folder,
            datasets_folder=getattr(self._config.data, "folder", None),
        )
        return Envelope(dumps(dict(verdict.as_metrics())), ())


def _named(step: str, buffers: Sequence[bytes]) -> dict[str, bytes]:
    return {"header" if step == "advertise" else "message": buffers[0]}


if __name__ == "__main__":
    main(MeshBench.of)
