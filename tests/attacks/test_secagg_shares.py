"""Devices that share their secrets wrongly, or reveal other shares than they got: found out, or a typed abort."""

import pytest
from secagg_adversary import Adversary, body_of, forge
from secagg_liars import LIAR, SEVEN, before, goes_on_without_the_liar, heard, lie
from secagg_sessions import Federation

from fedmesh.secagg import SecAggError
from fedmesh.secagg.messages import Kind


@pytest.mark.parametrize("change", ["missing", "itself", "stranger", "short", "no map", "no commitment", "long"])
def test_shares_for_others_than_the_members(change):
    adversary = before(Kind.SHARES)
    body = body_of(dict(adversary.up)[LIAR])
    sealed = body["sealed"]
    first = sealed[SEVEN[0]]
    changed = {
        "missing": {**body, "sealed": {name: item for name, item in sealed.items() if name != SEVEN[0]}},
        "itself": {**body, "sealed": {**sealed, LIAR: first}},
        "stranger": {**body, "sealed": {**sealed, "device-99": first}},
        "short": {**body, "sealed": {**sealed, SEVEN[0]: first[:-1]}},
        "no map": {**body, "sealed": list(sealed.values())},
        "no commitment": {"sealed": sealed},
        "long": {**body, "commitment": bytes(33)},
    }[change]
    assert heard(adversary, instead=lie(adversary, Kind.SHARES, changed)) in {"shares", "malformed"}
    assert goes_on_without_the_liar(adversary).survivors == SEVEN[:6]


def test_sealed_shares_that_do_not_open():
    """The devices that got them fall out, and the round is given up if they are too many: the liar can stop a round."""
    for some, survives in ((SEVEN[:2], True), (SEVEN[:3], False)):
        adversary = before(Kind.SHARES)
        body = body_of(dict(adversary.up)[LIAR])
        broken = {name: bytes(len(item)) if name in some else item for name, item in body["sealed"].items()}
        adversary.up = [item for item in adversary.up if item[0] != LIAR]
        adversary.up.append((LIAR, lie(adversary, Kind.SHARES, {**body, "sealed": broken})))
        down = adversary.next_down()
        for name in some:
            with pytest.raises(SecAggError) as caught:
                adversary.devices[name].handle(down.pop(name))
            assert caught.value.code == "signature"
        adversary.deliver(down)
        if survives:
            adversary.finish(adversary.next_down())
        else:
            with pytest.raises(SecAggError) as caught:
                adversary.next_down()
            assert caught.value.code == "threshold"


def revealing(lost=()):
    adversary = Adversary(Federation.of(7))
    adversary.deliver(adversary.until(Kind.SURVIVORS, without=lost))
    adversary.deliver(adversary.next_down())
    return adversary


@pytest.mark.parametrize("change", ["both", "missing", "stranger", "short", "swapped", "no map"])
def test_reveals_of_another_form(change):
    adversary = revealing(lost=(SEVEN[0],))
    body = body_of(dict(adversary.up)[LIAR])
    seeds, masks = body["seeds"], body["masks"]
    some = seeds[SEVEN[1]]
    changed = {
        "both": {"seeds": {**seeds, SEVEN[0]: some}, "masks": masks},
        "missing": {"seeds": {name: item for name, item in seeds.items() if name != SEVEN[1]}, "masks": masks},
        "stranger": {"seeds": {**seeds, "device-99": some}, "masks": masks},
        "short": {"seeds": {**seeds, SEVEN[1]: some[:-1]}, "masks": masks},
        "swapped": {"seeds": masks, "masks": seeds},
        "no map": {"seeds": list(seeds.values()), "masks": masks},
    }[change]
    assert heard(adversary, instead=lie(adversary, Kind.REVEAL, changed)) in {"shares", "malformed"}
    adversary.up = [(name, message) for name, message in adversary.up if name != LIAR]
    adversary.finish(adversary.next_down())


@pytest.mark.parametrize("value", ["zero", "one", "largest", "another's"])
@pytest.mark.parametrize("liars", [1, 2, 3])
def test_wrong_shares(value, liars):
    """Each secret is checked against its commitment or public key, and tried from other shares if there are some."""
    adversary = revealing()
    bodies = {name: body_of(message) for name, message in adversary.up}
    wrong = {
        "zero": lambda share, name: bytes(33),
        "one": lambda share, name: share[:-1] + bytes([share[-1] ^ 1]),
        "largest": lambda share, name: b"\xff" * 33,
        "another's": lambda share, name: bodies[LIAR if name != LIAR else SEVEN[0]]["seeds"][name],
    }[value]
    for name in SEVEN[2 : 2 + liars]:
        seeds = {owner: wrong(share, owner) for owner, share in bodies[name]["seeds"].items()}
        forged = forge(adversary.federation, Kind.REVEAL, {**bodies[name], "seeds": seeds}, sender=name)
        adversary.up = [(who, forged if who == name else message) for who, message in adversary.up]
    if liars <= 2:  # five right ones are among the seven, next to each other in one order or another
        adversary.finish(adversary.next_down())
        return
    with pytest.raises(SecAggError) as caught:
        adversary.next_down()
    assert caught.value.code == "shares"
    assert adversary.aggregator.result is None


@pytest.mark.parametrize("places", [(1, 4), (0, 3), (2, 6)])
def test_two_wrong_shares_far_apart(places):
    """Two liars among seven, five right shares: the sum comes out, or the round is given up."""
    adversary = revealing()
    for name in (SEVEN[place] for place in places):
        body = body_of(dict(adversary.up)[name])
        seeds = {owner: share[:-1] + bytes([share[-1] ^ 1]) for owner, share in body["seeds"].items()}
        forged = forge(adversary.federation, Kind.REVEAL, {**body, "seeds": seeds}, sender=name)
        adversary.up = [(who, forged if who == name else message) for who, message in adversary.up]
    try:
        adversary.finish(adversary.next_down())
    except SecAggError as error:
        assert error.code == "shares"  # noqa: PT017
        assert adversary.aggregator.result is None


@pytest.mark.parametrize("what", ["commitment", "shares of the seed", "shares of the mask key"])
def test_secrets_that_were_shared_wrongly(what):
    """The liar commits to one seed and shares another, or its shares lie on no polynomial: a typed abort."""
    from fedmesh.secagg import shares as sharing

    adversary = before(Kind.SHARES)
    state = adversary.devices[LIAR]._state
    body = body_of(dict(adversary.up)[LIAR])
    seed, mask = state.seed, state.mask
    if what == "commitment":
        body["commitment"] = bytes(32)
    else:
        other = bytes(range(32))
        pairs = sharing.split_pairs(
            other if "seed" in what else seed, mask if "seed" in what else other, threshold=5, cohort=SEVEN
        )
        body["sealed"] = {
            name: sharing.seal_pair(pairs[name], state.channels[name], state.session, LIAR, name)
            for name in body["sealed"]
        }
        state.held = {LIAR: pairs[LIAR]}
    adversary.up = [item for item in adversary.up if item[0] != LIAR]
    adversary.up.append((LIAR, lie(adversary, Kind.SHARES, body)))
    adversary.deliver(adversary.next_down())
    lost = (LIAR,) if what == "shares of the mask key" else ()
    adversary.up = [item for item in adversary.up if item[0] not in lost]
    with pytest.raises(SecAggError) as caught:
        adversary.finish(adversary.next_down())
    assert caught.value.code == "shares"
    assert adversary.aggregator.step == "aborted"
