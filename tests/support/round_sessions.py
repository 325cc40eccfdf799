"""Secure aggregation for tests of the rounds: three steps, sums of known numbers, no cryptography."""

import hashlib

from fedmesh.errors import RoundError
from fedmesh.mesh.rounds.messages import Readiness, SetSignature
from fedmesh.mesh.rounds.quorum import quorum_for
from fedmesh.mesh.rounds.sessions import Outcome
from fedmesh.secagg.session import survivors_digest
from fedmesh.wire import dumps, loads


def digest(*parts):
    return hashlib.sha256(dumps(list(parts))).digest()


def value(name, number, attempt):
    """What a device's input is: noise is fresh in every attempt."""
    return int.from_bytes(digest(name, number, attempt)[:4], "big")


def model_after(model, total):
    return digest("model", model, total)


def state_after(state, total):
    return digest("state", state, total)


def read(data):
    return loads(data, max_bytes=1 << 20)


class Disk:
    """What a device does not forget: `begun` round -> attempt, `signed` round -> `SetSignature`, `charged` attempts."""

    def __init__(self, budget):
        self.begun, self.signed, self.charged, self.budget = {}, {}, [], budget


class FakeSummingSession:
    """The coordinator's side: mask, sign, unmask."""

    def __init__(self, number, attempt, cohort, before, keep):
        self.number, self.attempt, self.cohort, self.keep = number, attempt, cohort, keep
        self.model, self.state = before.model, before.state
        self.step, self.expected, self.heard = 0, frozenset(cohort), {}
        self.survivors, self.total, self.signatures = (), 0, {}
        self.handover = self.outcome = None
        self.has_failed = False
        self.context = digest("context", number, attempt, list(cohort), before.model)
        self.threshold = quorum_for(len(cohort))

    @classmethod
    def resumed(cls, handover, signatures, keep):
        number, attempt, cohort, survivors, total, model, state = read(handover)
        session = cls(number, attempt, tuple(cohort), _Before(model, state), keep)
        session.handover, session.survivors, session.total = handover, tuple(survivors), total
        session.step, session.signatures = 2, dict(signatures)
        session.expected = frozenset(signatures)
        return session

    @property
    def awaiting(self):
        return self.expected - self.heard.keys()

    @property
    def is_training(self):
        return self.step == 0

    def begin(self):
        if self.step == 2:
            return [(name, dumps(["quorum", self.signatures])) for name in sorted(self.expected)]
        return [
            (name, dumps(["train", self.number, list(self.cohort), self.model, self.attempt])) for name in self.cohort
        ]

    def take(self, sender, data):
        kind, content = read(data)
        if sender not in self.expected or sender in self.heard:
            return []
        if kind != ("masked", "signature", "reveal")[self.step]:
            return []
        self.heard[sender] = content
        return self.close_step() if not self.awaiting else []

    def close_step(self):
        heard, self.heard = self.heard, {}
        if len(heard) < self.threshold:
            self.has_failed = True
            raise RoundError("too few")
        self.expected = frozenset(heard)
        self.step += 1
        if self.step == 1:
            self.survivors, self.total = tuple(sorted(heard)), sum(heard.values())
            self.handover = dumps([self.number, self.attempt, list(self.cohort), list(self.survivors), self.total,
                                   self.model, self.state])  # fmt: skip
            return [(name, dumps(["sign", list(self.survivors)])) for name in self.survivors]
        if self.step == 2:
            self.signatures = heard
            return [(name, dumps(["quorum", heard])) for name in sorted(heard)]
        model, state = model_after(self.model, self.total), state_after(self.state, self.total)
        self.keep(model, state)
        facts = {"inputs": len(self.survivors)}
        self.outcome = Outcome(self.survivors, self.context, model, state, self.signatures, facts)
        return []


class _Before:
    def __init__(self, model, state):
        self.model, self.state = model, state


