"""A member that is elected to coordinate, and tells its members different things under its own key, over real links.

Whoever coordinates the round first lies in it, and is honest else: one of five may (docs/mesh.md). Secure aggregation
is the rounds' stand-in where it is not what is attacked.
"""

from dataclasses import replace

from lying_members import insiders, refused, same_end, stories
from mesh_nodes import in_loop, until
from mesh_runs import NAMES, RunNodes
from mesh_sums import SumNodes

from fedmesh.events import AttemptBegun
from fedmesh.mesh.rounds import Certificate, Schedule
from fedmesh.mesh.rounds.messages import Ask, Certificates, Readiness, Status, Step, Vote
from fedmesh.mesh.rounds.voting import Phase
from fedmesh.secagg import SessionHeader
from fedmesh.secagg.messages import Kind, names, read, sign_envelope, unpack_body
from fedmesh.secagg.session import binding
from fedmesh.wire import dumps, loads

SCHEDULE = Schedule(20.0, 3.0, 2.0)
"""Longer than any lie takes on a machine that stalls: the liar gives its attempt up when it is through."""


def went_on_without(nodes, evil, number):
    """Whether each honest member has told that a further attempt of the round, by another, was begun."""
    told = [
        [event for event in nodes.events[name] if isinstance(event, AttemptBegun)] for name in NAMES if name != evil
    ]
    return all(any(event.round == number and event.aggregator != evil for event in each) for each in told)


async def begun(nodes, lie, **facts):
    """A run of all of them, and until somebody in it has lied: the honest ones."""
    charter = nodes.charter("anna", NAMES, schedule=SCHEDULE, **facts)
    insiders(nodes, charter, lie)
    nodes.nodes["anna"].runs.begin(charter)
    await until(lambda: lie.evil is not None, 60.0, about=stories(nodes))
    return lie.evil.others


async def gives_up(nodes, lie):
    """It says that it is in the next attempt: they need not wait for the end of this one."""
    evil, lie.is_through = lie.evil, True
    for name in evil.others:
        evil.say(name, Status(1, 1, evil.charter.hash, Readiness.OUT))
    await until(lambda: went_on_without(nodes, evil.name, 1), 60.0, about=stories(nodes))


class TwoResults:
    """Half of the others are asked to prepare another result than the rest: the same survivors, another model."""

    def __init__(self):
        self.evil, self.half, self.true, self.other = None, (), None, None

    def __call__(self, insider, to, message):
        is_mine = isinstance(message, Ask) and message.phase is Phase.PREPARE and message.proof is None
        if not is_mine or message.result.round != 1 or self.evil not in {None, insider}:
            return [message]
        if self.evil is None:
            model = insider.blobs.put(b"what the liar would have them run")
            self.evil, self.half, self.true = insider, insider.others[:2], message.result
            self.other = replace(message.result, model=model)
        return [replace(message, result=self.other) if to in self.half else message]

    def votes(self, result):
        """Who has prepared it, and how."""
        votes = [(name, message) for name, message in self.evil.heard if isinstance(message, Vote)]
        return {name: vote.signature for name, vote in votes if (vote.phase, vote.digest) == (1, result.hash)}


