"""Gossip averaging on one machine: the members of a mesh with their own code, real secure sums, ledgers; in lockstep.

All that are there begin a step together, and no message is lost; which step a member begins, and when, is not simulated
(`fedmesh.mesh.gossip.Course`). One process trains them one after the other. The figures are those of the mean of all
members' models, which on real devices nobody has, and at the end of each member's own.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from fedmesh import plugins
from fedmesh.client.averaging import AveragingTerms, AveragingTrainer, mixing_of, rule_of, trainer_of
from fedmesh.client.home import SimulatedHomes
from fedmesh.client.identities import create_identities, device_name, open_identity
from fedmesh.client.task import Task
from fedmesh.coordinator import RoundRecord
from fedmesh.coordinator.records import SessionRecord
from fedmesh.errors import ConfigError
from fedmesh.events import EventSink, RoundFinished, RoundStarted, RunStarted
from fedmesh.federation.averaging import check_averaging
from fedmesh.federation.directory import RunDirectory
from fedmesh.federation.scenario import Scenario
from fedmesh.mesh.gossip import Codes, Member, Mixing, Run, deal
from fedmesh.types import Examples, Float32

__all__ = ["Averagers", "check_simulated"]

_WAIT_S, _STEP_S = 1.0, 10.0
_AWAY = 7  # purpose of a generator: who drops out
_TURNS = 100

Evaluate = Callable[[int, Float32], Mapping[str, float | None]]


def check_simulated(scenario: Scenario, devices: int) -> None:
    """Whether this simulation takes a scenario of gossip averaging. Raises: ConfigError: it does not."""
    check_averaging(scenario, devices)
    if scenario.partition.clients != devices:
        raise ConfigError(
            f"the data make {devices} devices and partition.clients is {scenario.partition.clients}, by which groups "
            "and noise are sized: set it to the number of devices"
        )
    failures = scenario.failures
    if failures.straggler or failures.deadline_s is not None:
        raise ConfigError(
            "in a simulation of gossip averaging members are there or not: failures.dropout is the share that is away "
            "in a step; remove failures.straggler and failures.deadline_s"
        )


class Averagers:
    """All members.

    Args:
        scenario, task, directory: of the run. options: of its strategy, with nothing left open.
        start: the public start, float32 [P]. devices: their examples, by number.
    """

    def __init__(
        self,
        scenario: Scenario,
        task: Task,
        directory: RunDirectory,
        *,
        options: Mapping[str, Any],
        start: Float32,
        devices: Sequence[Examples],
    ) -> None:
        self._scenario, self._task, self._devices = scenario, task, devices
        self._terms, names = AveragingTerms.of(options), [device_name(number) for number in range(len(devices))]
        roster = create_identities(directory.identities, len(devices))
        self._homes = SimulatedHomes(directory.ledgers, directory.identities)
        app = plugins.load(plugins.CLIENTS, scenario.client.name)(task, devices.__getitem__, homes=self._homes)
        self._trainer: AveragingTrainer = trainer_of(app, scenario.client.name)
        seed = hashlib.sha256(b"fedmesh simulated gossip" + scenario.seed.to_bytes(8, "big")).digest()
        self._run = Run(
            id=seed[:16], task=task.name, members=tuple(names), smallest=self._terms.group, grid=self._terms.grid,
            wait_s=_WAIT_S, step_s=_STEP_S,
        )  # fmt: skip
        rule, codes = rule_of(task, self._terms.grid, start.size), self._terms.start(start)
        self._members = {
            name: Member(
                self._run, name, identity=open_identity(directory.identities, name), roster=roster, rule=rule,
                codes=codes,
            )
            for name in names
        }  # fmt: skip
        self._clock = 0.0
        self._bytes = dict.fromkeys(names, 0)
        self._steps: list[dict[str, Any]] = []

    def train(self, evaluate: Evaluate, events: EventSink) -> tuple[tuple[RoundRecord, ...], Float32]:
        """All steps; a record for each, the start's first, and the mean of all models at the end, float32 [P].

        `evaluate`: (step, weights) -> figures of the mean model.
        """
        steps = self._scenario.rounds
        events(RunStarted(self._scenario.name, steps, 1, len(self._members)))
        records = [RoundRecord(0, evaluation=evaluate(0, self.mean))]
        for step in range(1, steps + 1):
            events(RoundStarted(step))
            begun = time.monotonic()
            here = self._here(step)
            self._bytes = dict.fromkeys(self._members, 0)
            for name in here:
                self._begin(name, step, here)
            self._settle(here)
            records.append(self._record(step, here, evaluate(step, self.mean), time.monotonic() - begun))
            events(_finished(records[-1]))
        return tuple(records), self.mean

    @property
    def mean(self) -> Float32:
        """Of all members' models, float32 [P]."""
        total = np.sum([member.codes for member in self._members.values()], axis=0, dtype=np.int64)
        return np.asarray(total / len(self._members) * self._terms.grid.unit, np.float32)

    def describe(self, accuracy: Callable[[Float32], float]) -> dict[str, Any]:
        """The table ``gossip`` of a result; `accuracy`: of a member's own model, float32 [P]."""
        grid = self._terms.grid
        own = [accuracy(grid.weights(member.codes)) for member in self._members.values()]
        return {
            "group": self._terms.group,
            "unit": grid.unit,
            "grid_bits": grid.bits,
            "steps": self._steps,
            "accuracy_of_members": {"mean": float(np.mean(own)), "worst": min(own), "best": max(own)},
        }

    # A step.

    def _here(self, step: int) -> list[str]:
        rng = np.random.default_rng([self._scenario.seed, _AWAY, step])
        away = rng.random(len(self._members)) < self._scenario.failures.dropout
        return [name for name, is_away in zip(self._members, away, strict=True) if not is_away]

    def _begin(self, name: str, step: int, here: Sequence[str]) -> None:
        member, device = self._members[name], list(self._members).index(name)
        with self._mixing(device) as mixing:
            prepared = mixing.prepare(step, member.codes)
        self._queue(name, member.begin(step, prepared, here, self._clock))

    @contextmanager
    def _mixing(self, device: int) -> Iterator[Mixing]:
        task, budget = self._task, self._task.budget
        with nullcontext() if budget is None else self._homes.ledger(device, task.name, budget) as ledger:
            yield mixing_of(
                task, self._trainer, self._devices[device], grid=self._terms.grid, device=device, ledger=ledger
            )

    def _queue(self, sender: str, sends: Sequence[tuple[str, bytes]]) -> None:
        queue = deque((sender, to, data) for to, data in sends)
        while queue:
            came_from, to, data = queue.popleft()
            self._bytes[came_from] += len(data)
            queue += [(to, *each) for each in self._members[to].received(came_from, data, self._clock)]

    def _settle(self, here: Sequence[str]) -> None:
        """Until the step is over for all: who waits for somebody that is away has to see the time pass."""
        for _ in range(_TURNS):
            waiting = [self._members[name] for name in here if self._members[name].is_under_way]
            if not waiting:
                return
            self._clock = max(self._clock, min(member.due for member in waiting))
            for name in here:
                self._queue(name, self._members[name].tick(self._clock))
        raise AssertionError("a step of gossip averaging has no end")

    def _record(
        self, step: int, here: Sequence[str], evaluation: Mapping[str, float | None], seconds: float
    ) -> RoundRecord:
        members = self._members
        outcomes = {name: members[name].outcome for name in here}
        mixed = [name for name in here if outcomes[name] == "mixed"]
        sessions = []
        for number, group in enumerate(deal(self._run.id, step, self._run.members, self._run.smallest)):
            count = sum(name in outcomes for name in group)
            survivors = max((len(members[name].survivors) for name in group if name in mixed), default=0)
            sessions.append(SessionRecord(number, 1, count, survivors, None if survivors else "too few are there"))
        self._steps.append({
            "step": step,
            "here": len(here),
            "mixed": len(mixed),
            "spread": _spread([member.codes for member in members.values()], self._terms.grid.unit),
        })  # fmt: skip
        failures = tuple((number, "away") for number, name in enumerate(members) if name not in outcomes)
        sent = float(np.mean([self._bytes[name] for name in here])) if here else 0.0
        return RoundRecord(
            step, len(members), len(mixed), evaluation=evaluation, bytes_up=sent, seconds=seconds, failures=failures,
            failed=None if mixed else "no group had enough members for a sum", sessions=tuple(sessions),
        )  # fmt: skip


def _spread(models: Sequence[Codes], unit: float) -> float:
    """Mean squared distance of the models from their mean, in weights squared."""
    matrix = np.stack(models) * unit
    return float(((matrix - matrix.mean(axis=0)) ** 2).sum(axis=1).mean())


def _finished(record: RoundRecord) -> RoundFinished:
    found = record.evaluation
    return RoundFinished(
        record.round, record.clients, record.survivors, found.get("accuracy_int8") or 0.0, found.get("loss") or 0.0,
        found.get("epsilon"), record.bytes_up, record.bytes_down, record.seconds, record.failed,
    )  # fmt: skip
