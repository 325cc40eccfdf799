"""Members, and strangers, who do not keep to the protocol of the rounds."""

from dataclasses import replace

import pytest
from round_sessions import digest
from round_worlds import FakeKeys, World

from fedmesh.mesh.rounds import Certificate
from fedmesh.mesh.rounds.effects import Forked
from fedmesh.mesh.rounds.messages import Ask, Certificates, Readiness, SetSignature, Status, Vote, Wanted, encode
from fedmesh.mesh.rounds.result import founding, result_statement, void
from fedmesh.mesh.rounds.voting import Phase, Proof, vote_statement


@pytest.fixture
def world():
    world = World(7, 4, rounds=2)
    world.start_all()
    return world


def say(world, message, *, by="m6", to="m0"):
    world._do(to, lambda member: member.received(by, encode(message, world.charter.hash), world.now))


def first_coordinator(world):
    return world.members["m0"].coordinator


def test_a_coordinator_that_tells_two_results_gets_none_of_them_split(world):
    evil = first_coordinator(world)
    half = set(world.names[:4])
    for blobs in world.blobs.values():
        blobs.add(digest("forged"))

    def on_send(sender, to, message):
        if sender == evil and isinstance(message, Ask) and message.phase is Phase.PREPARE and to in half:
            forged = replace(message, result=replace(message.result, model=digest("forged")))
            world._post(sender, to, encode(forged, world.charter.hash))
            return False
        return True

    world.on_send = on_send
    others = [name for name in world.names if name != evil]
    world.until(lambda: 1 in world.results, 200)
    world.until(lambda: world.is_over(others), 300)
    assert len(set(world.certified)) == len(world.certified)
    assert not [what for what in world.violations if "wrong sum" not in what]
    assert not world.forks


def test_a_coordinator_that_announces_a_sum_without_signatures_gets_no_vote(world):
    evil = first_coordinator(world)
    world.run(0.5)
    plain = void(world.charter, founding(world.charter), world.charter.hash)
    forged = replace(plain, survivors=("m0", "m1", "m2", "m3"), context=digest("context"))
    nobody = dict.fromkeys(forged.survivors, bytes(64))
    wrong = [Ask(Phase.PREPARE, 0, forged, None, {}), Ask(Phase.PREPARE, 0, forged, None, nobody)]
    wrong += [Ask(Phase.PREPARE, 0, plain, None, {})]  # and none that gives the round up before its time
    victim = next(name for name in world.names if name != evil)
    before = world.members[victim].counts["ask"]
    for ask in wrong:
        say(world, ask, by=evil, to=victim)
    assert world.members[victim].counts["ask"] == before + 3
    assert world.memories[victim].kept.prepared is None


def test_nobody_but_its_coordinator_asks_in_an_attempt(world):
    evil = next(name for name in world.names if name != first_coordinator(world))
    seen = []
    world.on_send = lambda sender, to, message: seen.append((to, message)) or True
    world.until(lambda: any(isinstance(message, Ask) for _, message in seen), 30)
    ask = next(message for _, message in seen if isinstance(message, Ask))
    victim = next(name for name in world.names if name not in {evil, first_coordinator(world)})
    say(world, ask, by=evil, to=victim)
    assert world.members[victim].counts["ask"] == 1


def test_forged_votes_and_proofs_count_for_nothing(world):
    world.run(1)
    result = void(world.charter, founding(world.charter), world.charter.hash)
    evil = "m6"
    statement = vote_statement(Phase.COMMIT, 0, result)
    forged = {name: FakeKeys(evil).sign(statement) for name in world.names}
    proof = Proof(Phase.COMMIT, 0, result, forged)
    for name in world.names[:6]:
        say(world, Ask(Phase.CERTIFY, 0, result, proof, {}), by=evil, to=name)
        say(world, Vote(1, Phase.PREPARE, 0, result.hash, bytes(64)), by=evil, to=name)
        say(world, Certificates((Certificate(result, forged),)), by=evil, to=name)
    assert all(memory.kept.certified is None for memory in world.memories.values())
    world.until(world.is_over, 60)
    world.check()
    assert world.members["m0"].counts["chain"] == 1


def test_one_liar_moves_nobody_to_another_attempt(world):
    world.run(0.3)
    evil = next(name for name in world.names if name != first_coordinator(world))
    ahead = Status(
        1, 1 << 30, world.charter.hash, Readiness.READY, None, SetSignature(0, digest("set"), bytes(64)), (0,)
    )
    for name in world.names:
        if name != evil:
            say(world, ahead, by=evil, to=name)
    assert max(member.attempt for member in world.members.values()) == 0
    world.until(world.is_over, 60)
    world.check()


def test_a_stranger_and_garbage_are_counted_and_no_more(world):
    say(world, Wanted(1), by="mallory")
    world._do("m0", lambda member: member.received("m1", b"\xff" * 100, world.now))
    assert world.members["m0"].counts == {"name": 1, "malformed": 1}
    world.until(world.is_over, 60)
    world.check()


def test_an_old_result_changes_nothing(world):
    world.until(lambda: 1 in world.results, 30)
    world.run(1)
    old = world.memories["m0"].chain[0]
    say(world, Certificates((old,)))
    world.until(world.is_over, 60)
    world.check()


def test_more_colluders_than_can_be_borne_are_named(world):
    world.until(lambda: 1 in world.results, 30)
    world.run(2)
    other = replace(world.results[1], model=digest("other"))
    colluders = ("m2", "m3", "m4", "m5", "m6")
    statement = result_statement(other)
    forged = Certificate(other, {name: FakeKeys(name).sign(statement) for name in colluders})
    member = world.members["m0"]
    effects = member.received("m6", encode(Certificates((forged,)), world.charter.hash), world.now)
    fork = next(effect.fork for effect in effects if isinstance(effect, Forked))
    fork.verify(world.charter, FakeKeys("anybody"))
    assert set(fork.signers) <= set(colluders)
    assert len(fork.signers) >= 2 * world.charter.quorum - 7
    assert member.due == float("inf")  # it takes no part any more
    for effect in effects:
        if not isinstance(effect, Forked):
            world._post("m0", effect.to, effect.data)  # and the others hear the proof
    world.run(5)
    assert {name for name, _ in world.forks} == set(world.names) - {"m0"}
