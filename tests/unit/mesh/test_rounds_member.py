"""How a round goes when things go wrong, one thing at a time."""

import pytest
from round_worlds import World

from fedmesh.mesh.rounds.messages import Ask, Certificates, Handover, Step, Wanted
from fedmesh.mesh.rounds.voting import Ballot, Phase


def started(size=7, **facts):
    world = World(size, 3, **{"rounds": 2, **facts})
    world.start_all()
    return world


def crash_coordinator(world, when):
    """Kills round 1's coordinator the moment it sends what `when` says, before that leaves."""
    killed = []

    def on_send(sender, to, message):
        if not killed and world.members[sender].coordinator == sender and when(message):
            killed.append(sender)
        if sender in killed:
            world.crash(sender)
            return False
        return True

    world.on_send = on_send
    return killed


def charges(world, number):
    return sorted(attempt for disk in world.disks.values() for at, attempt in disk.charged if at == number)


def is_step(kind):
    return lambda message: isinstance(message, Step) and message.down and kind in message.data[:12]


def test_a_round_trains_once_and_everybody_has_the_result():
    world = started()
    world.until(world.is_over, 30)
    world.check()
    assert charges(world, 1) == [0] * 7
    assert world.voids() == 0


def test_who_dies_while_it_trains_is_waited_for_until_that_is_known_and_no_longer():
    """Not as long as training may take: 4 s here, and a second for the step before."""
    world = started(detect_s=0.5)
    killed = []

    def on_send(sender, to, message):
        if not killed and is_step(b"train")(message) and to != world.members[sender].coordinator:
            killed.append(to)
            world.crash(to)
        return to not in killed

    world.on_send = on_send
    world.until(lambda: killed, 30)
    begun = world.now
    world.until(lambda: 1 in world.results, 30)
    assert world.now - begun < 4.0  # the others train for up to three seconds
    assert len(world.results[1].survivors) == 6
    world.check()


def test_who_says_that_it_cannot_train_is_not_waited_for():
    """Not as long as training may take: 4 s here, and a second for the step before."""
    world = started()
    left = []

    def on_send(sender, to, message):
        if not left and is_step(b"train")(message) and to != world.members[sender].coordinator:
            left.append(to)
            world.leave(to, 1, 0)
        return not (to in left and is_step(b"train")(message))

    world.on_send = on_send
    world.until(lambda: left, 30)
    begun = world.now
    world.until(lambda: 1 in world.results, 30)
    assert world.now - begun < 4.0  # the others train for up to three seconds
    assert (len(world.results[1].survivors), world.results[1].attempt) == (6, 0)
    world.check()


