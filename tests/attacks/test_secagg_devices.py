"""Devices that lie to an honest aggregator: the right sum of the others, or a typed abort; never a wrong sum.

What they can always do is put a false vector of the right form into the sum: that is poisoning, and nothing sees it.
"""

import tracemalloc

import numpy as np
import pytest
from secagg_adversary import Adversary, body_of, forge
from secagg_sessions import AGGREGATOR, Federation, identity, names

from fedmesh import wire
from fedmesh.secagg import Aggregator, Ring, Roster, SecAggError
from fedmesh.secagg.messages import Kind, masked_body

SEVEN = names(7)
LIAR = SEVEN[6]
UP = (Kind.ADVERTISE, Kind.SHARES, Kind.MASKED, Kind.SIGNATURE)


def before(kind, **changes):
    """A session in which the devices' messages of this kind are under way; none is heard yet."""
    adversary = Adversary(Federation.of(7, **changes))
    while _kind(adversary) is not kind:
        adversary.deliver(adversary.next_down())
    return adversary


def _kind(adversary):
    return Kind(wire.loads(adversary.up[0][1], max_bytes=1 << 24)[0])


def heard(adversary, *, instead):
    """The aggregator hears the liar's message instead of its honest one, and refuses it; then all the others."""
    with pytest.raises(SecAggError) as caught:
        adversary.aggregator.handle(LIAR, instead)
    assert LIAR in adversary.aggregator.awaiting
    return caught.value.code


def goes_on_without_the_liar(adversary):
    adversary.up = [(name, message) for name, message in adversary.up if name != LIAR]
    adversary.devices = {name: device for name, device in adversary.devices.items() if name != LIAR}
    while adversary.aggregator.result is None:
        down = adversary.next_down()
        adversary.deliver({name: message for name, message in down.items() if name != LIAR})
    result = adversary.aggregator.result
    assert [*result.total.tolist(), result.weight] == adversary.federation.sum_over(result.survivors)
    return result


def lie(adversary, kind, body):
    return forge(adversary.federation, kind, body, sender=LIAR)


@pytest.mark.parametrize("body", [b"", bytes(63), bytes(65), "x" * 64, [bytes(32), bytes(32)], None, {}, 7])
def test_keys_that_are_none(body):
    adversary = before(Kind.ADVERTISE)
    assert heard(adversary, instead=lie(adversary, Kind.ADVERTISE, body)) == "malformed"
    assert goes_on_without_the_liar(adversary).survivors == SEVEN[:6]


def test_a_body_that_cannot_be_read():
    """Signed by a member, and no CBOR at all."""
    from fedmesh.secagg.messages import _signed
    from fedmesh.secagg.session import binding

    for kind in UP:
        adversary = before(kind)
        federation = adversary.federation
        session = binding(federation.header, federation.roster)
        for body in (b"", b"\xff", b"\x9f", b"\x81" * 100, b"\x5b" + b"\xff" * 8):
            signature = identity(LIAR).sign(_signed(kind, session, LIAR, body))
            message = wire.dumps([int(kind), federation.header.sid, LIAR, body, signature])
            assert heard(adversary, instead=message) == "malformed"
        goes_on_without_the_liar(adversary)


def test_the_keys_of_another():
    adversary = before(Kind.ADVERTISE)
    honest = dict(adversary.up)
    adversary.aggregator.handle(SEVEN[0], honest[SEVEN[0]])
    adversary.up = adversary.up[1:]
    copied = body_of(honest[SEVEN[0]])
    assert heard(adversary, instead=lie(adversary, Kind.ADVERTISE, copied)) == "identity"
    assert goes_on_without_the_liar(adversary).survivors == SEVEN[:6]


