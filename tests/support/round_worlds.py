"""Members of a run over a network with a clock of its own, as bad as a test asks for; one seed, one story.

`World` checks safety whenever something leaves a member: one certified result a round, one certified by each member,
one prepared in each attempt, and every sum right; see `violations`.
"""

import functools
import hashlib
import heapq
import itertools
import random

from round_sessions import Disk, FakeSessions, VotingSessions, digest, model_after, state_after, value

from fedmesh.mesh.rounds import Charter, Schedule, sign_charter
from fedmesh.mesh.rounds.effects import Certified, Forked, Send, Want
from fedmesh.mesh.rounds.member import Member
from fedmesh.mesh.rounds.messages import Ask, Certificates, Vote, decode
from fedmesh.mesh.rounds.quorum import quorum_for
from fedmesh.mesh.rounds.voting import Ballot, Phase
from fedmesh.secagg import Identity

MODEL, STATE = digest("model 0"), digest("state 0")


@functools.cache
def identity(name):
    return Identity.from_private(hashlib.sha256(name.encode()).digest())


@functools.cache
def charter(size, rounds=3, attempts=3, fewest=4, quorum=0):
    names = [f"m{number}" for number in range(size)]
    plain = Charter(
        "field", "digits", bytes(16), digest("scenario"), {name: identity(name).public for name in names}, rounds,
        quorum or quorum_for(size), fewest, attempts, MODEL, STATE, Schedule(4.0, 1.0, 1.0), "operator",
    )  # fmt: skip
    return sign_charter(plain, identity("operator"))


class FakeKeys:
    """Signatures that nobody in a test forges, at a hundredth of the price."""

    def __init__(self, name):
        self.name = name

    def sign(self, message):
        return _signature(self.name, message)

    def is_signed(self, name, signature, message):
        return signature == _signature(name, message)


@functools.lru_cache(maxsize=8192)
def _signature(name, message):
    return hashlib.sha512(name.encode() + b"\0" + message).digest()


@functools.lru_cache(maxsize=4096)
def _decoded(data, run):
    return decode(data, run, max_bytes=1 << 20)


class CrashError(Exception):
    pass


class FakeMemory:
    """A disk that outlives its member; `crash` says whether the next write is the member's last act."""

    def __init__(self, crash=lambda: None):
        self.kept, self.chain, self.crash = Ballot(), [], crash

    def ballot(self):
        return self.kept

    def keep(self, ballot):
        when = self.crash()
        if when == "before":
            raise CrashError
        self.kept = ballot
        if when == "after":
            raise CrashError

    def certificates(self):
        return list(self.chain)

    def append(self, certificate):
        self.chain.append(certificate)


def fake_sum(model, state, result):
    """Model and state that a sum of the stand-in's inputs gives."""
    total = sum(value(survivor, result.round, result.attempt) for survivor in result.survivors)
    return model_after(model, total), state_after(state, total)