class FakeSessions:
    """A member's side, and its factory of the other. `later` is called with an answer that takes its time.

    Attributes:
        pause: called when a session is opened for the first time, which then is not yet; None: at once.
        left: rounds and attempts in whose session this device cannot do its part.
    """

    def __init__(self, name, keys, disk, blobs, later):
        self.name, self.keys, self.disk, self.blobs, self.later = name, keys, disk, blobs, later
        self.current, self.answers = None, {}
        self.pause, self.paused, self.left = None, set(), set()

    def readiness(self, number, attempt):
        if number in self.disk.signed or (number, attempt) in self.left:
            return Readiness.OUT
        if self.disk.begun.get(number, -1) >= attempt:
            return Readiness.NEXT
        return Readiness.OUT if len(self.disk.charged) >= self.disk.budget else Readiness.READY

    def open(self, number, attempt, cohort, before):
        if self.pause is not None and (number, attempt) not in self.paused:
            self.paused.add((number, attempt))
            self.pause()
            return None
        return FakeSummingSession(number, attempt, cohort, before, lambda *many: self.blobs.update(many))

    def resume(self, handover, signatures):
        session = FakeSummingSession.resumed(handover, signatures, lambda *many: self.blobs.update(many))
        statement = survivors_digest(session.context, session.survivors)
        good = all(self.keys.is_signed(name, signature, statement) for name, signature in signatures.items())
        return session if good and len(signatures) >= session.threshold else None

    def holds(self, wanted):
        return wanted in self.blobs

    def signed(self, number):
        signed = self.disk.signed.get(number)
        return signed if signed is not None and self.current is not None and self.current[1] == signed.attempt else None

    def close(self, number):
        self.current, self.answers = None, {}

    def answer(self, number, attempt, sender, data):
        if data in self.answers:
            return self.answers[data]
        kind, *content = read(data)
        if kind == "train":
            self.answers[data] = None
            return self._train(number, attempt, data, content)
        if self.current is None or self.current[1] != attempt:
            raise RoundError("no such session here")
        answer = (
            self._sign(number, attempt, content[0]) if kind == "sign" else self._reveal(number, attempt, content[0])
        )
        self.answers[data] = answer
        return answer

    def _train(self, number, attempt, data, content):
        if self.readiness(number, attempt) is not Readiness.READY or content[0] != number:
            raise RoundError("not in this one")
        self.disk.begun[number] = attempt
        self.disk.charged.append((number, attempt))
        self.current = (number, attempt, tuple(content[1]), digest("context", number, attempt, content[1], content[2]))
        masked = dumps(["masked", value(self.name, number, attempt)])

        def done():
            self.answers[data] = masked
            return masked

        self.later(number, attempt, done)

    def _sign(self, number, attempt, survivors):
        if self.name not in survivors or len(survivors) < quorum_for(len(self.current[2])):
            raise RoundError("not with this set")
        statement = survivors_digest(self.current[3], tuple(survivors))
        known = self.disk.signed.get(number)
        if known is not None and (known.attempt, known.digest) != (attempt, statement):
            raise RoundError("another set was signed")
        signature = self.keys.sign(statement)
        self.disk.signed[number] = SetSignature(attempt, statement, signature)
        return dumps(["signature", signature])

    def _reveal(self, number, attempt, signatures):
        known = self.disk.signed.get(number)
        if known is None or known.attempt != attempt or len(signatures) < quorum_for(len(self.current[2])):
            raise RoundError("not enough have signed")
        if not all(self.keys.is_signed(name, signed, known.digest) for name, signed in signatures.items()):
            raise RoundError("they signed something else")
        return dumps(["reveal", None])


class VotingSessions(FakeSessions):
    """A member's side that has nothing to train with, and nothing to sum with."""

    def readiness(self, number, attempt):
        return Readiness.OUT

    def open(self, number, attempt, cohort, before):
        raise RoundError("this member does not train")

    def resume(self, handover, signatures):
        return None
