"""Random schedules: what must never happen, and what must happen once the network is whole again."""

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from membership_worlds import World

from fedmesh.errors import DecodeError
from fedmesh.mesh.membership import State
from fedmesh.mesh.membership.messages import decode, encode

SIZE = 8


def upset(world, chance):
    """One thing that happens to the mesh."""
    running = [name for name in world.names if name in world.members]
    up = [name for name in running if name not in world.frozen]
    match chance.choice(["crash", "start", "freeze", "thaw", "part", "heal", "noise", "calm"]):
        case "crash" if len(running) > 3:
            world.crash(chance.choice(running))
        case "start":
            start_missing(world, chance.sample(world.names, 2))
        case "freeze" if len(up) > 2:
            world.freeze(chance.choice(up))
        case "thaw" if world.frozen:
            world.thaw(min(world.frozen))
        case "part":
            cut = chance.randint(1, SIZE - 1)
            shuffled = chance.sample(world.names, SIZE)
            world.partition(shuffled[:cut], shuffled[cut:])
        case "heal":
            world.heal()
        case "noise":
            world.loss, world.duplication, world.delay_s = chance.uniform(0, 0.5), chance.uniform(0, 0.3), 0.3
        case "calm":
            world.loss, world.duplication, world.delay_s = 0.0, 0.0, 0.02


def start_missing(world, seeds):
    for name in world.names:
        if name not in world.members:
            world.start(name, seeds=seeds)


def made_whole(world):
    world.heal()
    world.loss, world.duplication, world.delay_s = 0.0, 0.0, 0.02
    for name in list(world.frozen):
        world.thaw(name)
    start_missing(world, world.names[:2])


def check_safety(world):
    assert world.strangers == []
    for history in world.histories.values():
        for incarnations in history.values():
            assert all(first <= second for first, second in itertools.pairwise(incarnations))


def run_schedule(seed):
    chance = random.Random(seed)
    world = World(SIZE, seed)
    for name in world.names:
        world.start(name, seeds=world.names[:2])
    for _ in range(chance.randint(2, 10)):
        upset(world, chance)
        world.run(chance.uniform(0.5, 20))
        check_safety(world)
    made_whole(world)
    # Nobody who is here stays dead: the dead are tried, and views compared.
    world.until(world.all_agree, 240)
    world.run(20)
    assert world.all_agree()
    check_safety(world)
    for member in world.members.values():
        assert set(member.counts) <= {"busy"}, "honest members refuse nothing of each other"


@settings(max_examples=15)
@given(st.integers(0, 1 << 32))
def test_views_agree_again_whatever_happened(seed):
    run_schedule(seed)


@settings(max_examples=15)
@given(st.integers(0, 1 << 32), st.sets(st.integers(0, 5), min_size=1, max_size=3))
def test_no_member_that_can_be_heard_dies_of_another_ones_crash(seed, crashing):
    world = World(6, seed)
    for name in world.names:
        world.start(name)
    world.run(10)
    for number in crashing:
        world.crash(world.names[number])
    world.run(60)
    crashed = {world.names[number] for number in crashing}
    assert {dead for _, _, dead in world.deaths} <= crashed
    assert all(world.view(name)[dead] is State.DEAD for name in world.members for dead in crashed)


@given(st.binary(max_size=200))
def test_whatever_arrives_is_a_message_or_refused(data):
    try:
        message = decode(data)
    except DecodeError:
        return
    assert encode(message) == data
