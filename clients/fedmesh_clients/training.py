"""What the client apps share: Flower messages on one side, a trainer (`fedmesh.client`) on the other.

A train message holds ``arrays/model`` (float32 [P], the global weights) and ``config`` with ``server-round`` and, for
the integer codec, ``delta-ranges`` (of a private sum: its clip); the reply holds ``update/delta`` (uint8 [n], a packet)
and nothing else, except ``metrics/num-examples`` where the task weights by examples. A lite device's train message also
holds the round's backbone (`fedmesh.flower.backbone`). Where the task is under secure aggregation, a train message also
belongs to a session (`fedmesh.flower.secure`), and of the reply there is only the masked input. There is no evaluate
handler: a device's metrics are its data's. Devices are told apart by ``partition-id`` in the node's configuration.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedmesh.client.assignment import Assignment, TaskTrainer, Trained, check_examples, check_weights
from fedmesh.client.backbone import MAX_BACKBONE_BYTES
from fedmesh.client.home import Homes
from fedmesh.client.randomness import batch_order
from fedmesh.client.release import codec_of, encode
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.flower import SecureClient, Terms, Turn, discreet
from fedmesh.flower.arrays import vector, vector_record
from fedmesh.flower.backbone import BACKBONE, backbone_in
from fedmesh.flower.records import number_in, ranges_in
from fedmesh.quantization.codec import DeltaCodec
from fedmesh.types import Examples, Ledger
from fedmesh_clients.residual import keep_residual, residual_in
from fedmesh_clients.secure import HomeCredentials, partition_in, terms_of

if TYPE_CHECKING:
    from fedmesh.client.cohort import Cohort

__all__ = ["DataSource", "TrainingApp"]

DataSource = Callable[[int], Examples]
"""Partition id -> that device's training examples."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One device's train message, checked: what it is to do, on what, and its turn in the session if there is one."""

    context: Context
    assignment: Assignment
    examples: Examples
    turn: Turn | None


class TrainingApp(ClientApp):
    """A Flower client app that trains `task`; one instance serves any number of devices, one or several at a time.

    Args:
        task: the public task.
        data: where a device's examples come from.
        homes: where the keys and privacy ledgers of the devices are.
        trainer: of the task; None: the torch one, which can also train several devices at once.
        backbone: whether the trainer wants the round's backbone; another device refuses one.

    Raises:
        ConfigError: the task is impossible, what it needs is not kept in `homes`, or it names the seed of the noise and
            this is no simulation.
    """

    def __init__(
        self,
        task: Task,
        data: DataSource,
        *,
        homes: Homes,
        trainer: TaskTrainer | None = None,
        backbone: bool = False,
    ) -> None:
        super().__init__()
        homes.check(task.name, private=task.budget is not None, secure=task.secure_aggregation)
        if task.keyed_noise_seed is not None and not homes.simulated:
            raise ConfigError(
                f"task {task.name} names the seed of its noise, and whoever knows it can subtract the noise: a device "
                "takes a task as_deployed(); in a simulation its home is one of SimulatedHomes"
            )
        self.task = task
        self._data = data
        self._homes = homes
        self._max_backbone = MAX_BACKBONE_BYTES if backbone else 0
        self._cohort: Cohort | None = None
        self.cohort_size = 1
        """Devices that `train_cohort` is best given at once; 1 where training them one by one is as fast."""
        self._trainer = self._torch_trainer() if trainer is None else trainer
        self._secure = self._secure_client() if task.secure_aggregation else None
        self._guarded: Callable[[], AbstractContextManager[None]] = (
            discreet if task.secure_aggregation or task.budget else nullcontext
        )
        self.train()(self._train)
        if self._secure is not None:
            self.query("secagg")(self._steps)

    @property
    def trainer(self) -> TaskTrainer:
        """What trains: for those who want a trained model rather than a reply (gossip averaging)."""
        return self._trainer

    def train_cohort(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[RecordDict | Exception]:
        """The replies' contents of several devices that are trained together; a device that failed has an exception.

        Raises:
            ConfigError: the task is private (a cohort is trained by plain SGD, and nobody would pay), or its trainer
                takes one device at a time.
        """
        if self.task.budget is not None:
            raise ConfigError(f"task {self.task.name} is private: its devices train one at a time, under their ledgers")
        if self._cohort is None:
            raise ConfigError(f"task {self.task.name} has a trainer that takes one device at a time")
        from fedmesh.client.cohort import Member

        outcomes: list[RecordDict | Exception] = []
        jobs: dict[int, _Job] = {}
        members: list[Member] = []
        for index, (message, context) in enumerate(zip(messages, contexts, strict=True)):
            try:
                job = self._job(message, context)
                order = batch_order(self.task, job.assignment.round, job.assignment.device)
                members.append(Member(job.assignment.weights, job.examples, order))
                jobs[index] = job
                outcomes.append(RecordDict())
            except Exception as error:  # noqa: BLE001 - one device's failure is its own reply, not its neighbours'
                outcomes.append(error)
        with self._guarded():
            results = self._cohort.fit(members) if members else []
        for (index, job), fitted in zip(jobs.items(), results, strict=True):
            try:
                with self._guarded():
                    codec = codec_of(self.task, self._trainer.layout, job.assignment)
                    trained = encode(self.task, codec, job.assignment, fitted)
                outcomes[index] = self._content(job, trained)
            except Exception as error:  # noqa: BLE001 - as above
                outcomes[index] = error
        return outcomes

    def _train(self, message: Message, context: Context) -> Message:
        job = self._job(message, context)
        with self._guarded(), self._ledger(job.assignment.device) as ledger:
            trained = self._trainer.train(job.assignment, job.examples, ledger=ledger)
        return Message(self._content(job, trained), reply_to=message)

    def _steps(self, message: Message, context: Context) -> Message:
        """The steps of secure aggregation besides training."""
        assert self._secure is not None
        return Message(self._secure.answer(message, context), reply_to=message)

    def _torch_trainer(self) -> TaskTrainer:
        from fedmesh.client.cohort import Cohort, cohort_size  # torch: not on a device that trains without it
        from fedmesh.client.trainer import Trainer

        trainer = Trainer.of(self.task)
        self._cohort = Cohort(self.task, trainer.model, trainer.parameters)
        self.cohort_size = cohort_size(self.task, trainer.model)
        return trainer

    def _secure_client(self) -> SecureClient:
        return SecureClient(HomeCredentials(self._homes), self._terms())

    def _terms(self) -> Terms:
        return terms_of(self.task, self._trainer.layout, floor=self._homes.floor)

    def _ledger(self, device: int) -> AbstractContextManager[Ledger | None]:
        budget = self.task.budget
        return nullcontext() if budget is None else self._homes.ledger(device, self.task.name, budget)

    def _job(self, message: Message, context: Context) -> _Job:
        """Everything that can be refused about a train message is refused here: nothing is trained or paid for yet."""
        device = partition_in(context)
        with self._guarded():
            examples = self._data(device)
            check_examples(self.task, examples)
        content, size = message.content, self._trainer.layout.size
        number, ranges = number_in(content), ranges_in(content) if self.task.codec == "integer" else []
        if "arrays" not in content.array_records:
            raise DecodeError(f"a train message without 'arrays' came: it holds {sorted(content)}")
        weights = vector(content.array_records["arrays"], "model", dtype="float32", max_bytes=4 * size)
        check_weights(weights, size)
        residual = residual_in(context, self.task, number, size)
        if BACKBONE in content and not self._max_backbone:
            raise DecodeError("a backbone came to a device that trains the whole model: it is no lite device")
        backbone = backbone_in(content, max_bytes=self._max_backbone)
        if backbone is None and self._max_backbone:
            raise DecodeError("a train message came without a backbone: the server has to know this as a lite device")
        turn = None if self._secure is None else self._secure.open(message, context)
        return _Job(context, Assignment(number, device, weights, ranges, residual, backbone), examples, turn)

    def _content(self, job: _Job, trained: Trained) -> RecordDict:
        content = self._clear(job, trained) if job.turn is None else self._masked(job, job.turn, trained)
        keep_residual(job.context, self.task, job.assignment, trained)
        return content

    def _clear(self, job: _Job, trained: Trained) -> RecordDict:
        content = RecordDict({"update": vector_record("delta", np.frombuffer(trained.packet, np.uint8))})
        if self.task.weighting == "examples":
            content["metrics"] = MetricRecord({"num-examples": len(job.examples)})
        return content

    def _masked(self, job: _Job, turn: Turn, trained: Trained) -> RecordDict:
        terms = self._terms()
        if trained.values is not None:
            return turn.mask(trained.values, 1)
        codec = DeltaCodec(terms.layout, terms.bits, np.asarray(job.assignment.ranges, dtype=np.float32))
        codes = codec.codes(trained.packet, max_bytes=codec.packet_bytes)
        weight = terms.weight(len(job.examples)) if self.task.weighting == "examples" else 1
        return turn.mask(terms.input(codes, trained.metrics), weight)