@pytest.mark.parametrize("kind", UP)
def test_messages_in_anothers_name(kind):
    """Under its own connection or the victim's, with its own signature or none."""
    adversary = before(kind)
    honest = dict(adversary.up)
    body = body_of(honest[SEVEN[0]])
    code, sid, sender, raw, _ = wire.loads(honest[SEVEN[0]], max_bytes=1 << 20)
    for sender_seen, message, wanted in (
        (LIAR, honest[SEVEN[0]], "identity"),
        (SEVEN[0], lie(adversary, kind, body), "identity"),
        (SEVEN[0], wire.dumps([code, sid, sender, raw, bytes(64)]), "signature"),
        (AGGREGATOR, forge(adversary.federation, kind, body), "replay"),  # not a member
        ("device-99", wire.dumps([code, sid, "device-99", raw, bytes(64)]), "replay"),
    ):
        with pytest.raises(SecAggError) as caught:
            adversary.aggregator.handle(sender_seen, message)
        assert caught.value.code == wanted
    assert adversary.aggregator.awaiting == set(SEVEN)
    adversary.finish(adversary.next_down())


@pytest.mark.parametrize("kind", [*UP, Kind.REVEAL])
def test_a_second_message_in_a_step(kind):
    """An exact copy is dropped, a different one refused: an input or a share counts once."""
    adversary = before(kind)
    honest = dict(adversary.up)
    adversary.aggregator.handle(LIAR, honest[LIAR])
    adversary.up = [(name, message) for name, message in adversary.up if name != LIAR]
    assert adversary.aggregator.handle(LIAR, honest[LIAR]) == []
    body = body_of(honest[LIAR])
    other = {**body, "more": 1} if isinstance(body, dict) else bytes(64)
    with pytest.raises(SecAggError) as caught:
        adversary.aggregator.handle(LIAR, lie(adversary, kind, other))
    assert caught.value.code == "replay"
    assert adversary.aggregator.handle(LIAR, honest[LIAR]) == []
    adversary.finish(adversary.next_down())


def test_messages_that_come_late_are_dropped():
    adversary = Adversary(Federation.of(7))
    late = []
    while adversary.aggregator.result is None:
        late += adversary.up
        adversary.deliver(adversary.next_down())
        for name, message in late:
            assert adversary.aggregator.handle(name, message) == []
    adversary.finish({})


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


@pytest.mark.parametrize(
    "change", ["other ring", "short", "long", "padded", "negative", "huge", "text", "no bits", "bool", "huge ring"]
)
def test_masked_inputs_of_another_form(change):
    adversary = before(Kind.MASKED)
    ring = adversary.federation.header.ring
    body = body_of(dict(adversary.up)[LIAR])
    other = Ring(ring.bits + 1)
    changed = {
        "other ring": masked_body(other, np.ones(4, other.dtype)),
        "short": masked_body(ring, np.ones(3, ring.dtype)),
        "long": masked_body(ring, np.ones(5, ring.dtype)),
        "padded": {**body, "packed": body["packed"] + b"\x00"},
        "negative": {**body, "length": -4},
        "huge": {**body, "length": 1 << 62},
        "text": {**body, "packed": body["packed"].hex()},
        "no bits": {"length": body["length"], "packed": body["packed"]},
        "bool": {**body, "bits": True},
        "huge ring": {**body, "bits": 1 << 62},
    }[change]
    assert heard(adversary, instead=lie(adversary, Kind.MASKED, changed)) in {"malformed", "ring"}
    assert goes_on_without_the_liar(adversary).survivors == SEVEN[:6]


def test_a_weight_beyond_what_the_survivors_can_have():
    """The sum of weights is checked at the end; a liar can stop the round by it, not make it count more."""
    adversary = before(Kind.MASKED, weight_cap=2)
    ring = adversary.federation.header.ring
    body = body_of(dict(adversary.up)[LIAR])
    vector = ring.unpack(body["packed"], body["length"])
    vector[-1] += ring.dtype.type(100)
    adversary.up = [item for item in adversary.up if item[0] != LIAR]
    adversary.up.append((LIAR, lie(adversary, Kind.MASKED, masked_body(ring, ring.reduce(vector)))))
    with pytest.raises(SecAggError) as caught:
        adversary.finish(adversary.next_down())
    assert caught.value.code == "weight"
    assert adversary.aggregator.result is None
    assert adversary.aggregator.step == "aborted"