class World:
    """Members ``m0``, ``m1``, ... of one run.

    Attributes:
        loss, duplication, delay_s: of every message from now on; they overtake each other.
        group: name -> number; members of different groups do not hear each other.
        violations: what must never happen, in words.
        voters: who does not train, and cannot sum. slow: who opens a session a while after it is asked to.

    Args:
        sum_of: model and state before, result -> what it has to name; of the inputs that `sessions` has.
    """

    def __init__(
        self, size, seed, *, detect_s=2.0, budget=100, crash_rate=0.0, sessions=FakeSessions, keys=None,
        sum_of=fake_sum, voters=(), slow=(), **facts,
    ):  # fmt: skip
        self.rng = random.Random(seed)
        self.charter = charter(size, **facts)
        self.names = list(self.charter.names)
        self.now, self.loss, self.duplication, self.delay_s, self.detect_s = 0.0, 0.0, 0.0, 0.05, detect_s
        self.crash_rate, self._sessions, self._keys = crash_rate, sessions, keys or FakeKeys
        self._sum_of, self.voters, self.slow = sum_of, frozenset(voters), frozenset(slow)
        self.group, self.members, self.violations = {}, {}, []
        self.memories = {name: FakeMemory(self._crash_at) for name in self.names}
        self.disks = {name: Disk(budget) for name in self.names}
        self.blobs = {name: {MODEL, STATE} for name in self.names}
        self.lives = dict.fromkeys(self.names, 0)
        self.certified, self.results, self.signed, self.prepared = {}, {}, {}, {}
        self.forks, self.finished_at, self.sent = [], {}, 0
        self._queue, self._order = [], itertools.count()
        self._tick_at, self._sides = {}, {}
        self.on_send = lambda sender, to, message: True

    def start(self, name):
        self.lives[name] += 1
        life = self.lives[name]
        keys = self._keys(name)
        make = VotingSessions if name in self.voters else self._sessions
        sessions = make(name, keys, self.disks[name], self.blobs[name], lambda *late: self._train(name, life, *late))
        self._sides[name] = sessions
        if name in self.slow:
            sessions.pause = lambda: self._at(self.now + self.rng.uniform(0.5, 3.0), "changed", name, life)
        try:
            self.members[name] = Member(
                self.charter, name, keys=keys, memory=self.memories[name], sessions=sessions,
                rng=random.Random(self.rng.random()),
            )  # fmt: skip
        except CrashError:
            return
        self._do(name, lambda member: member.start(self.now))
        self.seen()

    def start_all(self):
        for name in self.names:
            if name not in self.members:
                self.start(name)

    def crash(self, name):
        self.lives[name] += 1
        self.members.pop(name, None)
        self._tick_at.pop(name, None)
        self.seen()

    def leave(self, name, number, attempt):
        """It cannot do its part in that attempt's session, and says so in half a second."""
        self._sides[name].left.add((number, attempt))
        self._at(self.now + 0.5, "changed", name, self.lives[name])

    def partition(self, *groups):
        self.group = {name: number for number, group in enumerate(groups) for name in group}
        self.seen()

    def heal(self):
        self.group = {}
        self.seen()

    def seen(self):
        """Everybody learns in a while who is there: the membership's part."""
        for name in self.names:
            self._at(self.now + self.rng.uniform(0.5, 1.5) * self.detect_s, "alive", name)

    def run(self, seconds):
        end = self.now + seconds
        while self._next() <= end:
            self._step()
        self.now = end

    def until(self, condition, seconds):
        """Runs until it holds; the seconds that took."""
        begin = self.now
        while not condition():
            if self._next() > begin + seconds:
                raise AssertionError(f"not within {seconds} s: {self.members}")
            self._step()
        return self.now - begin

    def is_over(self, names=None):
        return all(name in self.members and self.members[name].chain.is_complete for name in names or self.names)

    def voids(self):
        return sum(result.is_void for result in self.results.values())

    def _next(self):
        first = self._queue[0][0] if self._queue else float("inf")
        return min(first, *self._tick_at.values()) if self._tick_at else first

    def _step(self):
        name = min(self._tick_at, key=self._tick_at.get, default=None)
        if name is not None and (not self._queue or self._tick_at[name] < self._queue[0][0]):
            self.now = max(self.now, self._tick_at[name])
            self._do(name, lambda member: member.tick(self.now))
            if name in self.members and self.members[name].due <= self.now:
                self.violations.append(f"{name} is still due after its tick: it would spin")
            return
        self.now, _, what, arguments = heapq.heappop(self._queue)
        getattr(self, f"_on_{what}")(*arguments)

    def _at(self, when, what, *arguments):
        heapq.heappush(self._queue, (when, next(self._order), what, arguments))

    def _on_alive(self, name):
        if name in self.members:
            alive = {other for other in self.members if self._hear(name, other)}
            self._do(name, lambda member: member.alive_changed(alive, self.now))

    def _on_message(self, sender, to, data):
        if to in self.members and self._hear(sender, to):
            self._do(to, lambda member: member.received(sender, data, self.now))

    def _on_blob(self, source, to, wanted):
        if self._hear(source, to) and source in self.members:
            self.blobs[to] |= self.blobs[source] & set(wanted)

    def _on_trained(self, name, life, number, attempt, done):
        if self.lives[name] == life:
            data = done()
            self._do(name, lambda member: member.answered(number, attempt, data, self.now))

    def _on_changed(self, name, life):
        if self.lives[name] == life:
            self._do(name, lambda member: member.changed(self.now))

    def _train(self, name, life, number, attempt, done):
        self._at(self.now + self.rng.uniform(0.5, 3.0), "trained", name, life, number, attempt, done)

    def _hear(self, one, other):
        return self.group.get(one) == self.group.get(other)

    def _crash_at(self):
        return self.rng.choice(["before", "after"]) if self.rng.random() < self.crash_rate else None

    def _do(self, name, call):
        member = self.members.get(name)
        if member is None:
            return
        try:
            effects = call(member)
        except CrashError:
            self.crash(name)
            return
        for effect in effects:
            self._carry(name, effect)
        if name in self.members:
            self._tick_at[name] = max(member.due, self.now + 1e-6)

    def _carry(self, name, effect):
        match effect:
            case Send():
                message = _decoded(effect.data, self.charter.hash)
                self._judge(name, message)
                if self.on_send(name, effect.to, message):
                    self._post(name, effect.to, effect.data)
            case Want():
                for source in effect.sources:
                    if self.rng.random() >= self.loss:
                        self._at(self.now + self.rng.uniform(0.1, 1), "blob", source, name, effect.digests)
            case Certified():
                self._judge_result(name, effect.certificate)
            case Forked():
                self.forks.append((name, effect.fork))

    def _post(self, sender, to, data):
        self.sent += len(data)
        copies = 2 if self.rng.random() < self.duplication else 1
        for _ in range(copies):
            if self.rng.random() >= self.loss:
                self._at(self.now + self.rng.uniform(0.001, self.delay_s), "message", sender, to, data)

    def _judge(self, name, message):
        match message:
            case Vote(phase=Phase.CERTIFY):
                self._once(self.signed, (name, message.round), message.digest, "certified")
            case Vote():
                self._once(
                    self.prepared, (name, message.round, message.attempt, message.phase), message.digest, "voted"
                )
            case Ask(proof=proof) if proof is not None:
                for voter in proof.signatures:
                    key = (voter, proof.result.round, proof.attempt, proof.phase)
                    self._once(self.prepared, key, proof.result.hash, "voted")
            case Certificates():
                for certificate in message.certificates:
                    for voter in certificate.signatures:
                        self._once(self.signed, (voter, certificate.result.round), certificate.result.hash, "certified")
            case _:
                pass

    def _once(self, known, key, what, verb):
        if known.setdefault(key, what) != what:
            self.violations.append(f"{key} {verb} two results")

    def _judge_result(self, name, certificate):
        result = certificate.result
        self.finished_at.setdefault(result.round, self.now)
        self._once(self.certified, result.round, result.hash, "has")
        self.results.setdefault(result.round, result)
        model, state = MODEL, STATE
        if result.round > 1:
            before = self.results[result.round - 1]
            model, state = before.model, before.state
        if not result.is_void:
            model, state = self._sum_of(model, state, result)
            late = [n for n in result.survivors if (result.round, result.attempt) not in self.disks[n].charged]
            if late:
                self.violations.append(f"{late} in the sum of round {result.round} were not charged")
        if (result.model, result.state) != (model, state):
            self.violations.append(f"a wrong sum in round {result.round} at {name}")

    def check(self):
        """Raises: AssertionError: something happened that must not."""
        for name, disk in self.disks.items():
            if len(set(disk.charged)) != len(disk.charged) or len(disk.charged) > disk.budget:
                self.violations.append(f"{name} was charged {disk.charged}")
            if any(attempt >= self.charter.attempts for _, attempt in disk.charged):
                self.violations.append(f"{name} trained in more attempts than the charter allows")
        assert not self.violations, self.violations
        assert not self.forks, self.forks