STEPS = {
    "before it trains": (is_step(b"train"), 1, 0),
    "before the masked sum is with a deputy": (lambda message: isinstance(message, Handover), 1, 0),
    "before the set is signed": (is_step(b"sign"), 1, 0),
    "when the set is signed": (is_step(b"quorum"), 0, 0),
    "before it proposes": (lambda message: isinstance(message, Ask) and message.phase is Phase.PREPARE, 0, 0),
    "when it is prepared": (lambda message: isinstance(message, Ask) and message.phase is Phase.COMMIT, 0, 0),
    "when it is committed": (lambda message: isinstance(message, Ask) and message.phase is Phase.CERTIFY, 0, 0),
    "when it is certified": (lambda message: isinstance(message, Certificates), 0, 0),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_coordinator_that_dies(step):
    when, attempt, voids = STEPS[step]
    world = started()
    killed = crash_coordinator(world, when)
    others = world.until(lambda: killed, 30) and [name for name in world.names if name not in killed]
    world.until(lambda: world.is_over(others), 60)
    world.check()
    assert world.voids() == voids
    assert world.results[1].attempt == attempt  # 0: its session was gone on with, and nobody trained twice
    trained = charges(world, 1)
    assert trained.count(1) == (6 if attempt else 0)
    world.on_send = lambda *_: True
    world.start(killed[0])
    world.until(world.is_over, 30)  # it catches up
    world.check()


def test_a_successor_that_keeps_no_masked_sum_fetches_it():
    world = started()
    killed = crash_coordinator(world, is_step(b"quorum"))
    world.until(lambda: killed, 30)
    order = world.members[next(iter(world.members))]._order
    place = order.index(killed[0])
    first, second = (order[place + 1 :] + order[:place])[:2]
    world.members[first]._deputy.kept.clear()
    world.until(lambda: 1 in world.results, 60)
    world.check()
    assert world.results[1].attempt == 0
    assert second in world.members


def test_without_any_copy_of_the_masked_sum_the_round_is_given_up_and_the_next_one_learns():
    world = started()
    killed = crash_coordinator(world, is_step(b"quorum"))
    world.until(lambda: killed, 30)
    for member in world.members.values():
        member._deputy.kept.clear()
    others = [name for name in world.names if name not in killed]
    world.until(lambda: world.is_over(others), 200)
    world.check()
    assert world.results[1].is_void  # all have signed: none may mask another input in this round
    assert charges(world, 1) == [0] * 7
    assert not world.results[2].is_void


def test_a_partitioned_mesh_does_not_agree():
    world = started(rounds=50)
    world.until(lambda: 1 in world.results, 30)
    few, many = world.names[:3], world.names[3:]  # neither has a quorum of 5
    world.partition(few, many)
    world.run(200)
    assert max(world.results) <= 2  # what was under way when it happened
    before = max(world.results)
    attempts = [member.attempt for member in world.members.values()]
    world.heal()
    world.until(lambda: before + 2 in world.results, 60)
    world.check()
    assert max(attempts) <= 3  # nobody ran ahead


def test_a_minority_catches_up():
    world = started(rounds=4)
    world.until(lambda: 1 in world.results, 30)
    world.partition(world.names[:2], world.names[2:])
    world.until(lambda: world.is_over(world.names[2:]), 200)
    assert not world.is_over(world.names[:2])
    world.heal()
    world.until(world.is_over, 20)
    world.check()


def test_a_late_joiner_catches_up_from_any_one_peer():
    world = started()
    world.crash("m6")
    world.until(lambda: world.is_over(world.names[:6]), 60)
    for name in world.names[1:6]:
        world.crash(name)
    world.start("m6")
    world.until(lambda: world.is_over(["m0", "m6"]), 20)
    world.check()


def test_all_that_restart_at_once_go_on_where_they_were():
    world = started(rounds=3)
    world.until(lambda: 2 in world.results, 60)
    for name in world.names:
        world.crash(name)
    world.start_all()
    world.until(world.is_over, 200)
    world.check()


def test_all_that_restart_at_once_while_they_train_wait_for_no_session_that_is_lost():
    """An attempt takes 14 s; what is awaited is that they see each other, and train again."""
    for seed in range(5):
        world = World(7, seed, rounds=2)
        world.start_all()
        world.until(lambda world=world: len(charges(world, 1)) == 7, 30)
        for name in world.names:
            world.crash(name)
        world.start_all()
        assert world.until(lambda world=world: 1 in world.results, 60) < 8.0
        world.check()
        assert world.results[1].attempt == 1  # with new keys
        assert charges(world, 1) == [0] * 7 + [1] * 7


def test_who_is_one_attempt_ahead_is_not_waited_for():
    """It is back before the others see each other, as it may be behind a blackout: a step's time is a second here."""
    world = World(7, 3, rounds=1, detect_s=100.0)
    ahead = world.charter.names[0]
    world.memories[ahead].keep(Ballot(1, 1))
    begun = []
    world.on_send = lambda sender, to, message: begun.append(world.now) if is_step(b"train")(message) else True
    world.start_all()
    assert {world.members[name].attempt for name in world.names} == {0, 1}
    world.until(lambda: begun, 30)
    assert begun[0] < 0.5


def test_a_coordinator_that_restarts_while_it_trains_costs_no_more_than_its_attempt():
    world = started(detect_s=100.0)
    world.until(lambda: len(charges(world, 1)) == 7, 30)
    leader = world.members["m0"].coordinator
    world.crash(leader)
    world.start(leader)
    assert world.until(lambda: 1 in world.results, 60) < 8.0
    world.check()


def test_who_only_votes_is_not_elected_while_somebody_who_trains_is_there():
    for seed in range(5):
        world = World(7, seed, rounds=8, voters=("m1", "m4", "m5"))
        world.start_all()
        world.until(world.is_over, 200)
        world.check()
        assert [world.results[number].attempt for number in range(2, 9)] == [0] * 7
        assert all(set(result.survivors) == {"m0", "m2", "m3", "m6"} for result in world.results.values())


def test_where_nobody_else_is_left_who_only_votes_is_asked_and_the_round_ends():
    world = World(7, 3, rounds=2, voters=("m0", "m1"), attempts=1)
    world.start_all()
    world.until(lambda: 1 in world.results, 60)
    for name in world.results[1].survivors[:2]:
        world.crash(name)
    left = [name for name in world.names if name in world.members]
    world.until(lambda: world.is_over(left), 300)
    world.check()
    assert world.results[2].is_void


def test_a_coordinator_that_is_still_getting_ready_is_waited_for():
    world = World(7, 3, rounds=3, slow=[f"m{number}" for number in range(7)])
    world.start_all()
    world.until(world.is_over, 100)
    world.check()
    assert [result.attempt for result in world.results.values()] == [0] * 3


def test_members_without_budget_vote_and_the_rounds_are_given_up():
    world = started(budget=1)
    world.until(world.is_over, 100)
    world.check()
    assert [world.results[number].is_void for number in (1, 2)] == [False, True]


def test_what_a_round_costs_beside_secure_aggregation():
    world = started()
    sizes = []
    world.on_send = lambda sender, to, message: sizes.append(message) or True
    world.until(world.is_over, 30)
    votes = [message for message in sizes if not isinstance(message, Step | Handover | Wanted)]
    assert len(votes) / (2 * 7) <= 40  # messages a member and round, resent ones included