@pytest.mark.parametrize("signed", ["another set", "nothing"])
def test_a_signature_over_something_else(signed):
    adversary = before(Kind.SIGNATURE)
    honest = dict(adversary.up)
    body = {"signature": {"another set": identity(LIAR).sign(b"another set"), "nothing": bytes(64)}[signed]}
    assert heard(adversary, instead=lie(adversary, Kind.SIGNATURE, body)) == "consistency"
    copied = body_of(honest[SEVEN[0]])
    assert heard(adversary, instead=lie(adversary, Kind.SIGNATURE, copied)) == "consistency"
    assert goes_on_without_the_liar(adversary).survivors == SEVEN


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


def test_an_aggregator_that_is_over_says_so():
    adversary = Adversary(Federation.of(7))
    up = dict(adversary.up)
    for name in SEVEN[:4]:
        adversary.aggregator.handle(name, up[name])
    for _ in range(2):
        with pytest.raises(SecAggError):
            adversary.aggregator.advance()
    assert adversary.aggregator.step == "aborted"
    assert adversary.aggregator.handle(SEVEN[5], up[SEVEN[5]]) == []
    assert adversary.aggregator.awaiting == frozenset()


def test_a_large_message_is_not_read():
    """Longer than any message of the session can be: refused before it is decoded, in no memory of its own."""
    adversary = before(Kind.ADVERTISE)
    message = wire.dumps([1, bytes(32), LIAR, bytes(1 << 24), bytes(64)])
    nested = b"\x81" * (1 << 24)
    tracemalloc.start()
    try:
        for data in (message, nested):
            with pytest.raises(SecAggError):
                adversary.aggregator.handle(LIAR, data)
            with pytest.raises(SecAggError):
                adversary.devices[LIAR].handle(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_aggregator_without_an_identity():
    federation = Federation.of(7)
    with pytest.raises(SecAggError) as caught:
        Aggregator(federation.header, identity("nobody"), federation.roster)
    assert caught.value.code == "identity"
    smaller = Roster({name: key for name, key in federation.roster.keys.items() if name != LIAR})
    with pytest.raises(SecAggError) as caught:
        Aggregator(federation.header, identity(AGGREGATOR), smaller)
    assert caught.value.code == "identity"


def test_a_poisoned_input_of_the_right_form_is_not_noticed():
    """The known limit: a device may say what it likes about its own data, within the bound of every element."""
    federation = Federation.of(7)
    bound = federation.header.ring.largest_value(7, 1)
    federation.vectors[LIAR] = np.full(3, bound)
    adversary = Adversary(federation)
    adversary.finish(adversary.until(Kind.QUORUM))


def test_results_that_are_changed_do_not_verify():
    import dataclasses

    adversary = Adversary(Federation.of(7))
    adversary.finish(adversary.until(Kind.QUORUM))
    result, federation = adversary.aggregator.result, adversary.federation
    four = dict(list(result.signatures.items())[:4])
    for changes in (
        {"total": result.total + 1},
        {"weight": result.weight + 1},
        {"survivors": result.survivors[:6]},
        {"survivors": result.survivors[::-1]},
        {"signatures": four},
        {"signatures": {**four, SEVEN[5]: bytes(64)}},
        {"signature": bytes(64)},
        {"aggregator": SEVEN[0]},
        {"sid": bytes(32)},
        {"context": bytes(32)},
    ):
        with pytest.raises(SecAggError):
            dataclasses.replace(result, **changes).verify(federation.header, federation.roster)
    result.verify(federation.header, federation.roster)
