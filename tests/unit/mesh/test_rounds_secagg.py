"""The rounds with the real secure aggregation, carried by members: what a seam has to do, in its shortest form."""

import hashlib

import numpy as np
import pytest
import round_worlds
from round_worlds import World, identity
from secagg_sessions import header as session_header

from fedmesh.errors import RoundError, SecAggError
from fedmesh.mesh.rounds import Keyring, Outcome
from fedmesh.mesh.rounds.messages import Readiness
from fedmesh.secagg import Aggregator, Participant, Roster, SessionHeader
from fedmesh.wire import dumps, loads

ROSTER = Roster({f"m{number}": identity(f"m{number}").public for number in range(5)})


def vector(name, attempt):
    return np.array([int(name[1:]) + 1, attempt, -5], np.int64)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


class RealSumming:
    is_training, handover = False, None  # nothing is replicated yet: a dead coordinator costs an attempt

    def __init__(self, name, header, blobs):
        self.aggregator = Aggregator(header, identity(name), ROSTER)
        self.blobs, self.has_failed = blobs, False

    @property
    def awaiting(self):
        return self.aggregator.awaiting

    @property
    def outcome(self):
        result = self.aggregator.result
        if result is None:
            return None
        model = sha(self.aggregator.header.model_hash, result.total.astype("<i8").tobytes())
        self.blobs.add(model)
        return Outcome(result.survivors, result.context, model, round_worlds.STATE, result.signatures)

    def begin(self):
        announced = dumps(["begin", self.aggregator.header.to_bytes()])
        return [(name, announced) for name in self.aggregator.header.cohort]

    def take(self, sender, data):
        return [(name, dumps(["step", out])) for name, out in self.aggregator.handle(sender, data)]

    def close_step(self):
        try:
            return [(name, dumps(["step", out])) for name, out in self.aggregator.advance()]
        except SecAggError:
            self.has_failed = True
            raise


class RealSessions:
    def __init__(self, name, keys, disk, blobs, later):
        self.name, self.blobs = name, blobs
        self.participant = Participant(name, identity(name), ROSTER)
        self.begun, self.answers = None, {}

    def readiness(self, number, attempt):
        return Readiness.READY if self.begun is None or (number, attempt) > self.begun else Readiness.LATER

    def open(self, number, attempt, cohort, before):
        header = session_header(5, round=number, attempt=attempt, cohort=cohort, model_hash=before.model,
                                threshold=SessionHeader.threshold_for(len(cohort)),
                                min_cohort=SessionHeader.threshold_for(len(cohort)))  # fmt: skip
        return RealSumming(self.name, header, self.blobs)

    def resume(self, handover, signatures):
        return None

    def answer(self, number, attempt, sender, data):
        if data not in self.answers:
            kind, content = loads(data, max_bytes=1 << 20)
            if kind == "begin":
                header = SessionHeader.from_bytes(content)
                if (header.round, header.attempt) != (number, attempt):
                    raise RoundError("a header of another attempt")
                self.answers[data] = self.participant.begin(header, vector(self.name, attempt))
                self.begun = (number, attempt)
            else:
                self.answers[data] = self.participant.handle(content)
        return self.answers[data]

    def signed(self, number):
        return None

    def holds(self, digest):
        return digest in self.blobs

    def close(self, number):
        self.answers = {}


def real_keys(name):
    return Keyring(identity(name), round_worlds.charter(5, rounds=2).members)


@pytest.fixture
def world():
    world = World(5, 6, rounds=2, sessions=RealSessions, keys=real_keys)
    world.start_all()
    return world


def expected(world, number, before):
    result = world.results[number]
    total = sum(vector(name, result.attempt) for name in result.survivors)
    return sha(before, total.astype("<i8").tobytes())


def check(world):
    before = round_worlds.MODEL
    for number in sorted(world.results):
        if not world.results[number].is_void:
            before = expected(world, number, before)
        assert world.results[number].model == before
    assert not [what for what in world.violations if "charged" not in what and "wrong sum" not in what]


def test_sums_of_real_sessions_are_certified_with_real_signatures(world):
    world.until(world.is_over, 60)
    check(world)
    assert len(world.results[2].survivors) == 5


def test_a_coordinator_that_dies_costs_an_attempt_and_no_sum(world):
    world.run(0.2)
    dead = world.members["m0"].coordinator
    world.crash(dead)
    others = [name for name in world.names if name != dead]
    world.until(lambda: world.is_over(others), 200)
    check(world)
    assert dead not in world.results[1].survivors
    assert not world.results[1].is_void
