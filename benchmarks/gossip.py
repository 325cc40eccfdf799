"""Gossip averaging against FedAvg: real digits, every local step really trained, group sums added in the clear.

``python -m benchmarks.gossip [--members 24] [--smallest 8] [--steps 20] [--seeds 3] [--json]``: a quantization-aware
softmax head on scikit-learn's digits, dealt unevenly to the members. By step: accuracy on held-out digits of the mean
member and of the worst, and how much the averaging shrank the spread, against what theory says; with
all members there, and with a fifth of them missing in each step. Then both modes of privacy. FedAvg is given the same
devices, local steps, absences and grid.

The sums are what secure aggregation would give, to the last bit: tests/unit/mesh/test_gossip_member.py.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmesh.client.linear_head import LinearHead
from fedmesh.client.lite_sgd import fit, fit_private, gradient_rows
from fedmesh.client.task import Task
from fedmesh.federation.datasets import load
from fedmesh.federation.partition import dirichlet
from fedmesh.mesh.gossip import Grid, Mixing, PlainMixing, Prepared, SharedMixing, deal, shared_settings
from fedmesh.mesh.gossip.accounting import fewest_in_sum
from fedmesh.mesh.gossip.rules import Rule
from fedmesh.privacy import DpSettings, FileLedger, KeyedNoise, noise_multiplier
from fedmesh.secagg import Ring
from fedmesh.types import Examples, Float32

RUN = bytes(range(16))
GRID = Grid(2.0**-11)
MISSING = 0.2
DELTA = 1e-5
CLIP = 0.3
PUBLIC, HELD_OUT = 200, 360
_PRIVATE_RATE = 60.0
_LOST, _COLLUDERS = 2, 1

Models = dict[str, NDArray[np.int64]]
Inputs = Mapping[str, Prepared]


@dataclass(frozen=True, slots=True)
class Setup:
    """What both are given."""

    members: int
    smallest: int
    steps: int
    missing: float
    seed: int
    mode: str = "none"
    epsilon: float = 8.0
    one_group: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """After a step. `shrank`: spread after the averaging over that before; `theory`: what it is in the mean."""

    accuracy: float
    worst: float
    spread: float
    shrank: float
    theory: float


@dataclass(frozen=True, slots=True)
class Site:
    """Data, devices and the head."""

    head: LinearHead
    task: Task
    devices: Mapping[str, Examples]
    held_out: Examples

    @classmethod
    def of(cls, setup: Setup) -> "Site":
        """Standardised by public moments, of unit norm, with a constant; each label dealt in proportions of its own."""
        data, rng = load("digits"), np.random.default_rng([setup.seed, 1])
        order = rng.permutation(len(data.x))
        public, test, train = np.split(order, [PUBLIC, PUBLIC + HELD_OUT])
        flat = data.x.reshape(len(data.x), -1)
        flat = (flat - flat[public].mean(axis=0)) / np.maximum(flat[public].std(axis=0), 0.1)
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
        x = np.concatenate([flat, np.full((len(flat), 1), 0.3, np.float32)], axis=1).astype(np.float32)
        hands = dirichlet(data.y[train], setup.members, rng, alpha=1.0, min_examples=10)
        names = [f"device-{number:02}" for number in range(setup.members)]
        devices = {name: Examples(x[train[hand]], data.y[train[hand]]) for name, hand in zip(names, hands, strict=True)}
        task = Task(
            name="digits", model="linear_head", input_shape=(x.shape[1],), classes=10,
            ranges={"input": (2.0**-7, 128)}, batch_size=16, learning_rate=10.0,
        )  # fmt: skip
        return cls(LinearHead.of(task), task, devices, Examples(x[test], data.y[test]))

    def accuracy(self, codes: NDArray[np.int64]) -> float:
        """Of a model, on held-out digits."""
        logits = self.head.logits(self.head.inputs(self.held_out.x), GRID.weights(codes))
        return float(np.mean(logits.argmax(axis=1) == self.held_out.y))

    @property
    def batch(self) -> float:
        """Public: the even share of the examples."""
        return sum(map(len, self.devices.values())) / len(self.devices)


def dp_settings(setup: Setup, site: Site) -> DpSettings:
    """Mode ``local``: one gradient over all examples a step."""
    multiplier = noise_multiplier(setup.epsilon, DELTA, 1.0, setup.steps)
    return DpSettings(setup.epsilon, DELTA, CLIP, multiplier, 1.0, 1, site.batch)


def mixing_of(setup: Setup, site: Site, name: str, open_ledger: Callable[[str], FileLedger]) -> Mixing:
    """A device's, in the setup's mode."""
    examples, head = site.devices[name], site.head
    number = sorted(site.devices).index(name)

    def rounding(step: int) -> np.random.Generator:
        return np.random.default_rng([setup.seed, 3, number, step])

    if setup.mode == "none":

        def train(step: int, weights: Float32) -> Float32:
            order = np.random.default_rng([setup.seed, 2, number, step])
            return weights + fit(site.task, head, weights, examples, order).delta

        return PlainMixing(GRID, head.size, train, rounding=rounding)
    ledger = open_ledger(name)
    if setup.mode == "local":
        task = replace(site.task, dp=dp_settings(setup, site), learning_rate=_PRIVATE_RATE)

        def train_private(step: int, weights: Float32) -> Float32:
            noise = KeyedNoise(setup.seed, "local", name, step)
            return weights + fit_private(task, head, weights, examples, noise).delta

        return PlainMixing(GRID, head.size, train_private, rounding=rounding, dp=task.dp, ledger=ledger)
    settings = shared_settings(
        members=setup.members, smallest=setup.members if setup.one_group else setup.smallest,
        lost=round(MISSING * setup.members) if setup.one_group else _LOST,
        colluders=round(setup.members / setup.smallest) * _COLLUDERS if setup.one_group else _COLLUDERS,
        steps=setup.steps, epsilon=setup.epsilon, delta=DELTA, clip=CLIP, size=head.size,
        learning_rate=_PRIVATE_RATE, expected_batch=site.batch,
    )  # fmt: skip
    return SharedMixing(
        GRID,
        settings,
        lambda _step, weights: gradient_rows(head, weights, examples),
        noise=lambda step: KeyedNoise(setup.seed, "shared", name, step),
        ledger=ledger,
    )


def averaged(groups: Sequence[Sequence[str]], models: Models, prepared: Inputs, rule: Rule, step: int) -> Models:
    """A step of gossip in the clear: what `fedmesh.mesh.gossip.Member` comes to where no message is lost."""
    after = dict(models)
    for group in groups:
        here = [name for name in group if name in prepared]
        after |= {name: prepared[name].left_out for name in here}
        if len(here) < fewest_in_sum(len(here), len(group), rule.fewest):
            continue
        total = summed([prepared[name].vector for name in here], rule)
        after |= {name: rule.mixed(total, len(here), place, step) for place, name in enumerate(here)}
    return after


def summed(vectors: Sequence[NDArray[np.int64]], rule: Rule) -> NDArray[np.int64]:
    """In the ring, lifted around zero."""
    ring = Ring(rule.ring_bits(len(vectors)))
    return ring.centre(ring.lift(np.sum(vectors, axis=0)))


def spread(models: Sequence[NDArray[np.int64]]) -> float:
    """Mean squared distance of the models from their mean, in weights squared."""
    matrix = np.stack(models) * GRID.unit
    return float(((matrix - matrix.mean(axis=0)) ** 2).sum(axis=1).mean())


def _here(setup: Setup, names: Sequence[str], step: int) -> list[str]:
    rng = np.random.default_rng([setup.seed, 4, step])
    gone = set(rng.choice(len(names), round(setup.missing * len(names)), replace=False).tolist())
    return [name for number, name in enumerate(names) if number not in gone]


def gossip(setup: Setup, site: Site, mixings: Mapping[str, Mixing]) -> list[Point]:
    """A run; a point for each step."""
    names = sorted(site.devices)
    rule = mixings[names[0]].rule
    models = {name: np.zeros(site.head.size, np.int64) for name in names}
    points = []
    for step in range(1, setup.steps + 1):
        prepared = {}
        for name in _here(setup, names, step):
            made = mixings[name].prepare(step, models[name])
            if made is not None:
                prepared[name] = made
        groups = deal(RUN, step, names, setup.smallest)
        before = [prepared[name].left_out if name in prepared else models[name] for name in names]
        models = averaged(groups, models, prepared, rule, step)
        summing = _summing(groups, prepared, rule)
        found = [site.accuracy(models[name]) for name in names]
        after, shrank, theory = spread(list(models.values())), 0.0, 0.0
        if setup.mode != "shared":  # where the sums move the models as well
            here = [name in prepared for name in names]
            shrank, theory = after / spread(before), expected(before, here, len(summing) + sum(here) - sum(summing))
        points.append(Point(float(np.mean(found)), min(found), after, shrank, theory))
    return points


def expected(models: Sequence[NDArray[np.int64]], here: Sequence[bool], parts: int) -> float:
    """By how much dealing those who are `here` into `parts` parts at random shrinks the spread, in the mean.

    A generalisation of `fedmesh.mesh.gossip.contraction`, which it is where all are here.
    """
    distances = np.stack(models) - np.stack(models).mean(axis=0)
    present = distances[np.array(here)]
    count, squares, total = len(present), (present**2).sum(), (present.sum(axis=0) ** 2).sum()
    inside = parts * squares / count + (count - parts) / (count * (count - 1)) * (total - squares)
    return float(((distances**2).sum() - squares + inside) / (distances**2).sum())


def _summing(groups: Sequence[Sequence[str]], prepared: Inputs, rule: Rule) -> list[int]:
    """How many are in each sum that is made."""
    here = [(sum(name in prepared for name in group), len(group)) for group in groups]
    return [count for count, size in here if count >= fewest_in_sum(count, size, rule.fewest)]


def fedavg(setup: Setup, site: Site, mixings: Mapping[str, Mixing]) -> list[Point]:
    """One model, one server, one group; whoever comes back begins with the newest model."""
    names = sorted(site.devices)
    rule = mixings[names[0]].rule
    model, points = np.zeros(site.head.size, np.int64), []
    for step in range(1, setup.steps + 1):
        made = [mixings[name].prepare(step, model) for name in _here(setup, names, step)]
        vectors = [prepared.vector for prepared in made if prepared is not None]
        model = rule.mixed(summed(vectors, rule), len(vectors), 0, step)
        found = site.accuracy(model)
        points.append(Point(found, found, 0.0, 0.0, 0.0))
    return points


def run(setup: Setup, how: Callable[[Setup, Site, Mapping[str, Mixing]], list[Point]]) -> list[Point]:
    """A run of either, with ledgers in a folder of its own."""
    site = Site.of(setup)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def open_ledger(name: str) -> FileLedger:
            ledger = FileLedger(Path(folder) / name, epsilon=setup.epsilon, delta=DELTA)
            return stack.enter_context(ledger)

        return how(setup, site, {name: mixing_of(setup, site, name, open_ledger) for name in site.devices})


def figures(members: int, smallest: int, steps: int, seeds: int, *, private_steps: int = 20) -> dict[str, Any]:
    """Title -> how -> points, each the mean over the seeds."""
    found: dict[str, Any] = {}
    for mode, missing in (("none", 0.0), ("none", MISSING), ("local", MISSING), ("shared", MISSING)):
        count = steps if mode == "none" else private_steps
        title = f"{mode}, {missing:.0%} missing"
        setups = [Setup(members, smallest, count, missing, seed, mode) for seed in range(1, seeds + 1)]
        found[title] = {
            "fedavg": _mean([run(replace(setup, one_group=True), fedavg) for setup in setups]),
            "gossip": _mean([run(setup, gossip) for setup in setups]),
        }
    return found


def _mean(runs: Sequence[Sequence[Point]]) -> list[dict[str, float]]:
    return [
        {key: float(np.mean([asdict(point)[key] for point in points])) for key in asdict(points[0])}
        for points in zip(*runs, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--members", type=int, default=24)
    parser.add_argument("--smallest", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--private-steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args(argv)
    begun = time.process_time()
    found = figures(told.members, told.smallest, told.steps, told.seeds, private_steps=told.private_steps)
    if told.json:
        print(json.dumps(found))
        return
    print(f"digits, {told.members} members, groups of {told.smallest} or more, {told.seeds} seeds; accuracy in %")
    show(found)
    print(f"\n{time.process_time() - begun:.0f} s of processor time")


def show(found: Mapping[str, Any]) -> None:
    """As tables."""
    for title, runs in found.items():
        print(f"\n{title}\n| step | FedAvg | gossip | its worst member | spread | shrank by | theory |")
        print("|---" * 7 + "|")
        last = len(runs["gossip"])
        for step in sorted({1, 2, 3, 5, 10, 15, last} & set(range(1, last + 1))):
            one, many = runs["fedavg"][step - 1], runs["gossip"][step - 1]
            shrank = f"{many['shrank']:.3f} | {many['theory']:.3f}" if many["theory"] else "| "
            accuracies = f"{one['accuracy']:.1%} | {many['accuracy']:.1%} | {many['worst']:.1%}"
            print(f"| {step} | {accuracies} | {many['spread']:.3g} | {shrank} |")


if __name__ == "__main__":
    main()
