"""Steps of gossip averaging with real secure aggregation, and what becomes of them when things go wrong."""

import numpy as np
import pytest
from gossip_worlds import GRID, ID, SIZE, World, identity, kind_of, moved, names, plain, run_of, start

from benchmarks.gossip import averaged
from fedmesh.errors import ConfigError, DecodeError
from fedmesh.mesh.gossip import Member, Run, deal
from fedmesh.mesh.gossip.messages import Here, Open, Up, Wanted, decode, encode, read_sum, total_of
from fedmesh.secagg import Roster
from fedmesh.secagg.result import sign_result

UP, TOTAL, WANTED = 2, 4, 5


def still(name):
    return plain(name, trains=False)


def test_a_group_averages_exactly_and_the_mean_stays():
    world = World(run_of(13))
    total = world.total()
    for step in range(1, 4):
        world.step(step)
        assert set(world.outcomes().values()) == {"mixed"}
        total = total + sum(moved(name, step) for name in world.members)
        assert world.total().tolist() == total.tolist()
    for group in deal(ID, 3, names(13), 6):
        models = np.stack([world.members[name].codes for name in group])
        assert (models.max(axis=0) - models.min(axis=0)).max() <= 1


def test_it_is_what_the_clear_computes():
    run = run_of(14)
    world = World(run)
    models = {name: start(name) for name in run.members}
    for step in range(1, 3):
        here = [name for name in run.members if name != "m03"]
        prepared = {name: plain(name).prepare(step, models[name]) for name in here}
        models = averaged(deal(ID, step, run.members, 6), models, prepared, plain("m00").rule, step)
        world.step(step, away=["m03"])
    assert {name: member.codes.tolist() for name, member in world.members.items()} == {
        name: codes.tolist() for name, codes in models.items()
    }


def test_no_input_is_in_a_message():
    world = World(run_of(6))
    world.step(1)
    inputs = {name: start(name) + moved(name, 1) for name in world.members}
    for _, _, data in world.carried:
        for codes in inputs.values():
            assert all(codes.astype(kind).tobytes() not in data for kind in ("<i8", "<i4", "<i2", "<f4"))


def test_who_is_missing_is_left_out_and_nothing_is_lost():
    world = World(run_of(12), still)
    total = world.total()
    world.step(1, away=["m03", "m07"])
    assert world.total().tolist() == total.tolist()
    assert world.members["m03"].step == -1
    world.step(2)  # and is back
    assert set(world.outcomes().values()) == {"mixed"}
    assert world.total().tolist() == total.tolist()


def test_who_is_silent_though_held_alive_costs_a_wait():
    world = World(run_of(12), still)
    total = world.total()
    group = deal(ID, 1, names(12), 6)[0]
    world.step(1, alive=names(12), away=[group[3]])
    assert all(world.members[name].outcome == "mixed" for name in group if name != group[3])
    assert world.now == world.run.wait_s
    assert world.total().tolist() == total.tolist()


def test_a_group_of_three_keeps_its_models():
    world = World(run_of(6))
    world.step(1, away=["m00", "m01", "m02"])
    for name in ["m03", "m04", "m05"]:
        member = world.members[name]
        assert member.outcome == "left-out"
        assert member.codes.tolist() == (start(name) + moved(name, 1)).tolist()  # and what it has trained


def test_a_leader_that_is_dead_leaves_its_group_as_it_was():
    world = World(run_of(12), still)
    total = world.total()
    group = deal(ID, 1, names(12), 6)[0]
    world.dead.add(group[0])
    world.step(1, alive=names(12))
    assert all(world.members[name].outcome == "left-out" for name in group[1:])
    assert world.total().tolist() == total.tolist()


def test_who_is_lost_before_its_input_leaves_is_left_out():
    lost = deal(ID, 1, names(6), 6)[0][2]
    seen = []

    def lose(sender, _to, kind):
        seen.append((sender, kind))
        return sender == lost and kind == UP and seen.count((lost, UP)) > 1  # after its keys, before its shares

    world = World(run_of(6), still, lose=lose)
    total = world.total()
    world.step(1)
    assert world.outcomes().pop(lost) == "left-out"
    assert list(world.outcomes().values()).count("mixed") == 5
    assert world.total().tolist() == total.tolist()


