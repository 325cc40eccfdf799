"""What the client apps share: Flower messages on one side, `fedmesh.client.Trainer` on the other.

A train message holds ``arrays/model`` (float32 [P], the global weights) and ``config`` with ``server-round`` and, for
the integer codec, ``delta-ranges``; the reply holds ``update/delta`` (uint8 [n], a packet) and nothing else, except
``metrics/num-examples`` where the task weights by examples. There is no evaluate handler: a device's metrics are its
data's. Devices are told apart by ``partition-id`` in the node's configuration.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmesh.client.cohort import Cohort, Member, cohort_size
from fedmesh.client.ledgers import open_ledger
from fedmesh.client.randomness import batch_order
from fedmesh.client.task import Task
from fedmesh.client.trainer import Assignment, Trained, Trainer, check_examples, encode
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.privacy import FileLedger
from fedmesh.types import Examples, Float32

__all__ = ["DataSource", "TrainingApp"]

DataSource = Callable[[int], Examples]
"""Partition id -> that device's training examples."""

_RESIDUAL = "fedmesh.residual"


class TrainingApp(ClientApp):
    """A Flower client app that trains `task`; one instance serves any number of devices, one or several at a time.

    Args:
        task: the public task.
        data: where a device's examples come from.
        ledgers: folder of the devices' privacy ledgers; needed if the task is private.

    Raises:
        ConfigError: the task is impossible, or private without a place for ledgers.
    """

    def __init__(self, task: Task, data: DataSource, *, ledgers: Path | None) -> None:
        super().__init__()
        if task.dp is not None and ledgers is None:
            raise ConfigError(f"task {task.name} trains under a privacy budget: say where its ledgers are kept")
        self.task = task
        self._data = data
        self._ledgers = ledgers
        self._trainer = Trainer.of(task)
        self._cohort = Cohort(task, self._trainer.model, self._trainer.parameters)
        self.cohort_size = cohort_size(task, self._trainer.model)
        """Devices that `train_cohort` is best given at once; 1 where training them one by one is as fast."""
        self.train()(self._train)

    def train_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[RecordDict | Exception]:
        """The replies' contents of several devices that are trained together; a device that failed has an exception.

        Raises:
            ConfigError: the task is private: a cohort is trained by plain SGD, and nobody would pay.
        """
        if self.task.dp is not None:
            raise ConfigError(f"task {self.task.name} is private: its devices train one at a time, under their ledgers")
        outcomes: list[RecordDict | Exception] = []
        prepared: list[tuple[int, Assignment, Member]] = []
        for index, (message, context) in enumerate(zip(messages, contexts, strict=True)):
            try:
                assignment, examples = self._assignment(message, context)
                order = batch_order(self.task, assignment.round, assignment.device)
                prepared.append((index, assignment, Member(assignment.weights, examples, order)))
                outcomes.append(RecordDict())
            except Exception as error:  # noqa: BLE001 - one device's failure is its own reply, not its neighbours'
                outcomes.append(error)
        deltas = self._cohort.fit([member for _, _, member in prepared]) if prepared else []
        for (index, assignment, member), delta in zip(prepared, deltas, strict=True):
            try:
                outcomes[index] = self._encoded(assignment, delta, len(member.examples), contexts[index])
            except Exception as error:  # noqa: BLE001 - as above
                outcomes[index] = error
        return outcomes

    def _train(self, message: Message, context: Context) -> Message:
        assignment, examples = self._assignment(message, context)
        with self._ledger(assignment.device) as ledger:
            trained = self._trainer.train(assignment, examples, ledger=ledger)
        return Message(self._content(trained, len(examples), context), reply_to=message)

    def _encoded(self, assignment: Assignment, delta: Float32, examples: int, context: Context) -> RecordDict:
        trained = encode(self.task, self._trainer.layout, assignment, delta)
        return self._content(trained, examples, context)

    def _ledger(self, device: int) -> AbstractContextManager[FileLedger | None]:
        if self._ledgers is None or self.task.dp is None:
            return nullcontext()
        return open_ledger(self._ledgers, device, self.task.dp)

    def _assignment(self, message: Message, context: Context) -> tuple[Assignment, Examples]:
        device = context.node_config.get("partition-id")
        if not isinstance(device, int):
            raise ConfigError(
                'the node\'s configuration has no "partition-id": start it with --node-config partition-id=0'
            )
        examples = self._data(device)
        check_examples(self.task, examples)
        number, ranges = _instructions(message, integer=self.task.codec == "integer")
        size = self._trainer.parameters.size
        weights = vector(_arrays(message, "arrays"), "model", dtype="float32", max_bytes=4 * size)
        self._trainer.parameters.check(weights)
        residual = None
        if self.task.error_feedback and _RESIDUAL in context.state.array_records:
            residual = vector(context.state.array_records[_RESIDUAL], "residual", dtype="float32", max_bytes=4 * size)
        return Assignment(number, device, weights, ranges, residual), examples

    def _content(self, trained: Trained, examples: int, context: Context) -> RecordDict:
        content = RecordDict({"update": vector_record("delta", np.frombuffer(trained.packet, np.uint8))})
        if self.task.weighting == "examples":
            content["metrics"] = MetricRecord({"num-examples": examples})
        if trained.residual is not None:
            context.state[_RESIDUAL] = vector_record("residual", trained.residual)
        return content


def _arrays(message: Message, name: str) -> ArrayRecord:
    records = message.content.array_records
    if name not in records:
        raise DecodeError(f"a train message without {name!r} came: it holds {sorted(message.content)}")
    return records[name]


def _instructions(message: Message, *, integer: bool) -> tuple[int, list[float]]:
    """Round and delta ranges of a train message."""
    config = message.content.config_records.get("config")
    number = None if config is None else config.get("server-round")
    ranges = [] if config is None else config.get("delta-ranges")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise DecodeError(f"a train message says server-round {number!r} in its config; wanted a number, 0 or above")
    if not integer:
        return number, []
    if not isinstance(ranges, list) or not all(isinstance(value, float) for value in ranges):
        raise DecodeError("a train message for the integer codec needs delta-ranges, a list of numbers, in its config")
    return number, [float(value) for value in ranges]
