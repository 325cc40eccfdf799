"""Members, and strangers, who do not keep to the protocol."""

import random

import pytest
from membership_worlds import Kept, World, public, signer

from fedmesh.mesh.membership import Settings, State, Swim
from fedmesh.mesh.membership.messages import MAX_MESSAGE_BYTES, Gossip, PingReq, States, Summary, encode
from fedmesh.mesh.membership.statements import Statement


@pytest.fixture
def world():
    world = World(6, seed=2, extra=["mallory"])
    world.start_all(1.0)
    world.until(world.all_agree, 30)
    return world


def say(world, *statements, by="mallory", to="m001"):
    raw = tuple(one.raw if isinstance(one, Statement) else one for one in statements)
    world._carry(to, world.members[to].received(by, encode(Gossip(raw)), world.now))


def test_a_stranger_is_nobody_whatever_it_sends(world):
    sybils = [signer(f"sybil{number}") for number in range(20)]
    say(world, sybils[0].alive(1, ["10.0.0.1:1"], ""), by="sybil0")
    say(world, *(sybil.alive(1, ["10.0.0.1:1"], "") for sybil in sybils))  # vouched for by an insider
    world.run(20)
    assert all(not any("sybil" in name for name in world.view(member)) for member in world.members)
    assert world.members["m001"].counts["name"] >= 2


def test_nobody_speaks_for_another(world):
    forged = signer("mallory").alive(9, ["evil:1"], "").raw
    victim = signer("m002").alive(9, ["evil:1"], "").raw
    say(world, forged[:64] + victim[64:])
    say(world, forged[:64] + signer("m003").accuse(State.DEAD, "m002", 1).raw[64:])
    view = {member.name: member for member in world.members["m001"].members}
    assert (view["m002"].state, view["m002"].incarnation, view["m002"].addresses) == (
        State.ALIVE,
        1,
        ("m002.local:7946",),
    )
    assert world.members["m001"].counts["proof"] == 2


def test_an_old_statement_is_not_believed_again(world):
    old = signer("m002").alive(1, ["m002.local:7946"], "digits-3")
    world.crash("m002")
    world.start("m002")
    world.until(world.all_agree, 30)
    world.crash("m002")
    world.until(lambda: all(world.view(name)["m002"] is State.DEAD for name in world.members), 60)
    say(world, old)
    world.run(5)
    assert all(world.view(name)["m002"] is State.DEAD for name in world.members)


def test_an_insider_that_declares_everybody_dead_puts_nobody_out(world):
    for _ in range(20):
        for name in world.names:
            for to in world.names:
                known = {member.name: member.incarnation for member in world.members[to].members}
                say(world, signer("mallory").accuse(State.DEAD, name, known[name]), to=to)
        world.run(1.0)
    assert world.deaths == []
    world.until(world.all_agree, 30)


def test_an_accusation_for_a_life_that_has_not_been_is_void(world):
    say(world, signer("mallory").accuse(State.DEAD, "m002", 1 << 40))
    assert world.view("m001")["m002"] is State.ALIVE


def test_revoking_an_accuser_takes_back_what_it_said(world):
    world.crash("m002")
    say(world, signer("mallory").accuse(State.SUSPECT, "m002", 1))
    assert world.view("m001")["m002"] is State.SUSPECT
    world.revoke("mallory")
    assert world.view("m001")["m002"] is State.ALIVE


def test_a_device_enrolled_anew_under_another_key_starts_over(world):
    world.crash("m002")
    world.roster["m002"] = public("m002-anew")
    for name, member in world.members.items():
        world._carry(name, member.roster_changed(world.now))
    assert all("m002" not in world.view(name) for name in world.members)
    say(world, signer("m002").alive(99, [], ""))  # the old key
    assert "m002" not in world.view("m001")


def test_flooding_with_bad_signatures_ends_the_reading(world):
    forged = [signer("m002").alive(number, [], "").raw for number in range(100, 200)]
    say(world, *(bytes(64) + raw[64:] for raw in forged), signer("m002").alive(500, [], "").raw)
    assert world.members["m001"].counts["proof"] == 4


def test_asking_for_everything_again_and_again_is_answered_a_few_times(world):
    before = world.sent["m001"]
    for _ in range(500):
        data = encode(Summary("", "", ()))
        world._carry("m001", world.members["m001"].received("mallory", data, world.now))
    assert world.members["m001"].counts["busy"] == 492
    assert world.sent["m001"] - before < 20_000


def test_nobody_is_made_to_knock_at_a_strangers_door(world):
    out = world.members["m001"].received("mallory", encode(PingReq(1, "sybil0")), world.now)
    assert "sybil0" not in [message.to for message in out]


def test_a_view_is_bounded():
    names = [f"n{number}" for number in range(30)]
    one = Swim(
        signer("anna"),
        key_of=public,
        incarnations=Kept(),
        rng=random.Random(1),
        settings=Settings(members=8),
    )
    one.start(0.0, seeds={})
    one.received("n0", encode(Gossip(tuple(signer(name).alive(1, [], "").raw for name in names[:10]))), 0.0)
    assert len(one.members) == 9
    assert one.counts["full"] == 2


def test_nothing_that_arrives_is_more_than_counted(world):
    chance = random.Random(9)
    member = world.members["m001"]
    good = [
        encode(Gossip((signer("m002").alive(2, ["a:1"], "x").raw,))),
        encode(Summary("", "", (("m002", 7, 2), ("mallory", 1, 0)))),
        encode(States((signer("m003").alive(2, [], "").raw,), ("m002", "m004"))),
        encode(PingReq(4, "m004")),
    ]
    for _ in range(3000):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        member.received("mallory", bytes(data[: chance.randint(1, len(data))]), world.now)
    member.received("mallory", bytes(MAX_MESSAGE_BYTES + 1), world.now)
    member.received("mallory", b"", world.now)
    assert member.counts["malformed"] > 1000
    world.run(10)
    assert world.strangers == []
