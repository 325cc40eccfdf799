"""Members on their way through the steps of a run: a manual clock, messages that are delayed and lost, crashes."""

import heapq
import itertools
import random
from dataclasses import replace

from gossip_worlds import identity, plain, run_of, start

from fedmesh.mesh.gossip import Begin, Course, Ended, Member, Say, Trains
from fedmesh.secagg import Roster

__all__ = ["Courses"]


class Courses:
    """`trains`: name -> seconds of a training; what is on a member's disk is in `begun` and `models`."""

    def __init__(
        self,
        count,
        *,
        steps,
        smallest=6,
        seed=0,
        loss=0.0,
        delay=0.05,
        trains=lambda _rng: 0.5,
        train_s=1.0,
        still=False,
    ):
        self.run = replace(run_of(count, smallest), train_s=train_s, step_s=8.0 + train_s)
        self.steps, self.rng, self.now = steps, random.Random(seed), 0.0
        self.loss, self.delay, self.trains, self.still = loss, delay, trains, still
        self.roster = Roster({name: identity(name).public for name in self.run.members})
        self.begun = dict.fromkeys(self.run.members, 0)
        self.models = {name: start(name) for name in self.run.members}
        self.paid = {name: [] for name in self.run.members}
        self.ended = {name: {} for name in self.run.members}
        self.courses, self.lives, self.queue, self.order = {}, {}, [], itertools.count()
        self.sides, self.settled = {}, {}
        self.dull = set()

    def enter(self, *names):
        for name in names or self.run.members:
            self.lives[name] = self.lives.get(name, 0) + 1
            course = self.courses[name] = Course(self.run, name, steps=self.steps, at=self.begun[name] + 1)
            self.do(name, course.start(self.now))
        self.see()
        for name in names or self.run.members:
            if name not in self.dull:
                self.later(self.rng.random(), self.able, name, self.lives[name])
            else:
                self.do(name, self.courses[name].able(Trains.NO, self.now))

    def able(self, name, life):
        if self.lives[name] == life and name in self.courses:
            course = self.courses[name]
            course.member = Member(
                self.run, name, identity=identity(name), roster=self.roster, rule=plain(name).rule,
                codes=self.models[name], settled=self.settled.get(name), step=self.begun[name],
            )  # fmt: skip
            self.do(name, course.able(Trains.YES, self.now))

    def kill(self, name):
        del self.courses[name]
        self.lives[name] += 1
        self.see()

    def cut(self, *sides):
        self.sides = {name: number for number, side in enumerate(sides) for name in side}
        self.see()

    def see(self):
        for name in list(self.courses):
            seen = [other for other in self.courses if self.joined(name, other)]
            self.do(name, self.courses[name].alive_changed(seen, self.now))

    def joined(self, one, other):
        return self.sides.get(one) == self.sides.get(other)

    def do(self, name, effects):
        for effect in effects:
            match effect:
                case Say(to, data):
                    if self.rng.random() >= self.loss:
                        self.later(self.delay * self.rng.random(), self.arrive, name, to, data)
                case Begin(step, codes):
                    assert step > self.begun[name], "a step was begun twice"
                    self.begun[name] = step
                    self.paid[name].append(step)
                    prepared = plain(name, trains=not self.still).prepare(step, codes)
                    self.later(self.trains(self.rng), self.trained, name, self.lives[name], step, prepared)
                case Ended(step, outcome, survivors, codes, settled):
                    self.models[name], self.settled[name] = codes, settled
                    self.ended[name][step] = outcome, survivors
        if name in self.courses:
            due = self.courses[name].due
            if due < float("inf"):
                self.later(max(0.0, due - self.now), self.tick, name, self.lives[name])

    def trained(self, name, life, step, prepared):
        if self.lives[name] == life and name in self.courses:
            self.do(name, self.courses[name].trained(step, prepared, self.now))

    def tick(self, name, life):
        if self.lives[name] == life and name in self.courses and self.courses[name].due <= self.now:
            self.do(name, self.courses[name].tick(self.now))

    def arrive(self, sender, to, data):
        if to in self.courses and self.joined(sender, to):
            self.do(to, self.courses[to].received(sender, data, self.now))

    def later(self, seconds, call, *args):
        heapq.heappush(self.queue, (self.now + seconds, next(self.order), call, args))

    def until(self, done, within_s=1000.0):
        ends = self.now + within_s
        while not done():
            assert self.queue, "nothing is to happen any more"
            at, _, call, args = heapq.heappop(self.queue)
            assert at < ends, f"it did not come to pass within {within_s} s: {self.story}"
            self.now = max(self.now, at)
            call(*args)

    def wait(self, seconds):
        """Lets time pass, whatever happens."""
        ends = []
        self.later(seconds, ends.append, None)
        self.until(lambda: bool(ends), seconds + 1)

    def over(self, *names):
        return all(self.courses[name].is_over for name in names or self.courses)

    @property
    def story(self):
        return {name: (course.at, dict(self.ended[name])) for name, course in self.courses.items()}

    def total(self):
        return sum(self.models.values())
