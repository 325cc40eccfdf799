"""Nodes that have a run together: the stand-in for secure aggregation of the rounds' tests, as a node's learning."""

import asyncio
import secrets

from mesh_nodes import Nodes, quick, until
from round_sessions import Disk, FakeSessions, FakeSummingSession

from fedmesh.mesh.rounds import Charter, Keyring, Schedule, quorum_for, sign_charter
from fedmesh.secagg import Identity
from fedmesh.wire import dumps, loads

QUICK = Schedule(30.0, 10.0, 1.0)
NAMES = ("anna", "bert", "cleo", "dora", "emil")


class KeptDisk(Disk):
    """What a device does not forget, in a file of the run's folder."""

    def __init__(self, path, budget=100):
        super().__init__(budget)
        self.path = path
        if path.exists():
            begun, charged = loads(path.read_bytes(), max_bytes=1 << 16)
            self.begun, self.charged = dict(map(tuple, begun)), list(map(tuple, charged))

    def keep(self):
        self.path.write_bytes(dumps([list(map(list, self.begun.items())), list(map(list, self.charged))]))


class Holding:
    """Blobs of a run as the stand-in has them: it names models that it cannot spell, so a word stands for each."""

    def __init__(self, blobs):
        self.blobs = blobs

    def __contains__(self, digest):
        return digest in self.blobs


class NodeSessions(FakeSessions):
    """The stand-in, with models and states that are real bytes under their SHA-256."""

    def __init__(self, name, keys, disk, blobs, later):
        super().__init__(name, keys, disk, Holding(blobs), later)
        self.store = blobs

    def open(self, number, attempt, cohort, before):
        return NodeSumming(self.store, number, attempt, cohort, before, lambda *many: None)

    def resume(self, handover, signatures):
        found = super().resume(handover, signatures)
        if found is None:
            return None
        found.__class__, found.store, found.keep = NodeSumming, self.store, lambda *many: None
        return found

    def begin(self, before):
        assert before.model in self.store
        assert before.state in self.store

    def _train(self, *args):
        super()._train(*args)
        self.disk.keep()


class NodeSumming(FakeSummingSession):
    def __init__(self, store, *args):
        super().__init__(*args)
        self.store = store

    def close_step(self):
        outgoing = super().close_step()
        if self.outcome is not None:
            model, state = after(self.model, self.total), after(self.state, self.total)
            self.outcome = type(self.outcome)(
                self.outcome.survivors, self.outcome.context, self.store.put(model), self.store.put(state),
                self.outcome.signatures, {"epsilon": 0.5 * self.number},
            )  # fmt: skip
        return outgoing


def after(before, total, size=300_000):
    """A model of which every byte hangs on the one before and the sum."""
    seed = dumps([before, total])
    return (seed * (size // len(seed) + 1))[:size]


class FakeLearning:
    """`Learning` of a node: trains for `train_s`, or as long as `gate` is closed.

    Attributes:
        trained: (round, attempt) as they were begun; certified_rounds: as they were told of first.
        owed: whether a run that is over is loaded to be told of again.
    """

    owed = False

    def __init__(self, name, identity, *, train_s=0.05, declines=""):
        self.name, self.identity, self.train_s, self.declines = name, identity, train_s, declines
        self.gate = asyncio.Event()
        self.gate.set()
        self.trained, self.certified_rounds, self.scenarios, self.closed = [], [], [], False
        self.tasks = set()
        self.loop = asyncio.get_running_loop()

    def sessions(self, charter, *, scenario, blobs, folder, answered, changed):
        self.scenarios.append(scenario)
        if self.declines:
            from fedmesh.errors import ConfigError

            raise ConfigError(self.declines)

        def later(number, attempt, done):
            self.trained.append((number, attempt))

            async def train():
                await asyncio.sleep(self.train_s)
                await self.gate.wait()
                data = done()
                await asyncio.to_thread(answered, number, attempt, data)

            task = self.loop.create_task(train())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

        keys = Keyring(self.identity, charter.members)
        return NodeSessions(self.name, keys, KeptDisk(folder / "disk"), blobs, later)

    def certified(self, charter, certificate, blobs):
        number = certificate.result.round
        if number not in self.certified_rounds:
            self.certified_rounds.append(number)

    def owes(self, certificate, folder):
        return self.owed

    async def aclose(self):
        self.closed = True
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class RunNodes(Nodes):
    """Nodes of which `names` learn; the first has the right to start runs."""

    learning_of = FakeLearning

    def __init__(self, folder, *names, rights=None):
        super().__init__(folder, *names)
        for name in names[:1] if rights is None else rights:
            self.mesh.issuer.grant(name, "runs")
        roster, _ = self.lists()
        for name in names:
            (folder / name / "roster.signed").write_bytes(roster)
        self.learning = {}

    async def enter(self, name, *, learns=True, train_s=0.05, declines="", **options):
        def learning(_config, membership, *, clock, events):
            identity = Identity(membership.signing_key())
            self.learning[name] = self.learning_of(name, identity, train_s=train_s, declines=declines)
            return self.learning[name]

        settings = quick(runs={"settle_s": 2.0, "spare_s": 0.0})
        return await super().enter(name, settings=settings, learning=learning if learns else None, **options)

    async def enter_all(self, names=None, **options):
        names = names or self.names
        for name in names:
            await self.enter(name, **options)
        await until(lambda: all(set(self.view(name)) >= set(names) for name in names), 40.0)

    async def kill(self, name):
        """As by SIGKILL: nobody hears a goodbye."""
        node = self.nodes[name]

        async def silent(*, within_s):
            node.members._alarm.cancel()
            await node.members._post.aclose()

        node.members.leave = silent
        await self.leave(name)

    def run_of(self, name):
        """The newest run, as this node has it."""
        return next(reversed(self.nodes[name].runs.all.values()), None)

    def results(self, name):
        run = self.run_of(name)
        return () if run is None or run.member is None else run.member.chain.since(1, 1 << 20)

    def hashes(self, name):
        return [certificate.result.hash for certificate in self.results(name)]

    def is_over(self, *names):
        return all((run := self.run_of(name)) is not None and run.is_over for name in names)

    def charter(self, signer, members, *, rounds=3, attempts=8, run=None, mesh="home", schedule=QUICK, content=None):
        """A charter as `signer`'s node would sign it, whose blobs are with it."""
        membership = self.nodes[signer].membership
        scenario, model, state = content or (b'name = "test"', b"model 0", b"state 0")
        digests = [self.nodes[signer].runs.blobs.put(data) for data in (scenario, model, state)]
        keys = membership.roster.keys
        plain = Charter(
            mesh, "digits", run or secrets.token_bytes(16), digests[0], {name: keys[name] for name in members},
            rounds, quorum_for(len(members)), 4, attempts, digests[1], digests[2], schedule, signer,
        )  # fmt: skip
        return sign_charter(plain, Identity(membership.signing_key()))

    def begin(self, signer, members, **facts):
        charter = self.charter(signer, members, **facts)
        self.nodes[signer].runs.begin(charter)
        return charter

    def story(self, name):
        """For a test that waits in vain: where this node's run is."""
        run = self.run_of(name)
        return {"run": run and run.status, "counts": dict(self.nodes[name].runs.counts)} if name in self.nodes else None

    def part(self, *groups):
        """Nodes of different groups do not hear each other, until `heal`."""
        self.parted = [(one, other) for here in groups for there in groups if here is not there
                       for one in here for other in there]  # fmt: skip
        for one, other in self.parted:
            self.nodes[one].transport.shun(other)

    def heal(self):
        for one, other in self.parted:
            self.nodes[one].transport.readmit(other)
