"""A member that tells old results, votes and messages as if they were of now, under its own key, over real links."""

from dataclasses import replace

from lying_members import insiders, refused, same_end, stories
from mesh_nodes import in_loop, until
from mesh_runs import NAMES, RunNodes

from fedmesh.events import AttemptBegun
from fedmesh.mesh.rounds import Certificate, Schedule
from fedmesh.mesh.rounds.messages import Ask, Certificates, Readiness, Status
from fedmesh.mesh.rounds.voting import Phase

SCHEDULE = Schedule(20.0, 3.0, 2.0)


def first_of(insider, phase):
    """The question of round 1 that this member has put, or was asked."""
    asks = [message for _, message in insider.said + insider.heard if isinstance(message, Ask)]
    return next(ask for ask in asks if ask.phase is phase and ask.result.round == 1)


@in_loop
async def test_all_that_was_said_in_a_round_is_said_again_in_the_next_and_changes_nothing(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()

        def until_round_two(insider, _to, message):
            if isinstance(message, Status) and message.round == 2 and not is_through:
                nodes.learning[insider.name].gate.clear()  # nobody is through with its training before the lies
            return [message]

        charter, is_through = nodes.charter("anna", NAMES, schedule=SCHEDULE), []
        evil = insiders(nodes, charter, until_round_two)["dora"]
        nodes.nodes["anna"].runs.begin(charter)
        await until(lambda: all(nodes.hashes(name) for name in NAMES), 60.0, about=stories(nodes))
        before = {name: (refused(nodes, name, "ask"), refused(nodes, name, "chain")) for name in evil.others}
        (certificate,) = nodes.results("dora")
        said = [message for _, message in evil.said + evil.heard]
        stale = replace(certificate.result, round=2, parent=certificate.result.hash)
        later = [first_of(evil, phase) for phase in (Phase.COMMIT, Phase.CERTIFY)]
        lies = [replace(ask, result=stale, proof=replace(ask.proof, result=stale)) for ask in later]
        lies += [replace(first_of(evil, Phase.PREPARE), result=stale), Certificates((certificate,))]
        for name in evil.others:
            for message in [*said, *lies, Certificates((Certificate(stale, certificate.signatures),))]:
                evil.say(name, message)
        for name, (asks, chain) in before.items():
            # Who coordinates may refuse more: the votes that it is sent again lead to no question of its own.
            await until(lambda name=name, asks=asks: refused(nodes, name, "ask") >= asks + 3, 60.0)
            await until(lambda name=name, chain=chain: refused(nodes, name, "chain") >= chain + 1, 60.0)
        is_through.append(True)
        for name in NAMES:
            nodes.learning[name].gate.set()
        results = await same_end(nodes, *NAMES)
        assert results[1].model != results[0].model
        for name in evil.others:
            trained = nodes.learning[name].trained
            assert len(set(trained)) == len(trained)  # nobody was made to train, and pay, twice


class OldAsNew:
    """Who coordinates round 2 first proposes the result of round 1 once more, with its survivors' signatures."""

    def __init__(self):
        self.evil = None

    def __call__(self, insider, to, message):
        is_mine = isinstance(message, Ask) and message.phase is Phase.PREPARE and message.proof is None
        if not is_mine or message.result.round != 2 or self.evil not in {None, insider}:
            return [message]
        self.evil, old = insider, first_of(insider, Phase.PREPARE)
        stale = replace(old.result, round=2, parent=message.result.parent)
        return [replace(message, result=stale, survivors=old.survivors)]


@in_loop
async def test_the_last_result_is_not_certified_as_the_next_one_though_a_coordinator_asks_for_it(tmp_path):
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all()
        lie, charter = OldAsNew(), nodes.charter("anna", NAMES, schedule=SCHEDULE)
        insiders(nodes, charter, lie)
        nodes.nodes["anna"].runs.begin(charter)
        await until(lambda: lie.evil is not None, 60.0, about=stories(nodes))
        honest = lie.evil.others
        await until(lambda: all(refused(nodes, name, "ask") for name in honest), 60.0, about=stories(nodes))
        parent = nodes.hashes(honest[0])[0]
        for name in honest:  # it goes on: they need not wait for the end of its attempt
            lie.evil.say(name, Status(2, 1, parent, Readiness.OUT))
        results = await same_end(nodes, *NAMES)
        assert len({result.context for result in results}) == len({result.model for result in results}) == 3
        assert any(isinstance(event, AttemptBegun) and event.round == 2 for event in nodes.events[honest[0]])


class Behind:
    """Tells one member of no result but the first, as the newest, and of forged ones behind it."""

    def __init__(self):
        self.first = None

    def __call__(self, insider, to, message):
        if insider.name != "dora" or not isinstance(message, Certificates):
            return [message]
        if message.certificates[0].result.round == 1:
            self.first = self.first or message.certificates[0]
        if to != "emil" or message.certificates[-1].result.round == 1:
            return [message]
        again = replace(self.first.result, round=2, parent=self.first.result.hash)
        forged = [replace(each.result, model=self.first.result.model) for each in message.certificates]
        several = [Certificate(result, self.first.signatures) for result in (again, *forged)]
        return [Certificates((self.first,)), *(Certificates((each,)) for each in several)]


@in_loop
async def test_who_was_away_takes_no_old_result_for_the_newest_and_catches_up_with_the_first_honest_one(tmp_path):
    others = NAMES[:-1]
    async with RunNodes(tmp_path, *NAMES) as nodes:
        await nodes.enter_all(train_s=0.5)
        lie, charter = Behind(), nodes.charter("anna", NAMES, schedule=SCHEDULE)
        insiders(nodes, charter, lie)
        nodes.nodes["anna"].runs.begin(charter)
        await until(lambda: nodes.hashes("emil"), 60.0, about=stories(nodes))
        await nodes.leave("emil")
        await same_end(nodes, *others)
        for name in ("anna", "bert", "cleo"):
            nodes.nodes[name].transport.shun("emil")
        await nodes.enter("emil")
        known = nodes.hashes("emil")
        assert known == nodes.hashes("anna")[: len(known)]
        await until(lambda: refused(nodes, "emil", "chain") >= 2, 60.0, about=stories(nodes))
        assert nodes.hashes("emil") == known
        assert not nodes.is_over("emil")
        for name in ("anna", "bert", "cleo"):
            nodes.nodes[name].transport.readmit("emil")
        await same_end(nodes, *NAMES)
