"""The rounds with the real secure aggregation, carried by members: sums, and takeovers at every moment of a death."""

import pytest
from round_secagg import real
from round_worlds import World, play

from fedmesh.mesh.rounds.messages import Ask, Certificates, Handover, Step
from fedmesh.mesh.rounds.voting import Phase
from fedmesh.secagg.messages import Kind, read
from fedmesh.wire import loads


@pytest.fixture
def world(tmp_path):
    world = World(5, 6, rounds=2, **real(tmp_path))
    world.start_all()
    return world


def is_begin(message):
    return isinstance(message, Step) and message.down and _content(message)[0] == "begin"


def is_step(kind):
    def is_it(message):
        if not isinstance(message, Step) or not message.down:
            return False
        what, content = _content(message)
        return what == "step" and read(content, max_bytes=1 << 16).kind is kind

    return is_it


def is_ask(phase):
    return lambda message: isinstance(message, Ask) and message.phase is phase


def is_kind(which):
    return lambda message: isinstance(message, which)


def _content(message):
    return loads(message.data, max_bytes=1 << 16)


def kill(world, when, *, leave=0, count=1):
    """Crashes `count` coordinators, each before it sends one message more than `leave` that `when` says; who they were.

    The messages that a step sends at once leave one after the other: so it dies in the middle of them.
    """
    killed, sent = [], {}

    def on_send(sender, to, message):
        if sender not in killed and len(killed) < count and world.members[sender].coordinator == sender:
            sent[sender] = sent.get(sender, 0) + when(message)
            if sent[sender] > leave:
                killed.append(sender)
        if sender in killed:
            world.crash(sender)
            return False
        return True

    world.on_send = on_send
    return killed


def end(world, killed, count=1):
    """The rest of the run, without those who died; then they come back, and know what the others know."""
    world.until(lambda: len(killed) == count, 100)
    others = [name for name in world.names if name not in killed]
    world.until(lambda: world.is_over(others), 300)
    world.on_send = lambda *_: True
    for name in killed:
        world.start(name)
    world.until(world.is_over, 60)
    world.check()


def test_sums_of_real_sessions_are_certified_with_real_signatures(world):
    world.until(world.is_over, 60)
    world.check()
    assert len(world.results[2].survivors) == 5


ANEW, ON, VOID = "another attempt", "its session goes on", "void"
MOMENTS = {
    "before it begins": (is_begin, 0, ANEW),
    "when half of the keys are out": (is_step(Kind.KEYS), 2, ANEW),
    "when half of the shares are out": (is_step(Kind.DELIVERIES), 2, ANEW),
    "before the masked sum is with a deputy": (is_kind(Handover), 0, ANEW),
    "when one deputy has it": (is_kind(Handover), 1, ANEW),
    "before the set is put to anybody else": (is_step(Kind.SURVIVORS), 0, ANEW),
    "when too few have signed, and are bound": (is_step(Kind.SURVIVORS), 2, VOID),
    "when all have signed": (is_step(Kind.QUORUM), 0, ON),
    "when some have revealed to it": (is_step(Kind.QUORUM), 2, ON),
    "when it has the sum": (is_ask(Phase.PREPARE), 0, ON),
    "when some have prepared": (is_ask(Phase.PREPARE), 2, ON),
    "when it is prepared": (is_ask(Phase.COMMIT), 0, ON),
    "when it is committed": (is_ask(Phase.CERTIFY), 0, ON),
    "when it is certified": (is_kind(Certificates), 0, ON),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_coordinator_that_dies(world, moment):
    when, leave, what = MOMENTS[moment]
    killed = kill(world, when, leave=leave)
    end(world, killed)
    result = world.results[1]
    assert result.is_void == (what == VOID)
    if not result.is_void:
        assert result.attempt == (1 if what == ANEW else 0)
        assert (killed[0] in result.survivors) == (what == ON)
    assert not world.results[2].is_void
    trained = [attempt for disk in world.disks.values() for number, attempt in disk.charged if number == 1]
    assert (len(set(trained)) == 1) == (what != ANEW)  # who goes on trains nobody again


def test_the_second_successor_goes_on_when_the_first_dies_as_well(tmp_path):
    world = World(7, 6, rounds=1, **real(tmp_path))
    world.start_all()
    killed = kill(world, is_step(Kind.QUORUM), leave=2, count=2)
    end(world, killed, count=2)
    assert world.results[1].attempt == 0
    assert set(killed) < set(world.results[1].survivors)


def test_without_the_deputies_the_round_is_void(world):
    killed = kill(world, is_step(Kind.QUORUM))
    world.until(lambda: killed, 30)
    for member in world.members.values():
        member._deputy.kept.clear()
    end(world, killed)
    assert world.results[1].is_void
    assert not world.results[2].is_void


def test_devices_that_restart_between_signing_and_revealing_still_reveal(world):
    killed = kill(world, is_step(Kind.QUORUM), leave=2)
    world.until(lambda: killed, 30)
    for name in set(world.names) - set(killed):
        handovers = world.members[name]._deputy.kept
        world.crash(name)
        world.start(name)
        world.members[name]._deputy.kept.update(handovers)  # all but what a deputy keeps is on the disk
    end(world, killed)
    assert world.results[1].attempt == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_member_that_sends_another_handover_does_not_replace_the_coordinators(world, when):
    killed = kill(world, is_step(Kind.QUORUM))
    coordinator = world.members["m0"].coordinator
    order = world.members["m0"]._order
    liar = order[(order.index(coordinator) + 3) % 5]
    forged = Handover(1, 0, b"not what it handed over")
    inner = world.on_send

    def on_send(sender, to, message):
        if isinstance(message, Handover) and sender == coordinator:
            deputy = world.members[to]
            if when == "after":
                deputy._take_handover(sender, message)
            deputy._take_handover(liar, forged)
        return inner(sender, to, message)

    world.on_send = on_send
    end(world, killed)
    assert world.results[1].attempt == 0


@pytest.mark.parametrize("seed", range(4))
def test_random_stories_with_real_devices_are_safe_and_end(tmp_path, seed):
    play(seed, **real(tmp_path))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 500, 20))
def test_hundreds_of_random_stories_with_real_devices(tmp_path, first):
    for seed in range(first, first + 20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        play(seed, **real(folder))
