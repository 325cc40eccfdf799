"""What a member signs, and who coordinates."""

import itertools
from dataclasses import replace

import pytest
from round_sessions import digest
from round_worlds import FakeKeys, charter

from fedmesh.mesh.rounds import Result
from fedmesh.mesh.rounds.election import coordinator, deputies, ranking
from fedmesh.mesh.rounds.result import result_statement
from fedmesh.mesh.rounds.voting import Ballot, Phase, Proof, Voter, read_ballot, vote_statement

CHARTER = charter(5)
NAMES = CHARTER.names


def result(model="model"):
    return Result(
        CHARTER.hash, 1, 0, CHARTER.hash, NAMES[:4], digest("context"), digest(model), digest("state"), {}
    )  # fmt: skip


X, Y = result("x"), result("y")


def proof(phase, attempt, of, signers=NAMES[:4]):
    statement = vote_statement(phase, attempt, of)
    return Proof(phase, attempt, of, {name: FakeKeys(name).sign(statement) for name in signers})


@pytest.fixture
def voter():
    voter = Voter(CHARTER, FakeKeys("m0"), Ballot())
    assert voter.enter(1)
    return voter


def test_one_result_is_prepared_in_an_attempt(voter):
    first = voter.vote(Phase.PREPARE, 0, X, None)
    assert voter.vote(Phase.PREPARE, 0, X, None) == first
    assert voter.vote(Phase.PREPARE, 0, Y, None) is None
    assert voter.vote(Phase.PREPARE, 1, Y, None) is not None  # nobody is locked
    assert voter.vote(Phase.PREPARE, 0, X, None) is None  # of an attempt that it left


@pytest.mark.parametrize("phase", [Phase.COMMIT, Phase.CERTIFY])
def test_nothing_more_is_signed_without_a_quorum_of_the_phase_before(voter, phase):
    before = Phase(phase - 1)
    wrong = [
        None,
        proof(before, 0, X, NAMES[:3]),
        proof(before, 0, Y),
        proof(before, 1, X),
        proof(Phase(3 - before), 0, X),
        replace(proof(before, 0, X), signatures=proof(before, 0, Y).signatures),
        replace(proof(before, 0, X), signatures={**proof(before, 0, X, NAMES[:3]).signatures, "stranger": bytes(64)}),
    ]
    assert [voter.vote(phase, 0, X, one) for one in wrong] == [None] * len(wrong)
    assert voter.vote(phase, 0, X, proof(before, 0, X)) is not None


def test_who_is_locked_prepares_another_only_if_a_quorum_did_later(voter):
    assert voter.vote(Phase.COMMIT, 2, X, proof(Phase.PREPARE, 2, X))
    assert voter.vote(Phase.PREPARE, 5, Y, None) is None
    assert voter.vote(Phase.PREPARE, 5, Y, proof(Phase.PREPARE, 1, Y)) is None  # before the lock
    assert (
        voter.vote(Phase.PREPARE, 5, Y, proof(Phase.PREPARE, 5, Y)) is None
    )  # of this very attempt: nobody can have it
    assert voter.vote(Phase.PREPARE, 5, Y, proof(Phase.PREPARE, 4, X)) is None
    assert voter.vote(Phase.PREPARE, 5, Y, proof(Phase.PREPARE, 4, Y, NAMES[:3])) is None
    assert voter.vote(Phase.PREPARE, 5, Y, proof(Phase.PREPARE, 4, Y)) is not None


def test_who_takes_part_in_a_later_attempt_commits_in_none_before(voter):
    voter.take_part(3)
    assert voter.vote(Phase.COMMIT, 2, X, proof(Phase.PREPARE, 2, X)) is None
    assert voter.vote(Phase.CERTIFY, 2, X, proof(Phase.COMMIT, 2, X)) is not None  # it is decided, whoever sees it


def test_one_result_is_certified_in_a_round_over_restarts(voter):
    signature = voter.vote(Phase.CERTIFY, 0, X, proof(Phase.COMMIT, 0, X))
    assert FakeKeys("x").is_signed("m0", signature, result_statement(X))
    again = Voter(CHARTER, FakeKeys("m0"), read_ballot(voter.ballot.to_bytes()))
    assert again.enter(1)
    assert again.vote(Phase.CERTIFY, 7, Y, proof(Phase.COMMIT, 7, Y)) is None  # only colluders can make this proof
    assert again.vote(Phase.CERTIFY, 7, X, proof(Phase.COMMIT, 7, X)) == signature


def test_a_round_before_its_votes_is_not_voted_in(voter):
    assert voter.enter(4)
    assert not voter.enter(3)
    assert voter.vote(Phase.PREPARE, 0, X, None) is None


def test_everybody_ranks_alike_and_each_round_anew():
    orders = {ranking(digest(parent), number, NAMES) for parent, number in itertools.product(range(20), range(3))}
    assert len(orders) > 30
    assert ranking(CHARTER.hash, 1, reversed(NAMES)) == ranking(CHARTER.hash, 1, NAMES)
    first = [ranking(digest("result", number), 1, NAMES)[0] for number in range(500)]
    assert all(70 < first.count(name) < 130 for name in NAMES)
    assert ranking(CHARTER.hash, 1, NAMES) == ("m3", "m4", "m1", "m2", "m0")  # golden: changed, a mesh falls apart


def test_whose_input_is_in_the_last_sum_goes_first():
    assert ranking(CHARTER.hash, 1, NAMES, ("m0", "m4")) == ("m4", "m0", "m3", "m1", "m2")  # golden, too
    assert ranking(CHARTER.hash, 1, NAMES, NAMES) == ranking(CHARTER.hash, 1, NAMES)


def test_a_dead_coordinator_s_successor_is_its_first_deputy():
    order = ranking(CHARTER.hash, 1, NAMES)
    for attempt in range(7):
        first = coordinator(order, attempt, NAMES)
        second = deputies(order, first, NAMES, 2)[0]
        assert coordinator(order, attempt + 1, set(NAMES) - {first}) == second
    assert coordinator(order, 0, set()) == order[0]
    assert deputies(order, order[0], {order[0]}, 2) == ()
