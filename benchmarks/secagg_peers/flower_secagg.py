"""Flower's SecAgg+ on the benchmark's vectors: its own stage functions on both sides, over a grid in memory.

What is timed is Flower's code, in its favour: no serialization of messages or of the state between stages, no
quantization (its vectors hold integers already, as ours do), and the dropouts are spread evenly over its ring of
neighbours, because random ones leave a neighbourhood below the threshold and its round ends without a sum.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import Code, FitIns, FitRes, Parameters, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_multiply
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState
from numpy.typing import NDArray

from benchmarks.secagg_peers.clocks import Cost, Samples, best_of
from benchmarks.secagg_peers.setting import Setting
from fedmesh.flower.identity import SERVER_NODE_ID, acting_as

CLIP, TARGET = 128.0, 256  # int8: with these Flower's quantization keeps every integer as it is
SEED = 1
EMPTY = Parameters([], "numpy.ndarray")  # the model is sent and trained in both worlds, and is not compared


@dataclass(frozen=True, slots=True)
class Figures:
    """Costs of one client's two stages and of the server's unmasking, and bytes a parameter of the masked message."""

    share: Cost
    mask: Cost
    unmask: Cost
    bytes_per_parameter: float


@dataclass(slots=True)
class Fleet:
    """A Flower grid in memory over its client-side stage functions; `dropped` are silent from the masking stage on."""

    setting: Setting
    dropped: frozenset[int]
    states: dict[int, SecAggPlusState] = field(default_factory=dict)
    share: Samples = field(default_factory=Samples)
    mask: Samples = field(default_factory=Samples)
    away: Samples = field(default_factory=Samples)
    masked_bytes: int = 0

    def send_and_receive(self, messages: Sequence[Message], *, timeout: float | None = None) -> list[Message]:
        """Everybody's replies; the time that they take is not the server's."""
        del timeout
        with self.away.timed():
            replies = (self._reply(message) for message in messages)
            return [reply for reply in replies if reply is not None]

    def _reply(self, message: Message) -> Message | None:
        configs = message.content.config_records[RECORD_KEY_CONFIGS]
        node, stage = message.metadata.dst_node_id, cast("str", configs[Key.STAGE])
        if node in self.dropped and stage in {Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK}:
            return None
        told = ConfigRecord({key: value for key, value in configs.items() if key != Key.STAGE})
        answer = self._stage(self.states.setdefault(node, SecAggPlusState(nid=node)), stage, told)
        content = fitres_to_recorddict(FitRes(Status(Code.OK, ""), EMPTY, 1, {}), keep_input=True)
        content.config_records[RECORD_KEY_CONFIGS] = ConfigRecord(answer)
        return Message(content, reply_to=message)

    def _stage(self, state: SecAggPlusState, stage: str, told: ConfigRecord) -> dict[str, Any]:
        if stage == Stage.SETUP:
            return _setup(state, told)
        if stage == Stage.SHARE_KEYS:
            with self.share.timed():
                return _share_keys(state, told)
        if stage == Stage.UNMASK:
            return _unmask(state, told)
        parameters = as_parameters(self.setting.vector(state.nid))
        with self.mask.timed():
            masked = _collect_masked_vectors(state, told, 1, parameters)
        self.masked_bytes = masked_bytes(masked)
        return cast("dict[str, Any]", masked)


def as_parameters(vector: NDArray[np.int64]) -> Parameters:
    """The vector as Flower wants it: one float32 array."""
    return ndarrays_to_parameters([vector.astype(np.float32)])


def masked_bytes(masked: Mapping[str, object]) -> int:
    """Bytes of the masked arrays in a reply, without the record around them."""
    return sum(map(len, cast("list[bytes]", masked[Key.MASKED_PARAMETERS])))


def quantization(parameters: Parameters) -> Cost:
    """What Flower's masking stage spends on decoding and quantizing floats, which ours is not asked to do."""
    return best_of(5, lambda: quantize(parameters_multiply(parameters_to_ndarrays(parameters), 1.0), CLIP, TARGET))


def measure(setting: Setting) -> Figures:
    """One round of Flower's workflow over everybody, its mean checked."""
    nodes = list(range(1, setting.devices + 1))
    ring = list(nodes)
    random.Random(SEED).shuffle(ring)  # as the workflow is about to shuffle them
    dropped = frozenset(ring[place - 1] for place in setting.dropped())
    fleet, means = Fleet(setting, dropped), list[NDArray[np.float64]]()
    state, context, grid, unmask = WorkflowState(), _context(nodes, means), cast("Any", fleet), Samples()
    workflow = _workflow(setting)
    stages = (workflow.setup_stage, workflow.share_keys_stage, workflow.collect_masked_vectors_stage)
    with acting_as(run_id=1, node_id=SERVER_NODE_ID), _seeded():
        for stage in stages:
            if not stage(grid, context, state):
                raise SystemExit(f"Flower's {stage.__name__} gave up")
        fleet.away = Samples()
        with unmask.timed():
            workflow.unmask_stage(grid, context, state)
    survivors = [node for node in nodes if node not in dropped]
    wanted = sum(setting.vector(node) for node in survivors) / len(survivors)
    if len(means) != 1 or not np.allclose(means[0], wanted, atol=1e-3):
        raise SystemExit("Flower's sum is wrong: the comparison would mean nothing")
    return Figures(
        share=fleet.share.best,
        mask=fleet.mask.best - quantization(as_parameters(setting.vector(1))),
        unmask=unmask.total - fleet.away.total,
        bytes_per_parameter=fleet.masked_bytes / setting.length,
    )


@contextmanager
def _seeded() -> Iterator[None]:
    """Python's own generator, with which the workflow shuffles, begins at `SEED`; afterwards it is where it was."""
    before = random.getstate()
    random.seed(SEED)
    try:
        yield
    finally:
        random.setstate(before)


def _workflow(setting: Setting) -> SecAggPlusWorkflow:
    return SecAggPlusWorkflow(
        setting.neighbours + 1,
        setting.threshold,
        max_weight=1.0,
        clipping_range=CLIP,
        quantization_range=TARGET,
        modulus_range=1 << setting.ring_bits,
    )


def _context(nodes: list[int], means: list[NDArray[np.float64]]) -> Any:
    """What the workflow asks of Flower's legacy server: everybody is drawn, and the mean is kept in `means`."""

    def aggregate(_round: int, results: list[Any], _failures: object) -> tuple[None, dict[str, object]]:
        means.append(parameters_to_ndarrays(results[0][1].parameters)[0])
        return None, {}

    return SimpleNamespace(
        state=SimpleNamespace(
            config_records={MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})},
            array_records={MAIN_PARAMS_RECORD: ArrayRecord()},
        ),
        client_manager=SimpleNamespace(num_available=lambda: len(nodes)),
        strategy=SimpleNamespace(
            configure_fit=lambda *_: [(SimpleNamespace(node_id=node), FitIns(EMPTY, {})) for node in nodes],
            aggregate_fit=aggregate,
        ),
    )
