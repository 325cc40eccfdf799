"""Members of gossip averaging over a queue that may lose messages; real secure aggregation, a clock by hand."""

import random
from collections import deque

import numpy as np

from fedmesh.mesh.gossip import Grid, Member, PlainMixing, Run
from fedmesh.secagg import Identity, Roster

SIZE = 5
GRID = Grid(2.0**-4, 12)
ID = b"sixteen bytes..."


def names(count):
    return tuple(f"m{number:02}" for number in range(count))


def identity(name):
    return Identity.from_private(name.encode().rjust(32, b"."))


def run_of(count, smallest=6):
    return Run(id=ID, task="digits", members=names(count), smallest=smallest, grid=GRID, wait_s=1.0, step_s=10.0)


def start(name):
    """A model of its own, integers in -999 .. 999."""
    return np.random.default_rng(list(name.encode())).integers(-999, 1000, SIZE)


def moved(name, step):
    """What training changes, in units of the grid."""
    return np.random.default_rng([step, *name.encode()]).integers(-9, 10, SIZE)


def plain(name, trains=True):
    def train(step, weights):
        return weights + (moved(name, step) * trains * np.float32(GRID.unit)).astype(np.float32)

    return PlainMixing(GRID, SIZE, train, rounding=np.random.default_rng)


class World:
    """`lose`: (sender, to, kind of message) -> whether it is lost; `dead`: neither speak nor hear."""

    def __init__(self, run, mixing=plain, *, lose=lambda *_: False, seed=0, roster=None):
        self.run, self.lose, self.rng, self.now = run, lose, random.Random(seed), 0.0
        self.roster = roster or Roster({name: identity(name).public for name in run.members})
        self.mixings = {name: mixing(name) for name in run.members}
        self.members = {
            name: Member(
                run, name, identity=identity(name), roster=self.roster, rule=self.mixings[name].rule, codes=start(name)
            )
            for name in run.members
        }
        self.dead, self.queue, self.carried = set(), deque(), []

    def post(self, sender, sends):
        for to, data in sends:
            self.carried.append((sender, to, data))
            if sender not in self.dead and not self.lose(sender, to, kind_of(data)):
                self.queue.append((sender, to, data))

    def step(self, number, *, alive=None, away=()):
        """All but those `away` take a step to its end; `alive`: whom the others hold alive (None: who is here)."""
        here = [name for name in self.run.members if name not in self.dead and name not in away]
        believed = frozenset(here if alive is None else alive)
        for name in self.rng.sample(here, len(here)):
            self.post(name, self.begin(name, number, believed))
        self.settle()
        for _ in range(200):
            waiting = [name for name in here if self.members[name].outcome is None and name not in self.dead]
            if not waiting:
                return
            self.now = max(self.now, min(self.members[name].due for name in waiting))
            for name in here:
                if name not in self.dead:
                    self.post(name, self.members[name].tick(self.now))
            self.settle()
        raise AssertionError("a step has no end")

    def begin(self, name, number, alive):
        member = self.members[name]
        return member.begin(number, self.mixings[name].prepare(number, member.codes), alive, self.now)

    def settle(self):
        while self.queue:
            sender, to, data = self.queue.popleft()
            if to not in self.dead and sender not in self.dead:
                self.post(to, self.members[to].received(sender, data, self.now))

    def total(self):
        return sum(member.codes for member in self.members.values())

    def outcomes(self):
        return {name: member.outcome for name, member in self.members.items()}


def kind_of(data):
    """0 here, 1 open, 2 up, 3 down, 4 total, 5 wanted."""
    return data[2]
