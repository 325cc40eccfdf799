"""A step of gossip averaging in the process that trains: it pays, trains, and makes the input of its group's sum."""

from contextlib import nullcontext
from typing import Any

import numpy as np

from fedmesh.client.averaging import AveragingTerms, mixing_of, trainer_of
from fedmesh.client.enrolled_home import EnrolledHome
from fedmesh.client.task import Task
from fedmesh.errors import DecodeError
from fedmesh.federation.scenario import Scenario
from fedmesh.flower.envelope import Buffer, Envelope
from fedmesh.types import Examples
from fedmesh.wire import dumps

__all__ = ["averaged"]

_DEVICE = 0  # the only one in this process


def averaged(
    step: int,
    codes: bytes,
    scenario: Scenario,
    task: Task,
    *,
    app: object,
    examples: Examples,
    home: EnrolledHome,
) -> Envelope:
    """See ``average`` in `fedmesh.fleet.mesh_child`.

    Raises:
        ConfigError: the client app cannot be used for it.
        DecodeError: the model is another one than the run's.
        LedgerError: what it paid cannot be written down.
        RoundError: the training diverged.
    """
    trainer = trainer_of(app, scenario.client.name)
    if len(codes) != 8 * trainer.layout.size:
        raise DecodeError(f"a model of {len(codes)} bytes came where the run's has {8 * trainer.layout.size}")
    terms, budget = AveragingTerms.of(scenario.strategy.options), task.budget
    with nullcontext() if budget is None else home.ledger(_DEVICE, task.name, budget) as ledger:
        mixing = mixing_of(task, trainer, examples, grid=terms.grid, device=_DEVICE, ledger=ledger)
        prepared = mixing.prepare(step, np.frombuffer(codes, "<i8").astype(np.int64))
    if prepared is None:
        return Envelope(dumps({"pays": False}), ())
    return Envelope(dumps({"pays": True}), (_bytes(prepared.vector), _bytes(prepared.left_out)))


def _bytes(values: np.ndarray[Any, Any]) -> Buffer:
    return np.ascontiguousarray(values, "<i8").tobytes()
