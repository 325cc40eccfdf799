"""A mesh of members in memory, with a clock of its own and a network as bad as a test asks for; one seed, one story."""

import hashlib
import heapq
import random
from collections import Counter

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmesh.identity import Name
from fedmesh.mesh.membership import Settings, Signer, State, Swim

MESH = "field"


def private(name):
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def public(name):
    return private(name).public_key().public_bytes_raw()


def signer(name, mesh=MESH):
    return Signer(Name(mesh, name), private(name))


class Kept:
    """Incarnations that outlive a member, as a file does."""

    def __init__(self):
        self.last = 0

    def beyond(self, floor):
        self.last = max(self.last, floor) + 1
        return self.last


class World:
    """Members ``m000``, ``m001``, ...

    Attributes:
        loss, duplication, delay_s: of every message from now on; they overtake each other.
        group: name -> number; members of different groups do not hear each other.
        sent: name -> bytes; histories: name -> name -> incarnations that it has seen, in order.
        deaths: (when, who holds it, dead) whenever a member was declared dead.
    """

    def __init__(self, size, seed, settings=None, extra=()):
        self.rng = random.Random(seed)
        self.settings = settings or Settings()
        self.names = [f"m{number:03}" for number in range(size)]
        self.roster = {name: public(name) for name in [*self.names, *extra]}
        self.now, self.loss, self.duplication, self.delay_s = 0.0, 0.0, 0.0, 0.02
        self.group, self.frozen, self.mailbox = {}, set(), {}
        self.members, self.kept = {}, {name: Kept() for name in self.names}
        self.sent, self.messages, self.largest = Counter(), 0, 0
        self.deaths, self.histories, self.strangers = [], {}, []
        self._queue, self._planned = [], {}

    def start(self, name, seeds=("m000",)):
        self.histories[name] = {}
        member = Swim(
            signer(name),
            key_of=self.roster.get,
            incarnations=self.kept[name],
            rng=random.Random(self.rng.random()),
            settings=self.settings,
            changed=lambda other, what: self._noted(name, other, what),
        )
        self.members[name] = member
        hints = {seed: (f"{seed}:7946",) for seed in seeds}
        self._carry(name, member.start(self.now, seeds=hints, addresses=(f"{name}.local:7946",), model="digits-3"))

    def start_all(self, within_s=5.0):
        for name in self.names:
            self.start(name)
            self.run(within_s / len(self.names))

    def crash(self, name):
        del self.members[name]
        self.mailbox.pop(name, None)
        self.frozen.discard(name)

    def freeze(self, name):
        self.frozen.add(name)
        self.mailbox[name] = []

    def thaw(self, name):
        self.frozen.discard(name)
        for sender, data in self.mailbox.pop(name):
            self._carry(name, self.members[name].received(sender, data, self.now))
        self._plan(name)

    def partition(self, *groups):
        self.group = {name: number for number, group in enumerate(groups) for name in group}

    def heal(self):
        self.group = {}

    def revoke(self, name):
        del self.roster[name]
        for other, member in self.members.items():
            self._carry(other, member.roster_changed(self.now))

    def leave(self, name):
        self._carry(name, self.members[name].leave(self.now))

    def run(self, seconds):
        ends = self.now + seconds
        while self._queue and self._queue[0][0] <= ends:
            self.now, _, sender, name, data = heapq.heappop(self._queue)
            member = self.members.get(name)
            if member is None:
                continue
            if sender is None:
                if name not in self.frozen and self._planned.get(name) == self.now:
                    self._carry(name, member.tick(self.now))
            elif name in self.frozen:
                self.mailbox[name].append((sender, data))
            else:
                self._carry(name, member.received(sender, data, self.now))
        self.now = ends

    def until(self, condition, at_most_s, step_s=0.5):
        """Seconds until it holds; fails if it does not in time."""
        begun = self.now
        while not condition():
            assert self.now - begun < at_most_s, f"not within {at_most_s} s: {self.summary()}"
            self.run(step_s)
        return self.now - begun

    def view(self, name):
        return {member.name: member.state for member in self.members[name].members}

    def all_agree(self, alive=None):
        """Whether every running member holds exactly `alive` (all that run) for alive."""
        wanted = set(self.members if alive is None else alive)
        return all(
            {other for other, state in self.view(name).items() if state is State.ALIVE} == wanted for name in wanted
        )

    def summary(self):
        return Counter(state.name for name in self.members for state in self.view(name).values())

    def _noted(self, name, other, member):
        if member is None:
            return
        if other not in self.roster:
            self.strangers.append((name, other))
        self.histories[name].setdefault(other, []).append(member.incarnation)
        if member.state is State.DEAD:
            self.deaths.append((self.now, name, other))

    def _carry(self, name, outgoing):
        for message in outgoing:
            self.sent[name] += len(message.data)
            self.messages += 1
            self.largest = max(self.largest, len(message.data))
            if self.group.get(name) != self.group.get(message.to):
                continue
            for _ in range(1 + (self.rng.random() < self.duplication)):
                if self.rng.random() >= self.loss:
                    arrives = self.now + self.rng.uniform(0.001, self.delay_s)
                    heapq.heappush(self._queue, (arrives, self.rng.random(), name, message.to, message.data))
        self._plan(name)

    def _plan(self, name):
        member = self.members.get(name)
        if member is not None and self._planned.get(name) != member.due:
            at = self._planned[name] = max(member.due, self.now)
            heapq.heappush(self._queue, (at, self.rng.random(), None, name, b""))
