"""Nodes that average by gossip with trainings in this process: real digits, ledgers and sums, and no torch."""

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
from mesh_nodes import quick, until
from mesh_runs import RunNodes

from fedmesh.client.averaging import mixing_of
from fedmesh.client.lite import LiteTrainer
from fedmesh.client.task import Task
from fedmesh.errors import ConfigError, RoundError
from fedmesh.events import StepAveraged
from fedmesh.federation.datasets import load
from fedmesh.fleet.kit import Kit
from fedmesh.mesh.gossip import SharedMixing, shared_settings
from fedmesh.mesh.rounds import Schedule, sign_charter
from fedmesh.peer.averaging import Averager, terms_of
from fedmesh.peer.averaging_memory import Memory
from fedmesh.privacy import DpSettings, FileLedger, noise_multiplier
from fedmesh.privacy.ledger_file import read_ledger
from fedmesh.secagg import Identity, Policy
from fedmesh.types import Examples
from fedmesh.wire import dumps

__all__ = ["NAMES", "QuickAveraging", "kit_of", "private_dp", "private_sum"]

NAMES = ("anna", "bert", "cleo", "dora", "emil")
OPTIONS = {"group": 4, "grid_bits": 16, "unit": 2.0**-11}
WIDTH, CLASSES = 64, 10
SIZE = WIDTH * CLASSES


def private_dp(steps):
    return DpSettings(8.0, 1e-5, 0.5, noise_multiplier(8.0, 1e-5, 1.0, steps), 1.0, 1, 50.0)


def private_sum(steps, *, members=5):
    return shared_settings(
        members=members, smallest=4, lost=1, colluders=0, steps=steps, epsilon=8.0, delta=1e-5, clip=0.5, size=SIZE,
        learning_rate=10.0, expected_batch=50.0,
    )  # fmt: skip


def kit_of(**changes):
    task = Task(
        name="digits", model="linear_head", input_shape=(WIDTH,), classes=CLASSES, ranges={"input": (2.0**-7, 128)},
        learning_rate=10.0, secure_aggregation=True,
    )  # fmt: skip
    task = dataclasses.replace(task, **changes)
    scenario = {"name": "digits", "strategy": {"name": "gossip", "options": OPTIONS}}
    return Kit("lite", scenario, dumps(task.to_plain()), b"", LiteTrainer(task).layout)


def digits_of(number, parts=6):
    """A part of the digits, as vectors; the last one is held out."""
    data = load("digits")
    x = data.x.reshape(len(data.x), -1)[number::parts]
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return Examples(x.astype(np.float32), data.y[number::parts])


@dataclasses.dataclass(frozen=True)
class QuickPart(Averager):
    """Trains in a thread."""

    learning: "QuickLearning" = None
    ledger: FileLedger | None = None

    @property
    def publishes(self):
        return self.learning.publishes

    async def deliver(self, step, codes, *, survivors, last):
        if not self.learning.delivers:
            raise RoundError("the repository is away")
        self.learning.delivered.append((step, codes.tolist(), survivors, last))
        return {"agreement": 1.0, "max_abs_logit_difference": 0.0}

    async def prepare(self, step, codes):
        self.learning.begun.append(step)
        await self.learning.gate.wait()
        if step in self.learning.fails:
            raise RoundError("the training is made to fail")
        task = self.kit.read_task()
        mixing = mixing_of(
            task, LiteTrainer(task), self.learning.examples, grid=self.terms.grid, device=0, ledger=self.ledger
        )
        assert isinstance(mixing, SharedMixing) == (task.summed is not None)
        return await asyncio.to_thread(mixing.prepare, step, codes)

    async def aclose(self):
        pass


class QuickLearning:
    """`Learning` of a node; `gate`: closed, its trainings wait. `begun`: steps that it was to train."""

    def __init__(self, number, folder, *, floor=None, epsilon=8.0, fails=(), publishes=False, delivers=True):
        self.publishes, self.delivers, self.delivered = publishes, delivers, []
        self.examples, self.folder, self.floor, self.epsilon = digits_of(number), folder, floor or Policy(), epsilon
        self.gate, self.begun, self.fails, self.resting = asyncio.Event(), [], set(fails), ""
        self.gate.set()
        self.ledger = None

    def averaging(self, charter, *, scenario, changed):
        from fedmesh.peer.averaging import check_groups

        kit, terms = terms_of(charter, scenario)
        check_groups(charter, self.floor)
        if kit.read_task().budget is not None and self.ledger is None:
            self.ledger = FileLedger(self.folder / "ledger", epsilon=self.epsilon, delta=1e-5)
        self.changed = changed
        return QuickPart(None, kit, terms, self.floor, None, lambda: self.resting, learning=self, ledger=self.ledger)

    def certified(self, *_):
        raise AssertionError("nothing is certified")

    async def aclose(self):
        if self.ledger is not None:
            self.ledger.close()


class QuickAveraging(RunNodes):
    """Five nodes, or those named, and a run of theirs."""

    async def enter(self, name, *, learns=True, **options):
        def learning(_config, _membership, *, clock, events):
            self.learning[name] = QuickLearning(self.names.index(name), self.state(name), **options)
            return self.learning[name]

        settings = quick(runs={"settle_s": 2.0, "spare_s": 0.0})
        return await super(RunNodes, self).enter(name, settings=settings, learning=learning if learns else None)

    def start(self, *, steps=3, members=None, kit=None, schedule=None):
        signer, kit = self.names[0], kit or kit_of()
        made = np.zeros(SIZE, "<f4").tobytes()
        plain = self.charter(
            signer, members or self.names, rounds=steps, attempts=1, content=(kit.to_bytes(), made, made),
            schedule=schedule or Schedule(60.0, 5.0, 1.0),
        )  # fmt: skip
        identity = Identity(self.nodes[signer].membership.signing_key())
        self.made = sign_charter(dataclasses.replace(plain, kind="gossip"), identity)
        self.nodes[signer].runs.begin(self.made)

    def part(self, name) -> Path:
        return self.state(name) / "runs" / self.made.run.hex() / "learning"

    def saved(self, name):
        return Memory(self.part(name)).load()

    def charges(self, name):
        """The labels of what its ledger was charged."""
        return [entry.event.label for entry in read_ledger(self.state(name) / "ledger")[1].charges]

    def steps(self, name):
        """Step -> outcome and who was in the sum."""
        told = [event for event in self.events[name] if isinstance(event, StepAveraged)]
        return {event.step: (event.outcome, tuple(sorted(event.names.split(", ")))) for event in told}

    def outcomes(self, name):
        return {step: outcome for step, (outcome, _) in self.steps(name).items()}

    def accuracy(self, name):
        held, task = digits_of(len(NAMES)), kit_of().read_task()
        head = LiteTrainer(task).head
        weights = self.saved(name).codes.astype(np.float32) * np.float32(OPTIONS["unit"])
        return float((head.logits(head.inputs(held.x), weights).argmax(1) == held.y).mean())

    def stories(self):
        return {
            name: (self.run_of(name) and self.run_of(name).status, dict(node.runs.counts), self.events[name][-6:])
            for name, node in self.nodes.items()
        }

    async def ends(self, *names):
        await until(lambda: self.is_over(*names or self.names), about=self.stories)

    def refuse(self, why):
        raise ConfigError(why)