@in_loop
async def test_two_results_of_one_round_are_signed_by_too_few_each(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        lie = TwoResults()
        honest = await begun(nodes, lie)
        # Each half has signed what it was asked for; with its own signature the liar has three of four, twice.
        await until(lambda: len(lie.votes(lie.true)) == len(lie.votes(lie.other)) == 2, 60.0, about=stories(nodes))
        assert set(lie.votes(lie.other)) == set(lie.half)
        for result in (lie.true, lie.other):
            lie.evil.press(result, 0, lie.votes(result))
        for name in honest:  # to commit and to certify each of them; and their certificates
            await until(lambda name=name: refused(nodes, name, "ask") >= 4, 60.0, about=stories(nodes))
            await until(lambda name=name: refused(nodes, name, "chain") >= 2, 60.0, about=stories(nodes))
        await gives_up(nodes, lie)
        results = await same_end(nodes, *NAMES)
        assert lie.other not in results
        assert lie.other.model not in {result.model for result in results}


class KeptBack:
    """The certificate of round 1 is told to nobody, and half of the others get one of another result in its place."""

    def __init__(self):
        self.evil, self.half, self.true = None, (), None

    def __call__(self, insider, to, message):
        if not isinstance(message, Certificates) or self.evil not in {None, insider}:
            return [message]
        mine = [certificate for certificate in message.certificates if certificate.result.round == 1]
        if not mine:
            return [message]
        if self.evil is None:
            self.evil, self.half, self.true = insider, insider.others[:2], mine[0].result
        other = Certificate(replace(self.true, model=self.true.state), mine[0].signatures)
        return [Certificates((other,))] if to in self.half else []


@in_loop
async def test_a_certificate_that_is_kept_back_and_forged_is_made_again_by_the_others(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        lie = KeptBack()
        await begun(nodes, lie)
        await until(lambda: all(refused(nodes, name, "chain") for name in lie.half), 60.0, about=stories(nodes))
        await gives_up(nodes, lie)
        results = await same_end(nodes, *NAMES)
        assert results[0] == lie.true  # all were locked on what only the liar could show


class TwoSets:
    """Half of the others are told another set of survivors than the rest, so that two sums would be revealed."""

    def __init__(self):
        self.evil, self.half, self.header = None, (), None
        self.is_through = False

    def __call__(self, insider, to, message):
        if isinstance(message, Status) and insider is self.evil and message.attempt and not self.is_through:
            return []  # its own session fails sooner than the others need hear of
        if not isinstance(message, Step) or not message.down or message.round != 1:
            return [message]
        kind, content = loads(message.data, max_bytes=1 << 20)
        if kind == "begin" and message.attempt == 0:
            self.header = SessionHeader.from_bytes(content)
        elif kind == "step" and self.kind_of(content) is Kind.SURVIVORS and self.evil in {None, insider}:
            if self.evil is None:
                self.evil, self.half = insider, insider.others[:2]
            if to in self.half:
                without = [name for name in names(read(content, max_bytes=1 << 20).body) if name != insider.others[-1]]
                return [self.down(Kind.SURVIVORS, without)]
        return [message]

    def kind_of(self, content):
        return read(content, max_bytes=1 << 20).kind

    def down(self, kind, body):
        """As its aggregator would sign it."""
        session = binding(self.header, self.evil.nodes.learning[self.evil.name].roster)
        told = {"session": session, "sid": self.header.sid, "sender": self.evil.name, "identity": self.evil.identity}
        return Step(1, 0, True, dumps(["step", sign_envelope(kind, body, **told)]))

    def up(self, kind):
        """Name -> body of the messages of a kind that came from devices in the round."""
        heard = [(name, message) for name, message in self.evil.heard if isinstance(message, Step)]
        steps = [(name, message.data) for name, message in heard if message.round == 1 and not message.down]
        return {name: read(data, max_bytes=1 << 20).body for name, data in steps if self.kind_of(data) is kind}


@in_loop
async def test_two_sets_of_survivors_reveal_nothing_and_the_round_is_given_up_by_all(tmp_path):
    async with SumNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        lie = TwoSets()
        honest = await begun(nodes, lie, attempts=2)
        await until(lambda: set(lie.up(Kind.SIGNATURE)) == set(honest), 60.0, about=stories(nodes))
        signed = {name: unpack_body(body)["signature"] for name, body in lie.up(Kind.SIGNATURE).items()}
        for name in honest:  # two have signed the same; who asks for shares shows four signatures
            lie.evil.say(name, lie.down(Kind.QUORUM, signed))
        await until(lambda: all(refused(nodes, name, "step") for name in honest), 60.0, about=stories(nodes))
        await gives_up(nodes, lie)
        results = await same_end(nodes, *NAMES)
        assert results[0].is_void
        assert not all(result.is_void for result in results)
        assert not lie.up(Kind.REVEAL)