def test_who_missed_the_sum_asks_for_it():
    lost = deal(ID, 1, names(6), 6)[0][2]
    asked = []

    def lose(_sender, to, kind):
        asked.append(kind == WANTED)
        return to == lost and kind == TOTAL and not any(asked)

    world = World(run_of(6), still, lose=lose)
    total = world.total()
    world.step(1)
    assert any(asked)
    assert set(world.outcomes().values()) == {"mixed"}
    assert world.total().tolist() == total.tolist()


@pytest.mark.parametrize("count", [6, 13])
def test_who_never_learns_of_the_sum_moves_the_mean_by_no_more_than_its_distance(count):
    group = deal(ID, 1, names(count), 6)[0]
    lost = set(group[2:4])
    world = World(run_of(count), still, lose=lambda _sender, to, kind: to in lost and kind == TOTAL)
    total = world.total()
    world.step(1)
    assert all(world.members[name].outcome == "unsettled" for name in lost)
    mean = sum(start(name) for name in group) / len(group)
    bound = sum(np.abs(start(name) - mean) for name in lost) + len(lost)
    shift = np.abs(world.total() - total)
    assert shift.any()
    assert (shift <= bound).all()


def test_who_is_in_doubt_goes_back_to_before_it_trained():
    group = deal(ID, 1, names(6), 6)[0]
    world = World(run_of(6), lose=lambda _sender, _to, kind: kind == TOTAL)
    world.step(1)
    for name in group[1:]:
        assert world.members[name].outcome == "unsettled"
        assert world.members[name].codes.tolist() == start(name).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_lost_a_step_ends_and_the_mean_is_bounded(seed):
    rng = np.random.default_rng(seed)
    world = World(run_of(13), still, lose=lambda *_: rng.random() < 0.08, seed=seed)
    for step in range(1, 4):
        before = {name: member.codes for name, member in world.members.items()}
        total = world.total()
        world.step(step, away=[name for name in world.members if rng.random() < 0.15])
        doubtful = [n for n, member in world.members.items() if member.step == step and member.outcome == "unsettled"]
        bound = np.zeros(SIZE)
        for name in doubtful:
            group = deal(ID, step, names(13), 6)
            mates = next(mates for mates in group if name in mates)
            bound += max(np.abs(before[name] - before[mate]).max() for mate in mates) + 1
        assert (np.abs(world.total() - total) <= bound).all()


def test_a_leader_cannot_bring_strangers_or_a_group_of_its_own():
    run = run_of(13)
    group, other = deal(ID, 1, run.members, 6)
    world = World(run)
    member = world.members[group[1]]
    world.begin(group[1], 1, run.members)
    for cohort in [(*group[:5], other[0]), group[2:], group[:3]]:
        assert member.received(group[0], encode(Open(1, tuple(cohort)), ID), 0.0) == []
    assert member.received(other[0], encode(Open(1, group), ID), 0.0) == []
    assert member.received(group[0], encode(Open(2, group), ID), 0.0) == []
    assert member.counts["turn"] == 4
    assert member.counts["session"] == 1  # three are no session
    (answer,) = member.received(group[0], encode(Open(1, group), ID), 0.0)
    assert answer[0] == group[0]
    assert member.received(group[0], encode(Open(1, group), ID), 0.0) == []  # once
    assert (member.counts["turn"], member.counts["session"]) == (5, 1)


def test_a_training_that_was_left_out_once_is_not_in_two_sums():
    group = deal(ID, 1, names(6), 6)[0]
    world = World(run_of(6), lose=lambda _sender, _to, kind: kind == TOTAL)
    world.step(1, away=group[:3])  # a group of three: all go on from what they have trained
    name = group[3]
    assert world.members[name].codes.tolist() == (start(name) + moved(name, 1)).tolist()
    world.step(2)
    assert "unsettled" in world.outcomes().values()
    for name in group[3:]:
        if world.members[name].outcome == "unsettled":
            assert world.members[name].codes.tolist() == start(name).tolist()