def play(seed, **options):
    """A random story: bad times, then a quorum is connected for long enough. The world, checked, with all rounds over.

    Args:
        options: of the `World`.

    Raises:
        AssertionError: something happened that must not, or the run did not end.
    """
    rng = random.Random(seed)
    size = rng.choice([4, 5, 5, 6, 7])
    if "sessions" not in options:
        options = {**_odd_ones(size, seed), **options}
    world = World(
        size, seed, rounds=rng.choice([2, 3]), attempts=rng.choice([1, 2, 3]), budget=rng.choice([2, 100, 100, 100]),
        crash_rate=rng.choice([0, 0, 0.01, 0.05]), detect_s=rng.choice([0.5, 2, 8]), **options,
    )  # fmt: skip
    world.loss, world.duplication = rng.choice([0, 0.05, 0.2, 0.4]), rng.choice([0, 0.1, 0.3])
    world.delay_s = rng.choice([0.05, 0.5, 3.0])
    mean_s = rng.choice([0.5, 3, 15])
    world.start_all()
    for _ in range(rng.randrange(10)):
        world.run(rng.expovariate(1 / mean_s))
        _strike(world, rng)
    survivors = set(rng.sample(world.names, rng.randint(world.charter.quorum, size)))
    world.crash_rate, world.loss, world.delay_s = 0.0, rng.choice([0, 0.1]), rng.choice([0.05, 0.3])
    world.heal()
    for name in world.names:
        if name not in survivors:
            world.crash(name)
        elif name not in world.members:
            world.start(name)
    try:
        world.recovery_s = world.until(lambda: world.is_over(survivors), 3000)
    finally:
        world.check()
    return world


def _odd_ones(size, seed):
    rng, names = random.Random(f"odd ones of {seed}"), [f"m{number}" for number in range(size)]
    voters = rng.sample(names, rng.choice([0, 0, 0, 1, 2]))
    return {"voters": voters, "slow": rng.sample(names, rng.choice([0, 0, 1, size]))}


def _strike(world, rng):
    match rng.choice(["crash", "crash", "start", "start", "partition", "heal", "weather"]):
        case "crash":
            world.crash(rng.choice(world.names))
        case "start":
            world.start_all()
        case "partition":
            shuffled = rng.sample(world.names, len(world.names))
            cut = rng.randint(1, len(shuffled) - 1)
            world.partition(shuffled[:cut], shuffled[cut:])
        case "heal":
            world.heal()
        case _:
            world.loss, world.delay_s = rng.choice([0, 0.2, 0.6]), rng.choice([0.05, 1.0, 5.0])
