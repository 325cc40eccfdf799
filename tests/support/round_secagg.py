"""Secure aggregation as it is, under members of the rounds: what a seam between them has to do, at its shortest.

A device's store and its sealed state outlive a crash, as they do on a disk.
"""

import functools
import hashlib

import numpy as np
import round_worlds
from round_worlds import identity
from secagg_sessions import header as session_header

from fedmesh.errors import RoundError, SecAggError
from fedmesh.mesh.rounds import Keyring, Outcome
from fedmesh.mesh.rounds.messages import Readiness, SetSignature
from fedmesh.secagg import Aggregator, Handover, Participant, Policy, Roster, SessionHeader
from fedmesh.wire import dumps, loads

NAMES = tuple(f"m{number}" for number in range(7))
ROSTER = Roster({name: identity(name).public for name in NAMES})
POLICY = Policy(successors=frozenset(NAMES))


def vector(name, attempt):
    return np.array([int(name[1:]) + 1, attempt, -5], np.int64)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def real_sum(model, state, result):
    """Model and state that the sum of the survivors' inputs gives."""
    total = sum(vector(name, result.attempt) for name in result.survivors)
    return sha(model, total.astype("<i8").tobytes()), state


def real(folder):
    """What makes a `World` one of real devices, whose stores are in `folder`."""
    sessions = functools.partial(RealSessions, folder=folder)
    return {"sessions": sessions, "keys": real_keys, "sum_of": real_sum}


def real_keys(name):
    return Keyring(identity(name), {other: identity(other).public for other in NAMES})


class RealSumming:
    is_training = False

    def __init__(self, aggregator, blobs, *, is_resumed=False):
        self.aggregator, self.blobs, self.is_resumed = aggregator, blobs, is_resumed
        self.has_failed = False

    @property
    def awaiting(self):
        return self.aggregator.awaiting

    @property
    def handover(self):
        return self.aggregator.handover() if self.aggregator.step in {"sign", "unmask"} else None

    @property
    def outcome(self):
        result = self.aggregator.result
        if result is None:
            return None
        model = sha(self.aggregator.header.model_hash, result.total.astype("<i8").tobytes())
        self.blobs.add(model)
        return Outcome(result.survivors, result.context, model, round_worlds.STATE, result.signatures)

    def begin(self):
        if self.is_resumed:
            return self.close_step()
        announced = dumps(["begin", self.aggregator.header.to_bytes()])
        return [(name, announced) for name in self.aggregator.header.cohort]

    def take(self, sender, data):
        try:
            return _steps(self.aggregator.handle(sender, data))
        finally:
            self.has_failed = self.aggregator.step == "aborted"

    def close_step(self):
        try:
            return _steps(self.aggregator.advance())
        finally:
            self.has_failed = self.aggregator.step == "aborted"


def _steps(outgoing):
    return [(name, dumps(["step", out])) for name, out in outgoing]


class RealSessions:
    """Args: folder: of the devices' stores. party: who it is. The others as for `round_sessions.FakeSessions`."""

    def __init__(self, name, keys, disk, blobs, later, *, folder, party=None):
        self.name, self.disk, self.blobs = name, disk, blobs
        self.identity, self.roster, policy = party or (identity(name), ROSTER, POLICY)
        self.kept = vars(disk).setdefault("kept", {"sealed": b"", "signed": 0, "led": {}})
        sealed = self.kept["sealed"]
        self.participant = Participant.unseal(name, self.identity, self.roster, policy, sealed, folder / name)
        self.answers = {}

    def readiness(self, number, attempt):
        if self.kept["signed"] == number:
            return Readiness.OUT
        if self.disk.begun.get(number, -1) >= attempt:
            return Readiness.NEXT
        return Readiness.OUT if len(self.disk.charged) >= self.disk.budget else Readiness.READY

    def open(self, number, attempt, cohort, before):
        threshold = SessionHeader.threshold_for(len(cohort))
        header = session_header(len(cohort), round=number, attempt=attempt, cohort=cohort, model_hash=before.model,
                                threshold=threshold, min_cohort=max(threshold, 4))  # fmt: skip
        return self.summing(Aggregator(header, self.identity, self.roster))

    def resume(self, handover, signatures):
        try:
            taken = Handover.from_bytes(handover, self.roster, max_bytes=1 << 16)
            leader = self.kept["led"].get((taken.header.round, taken.header.attempt), "")
            aggregator = Aggregator.resume(taken, self.identity, self.roster, of=leader, signatures=signatures)
        except SecAggError:
            return None
        return self.summing(aggregator, is_resumed=True)

    def summing(self, aggregator, **how):
        return RealSumming(aggregator, self.blobs, **how)

    def answer(self, number, attempt, sender, data):
        if data not in self.answers:
            kind, content = loads(data, max_bytes=1 << 20)
            if kind == "begin":
                self.answers[data] = self._begin(number, attempt, sender, SessionHeader.from_bytes(content))
            else:
                self.answers[data] = self.participant.handle(content)
            if self.participant.signed is not None:
                self.kept["signed"] = number
            self.kept["sealed"] = self.participant.seal()
        return self.answers[data]

    def vector(self, attempt):
        return vector(self.name, attempt)

    def _begin(self, number, attempt, sender, header):
        if (header.round, header.attempt) != (number, attempt):
            raise RoundError("a header of another attempt")
        if self.readiness(number, attempt) is not Readiness.READY:
            raise RoundError("not in this one")
        message = self.participant.begin(header, self.vector(attempt))
        self.kept["led"][number, attempt] = sender
        self.disk.begun[number] = attempt
        self.disk.charged.append((number, attempt))
        return message

    def signed(self, number):
        signed = self.participant.signed
        if signed is None or self.kept["signed"] != number:
            return None
        return SetSignature(self.disk.begun[number], *signed)

    def holds(self, digest):
        return digest in self.blobs

    def close(self, number):
        self.answers = {}