def told_of(group, change):
    """A member of the group that is in the middle of the step, after it was told a sum that was changed on the way."""
    world = World(run_of(6), still, lose=lambda _sender, to, kind: to == group[3] and kind == TOTAL)
    for name in reversed(group):
        world.post(name, world.begin(name, 1, group))
    world.settle()
    (total,) = [data for _, to, data in world.carried if to == group[3] and kind_of(data) == TOTAL]
    member = world.members[group[3]]
    assert member.outcome is None
    member.received(group[1], change(world, total), 0.0)
    return member


def test_a_sum_that_was_not_signed_for_is_refused():
    group = deal(ID, 1, names(6), 6)[0]
    member = told_of(group, lambda _world, total: total[:-1] + bytes([total[-1] ^ 1]))
    assert member.counts["sum"] == 1
    assert member.outcome is None
    assert told_of(group, lambda _world, total: total).outcome == "mixed"  # whoever brings it


def signed_by(liar):
    """Changes a sum on the way: all signatures of the survivors are right, and `liar` signs that it is 7 more."""

    def change(world, data):
        message = decode(data, ID, max_bytes=1 << 20)
        header = world.run.header(1, message.cohort, still("m00").rule)
        told = read_sum(message, header)
        forged = sign_result(
            told.total + 7, told.weight, told.survivors, told.signatures,
            sid=told.sid, context=told.context, aggregator=liar, identity=identity(liar),
        )  # fmt: skip
        forged.verify(header, world.roster)
        return encode(total_of(forged, header), ID)

    return change


def test_a_member_cannot_sign_a_sum_of_its_own():
    group = deal(ID, 1, names(6), 6)[0]
    member = told_of(group, signed_by(group[1]))
    assert member.counts["sum"] == 1
    assert member.outcome is None


def test_a_leader_can_tell_a_wrong_sum():
    """A known limit: nobody can prove a sum. It has signed it, next to what it has told the others."""
    group = deal(ID, 1, names(6), 6)[0]
    wrong, right = told_of(group, signed_by(group[0])), told_of(group, lambda _world, total: total)
    assert wrong.outcome == "mixed"
    assert (wrong.codes != right.codes).any()


def test_a_sum_is_for_those_who_took_part():
    run = run_of(13)
    world = World(run, still)
    world.step(1)
    group, other = deal(ID, 1, run.members, 6)
    holder = world.members[group[0]]
    assert holder.received(other[0], encode(Wanted(1), ID), 0.0) == []
    ((to, data),) = holder.received(group[2], encode(Wanted(1), ID), 0.0)
    assert (to, kind_of(data)) == (group[2], TOTAL)


def test_strangers_and_nonsense_are_counted():
    member = World(run_of(6)).members["m00"]
    assert member.received("nobody", encode(Here(1), ID), 0.0) == []
    assert member.received("m01", b"\x00", 0.0) == []
    assert member.received("m01", encode(Here(1), b"another run....."), 0.0) == []
    assert dict(member.counts) == {"name": 1, "malformed": 2}


def test_messages_are_bounded():
    with pytest.raises(DecodeError):
        decode(encode(Up(1, bytes(1000)), ID), ID, max_bytes=500)
    with pytest.raises(DecodeError, match="different names"):
        decode(encode(Open(1, ("a", "a")), ID), ID, max_bytes=500)


def test_a_step_begins_once_and_forward():
    world = World(run_of(6))
    world.begin("m00", 3, names(6))
    with pytest.raises(ConfigError, match="under way"):
        world.begin("m00", 4, names(6))
    with pytest.raises(ConfigError):
        Member(
            run_of(6), "x", identity=identity("x"), roster=Roster({"x": identity("x").public}), rule=plain("x").rule,
            codes=start("x"),
        )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"id": b"short"}, {"members": ("a", "a", "b", "c")}, {"members": ("a", "b")}, {"wait_s": 0.0}, {"task": ""}],
)
def test_a_run_that_cannot_be_is_refused(change):
    facts = {"id": ID, "task": "t", "members": names(6), "smallest": 4, "grid": GRID, "wait_s": 1.0, "step_s": 2.0}
    with pytest.raises(ConfigError):
        Run(**{**facts, **change})
