"""An aggregator that swaps, copies, weakens or withholds keys and sealed shares (R0, R1), against real devices."""

import pytest
from secagg_adversary import Adversary, body_of, forge
from secagg_sessions import AGGREGATOR, Federation, header, identity, names, roster

from fedmesh import wire
from fedmesh.secagg import Aggregator, Identity, Participant, Policy, Roster, SecAggError
from fedmesh.secagg.agreement import KeyPair
from fedmesh.secagg.messages import Kind, read, sign_envelope
from fedmesh.secagg.session import binding

FOUR, SEVEN = names(4), names(7)
P = 2**255 - 19
LOW_ORDER = [  # of curve25519 and its twist, RFC 7748 section 7 and Bernstein's list, canonical and not
    bytes(32),
    (1).to_bytes(32, "little"),
    (P - 1).to_bytes(32, "little"),
    P.to_bytes(32, "little"),
    (P + 1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


def advert(federation, name, keys, *, key=None, about=None):
    """Keys and signature as they stand in a keys message, signed by `key` or by the device itself."""
    made = about or federation.header
    message = sign_envelope(
        Kind.ADVERTISE, keys, session=binding(made, federation.roster), sid=made.sid, sender=name,
        identity=key or identity(name),
    )  # fmt: skip
    return keys + read(message, max_bytes=1 << 16).signature


def pair():
    return KeyPair.generate().public + KeyPair.generate().public


def tampered(count=7):
    """An adversary, the honest keys messages, the body of one of them, and a victim."""
    adversary = Adversary(Federation.of(count))
    adversary.shares.add(b"?" * 33)  # there are none yet
    honest = adversary.until(Kind.KEYS)
    return adversary, honest, body_of(honest[names(count)[0]])


def refused(adversary, body, *codes):
    adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.KEYS, body), *codes)


def test_keys_that_the_aggregator_made():
    """Under its own identity, under a fresh one that it says is the device's, or with no signature at all."""
    adversary, honest, body = tampered()
    federation = adversary.federation
    for entry in (
        advert(federation, SEVEN[3], pair(), key=identity(AGGREGATOR)),
        advert(federation, SEVEN[3], pair(), key=Identity.generate()),
        advert(federation, SEVEN[3], pair(), key=identity(SEVEN[4])),
        advert(federation, SEVEN[4], pair()),  # device-04's, in device-03's place
        pair() + bytes(64),
        body[SEVEN[3]][:64] + body[SEVEN[4]][64:],
        body[SEVEN[3]][32:64] + body[SEVEN[3]][:32] + body[SEVEN[3]][64:],  # the two keys swapped
    ):
        refused(adversary, {**body, SEVEN[3]: entry}, "signature")
    adversary.finish(honest)


def test_keys_under_an_identity_that_the_aggregator_delivered():
    """A device with another key for a member on its roster is in another session: nothing that the others sign fits."""
    adversary, honest, _ = tampered()
    federation = adversary.federation
    forged = Roster({**roster(7).keys, SEVEN[3]: Identity.generate().public})
    victim = Participant(SEVEN[0], identity(SEVEN[0]), forged, Policy())
    victim.begin(federation.header, federation.vectors[SEVEN[0]])
    with pytest.raises(SecAggError) as caught:
        victim.handle(honest[SEVEN[0]])
    assert caught.value.code == "signature"


@pytest.mark.parametrize(
    "missing", [{AGGREGATOR}, {SEVEN[2]}, {SEVEN[0]}], ids=["the aggregator", "a member", "the device itself"]
)
def test_somebody_is_not_on_the_roster(missing):
    """Sessions with strangers are refused at the door; with an aggregator that is none, at its first message."""
    adversary, honest, _ = tampered()
    federation = adversary.federation
    smaller = Roster({name: key for name, key in roster(7).keys.items() if name not in missing})
    if missing == {SEVEN[0]}:
        with pytest.raises(SecAggError) as caught:
            Participant(SEVEN[0], identity(SEVEN[0]), smaller, Policy()).join(federation.header)
    elif missing == {SEVEN[2]}:
        victim = Participant(SEVEN[0], identity(SEVEN[0]), smaller, Policy())
        with pytest.raises(SecAggError) as caught:
            victim.begin(federation.header, federation.vectors[SEVEN[0]])
    else:
        victim = Participant(SEVEN[0], identity(SEVEN[0]), smaller, Policy())
        victim.begin(federation.header, federation.vectors[SEVEN[0]])
        with pytest.raises(SecAggError) as caught:
            victim.handle(honest[SEVEN[0]])
        with pytest.raises(SecAggError):
            Aggregator(federation.header, identity(AGGREGATOR), smaller)
    assert caught.value.code == "identity"


def test_a_device_with_another_identity_than_the_rosters():
    with pytest.raises(SecAggError) as caught:
        Participant(SEVEN[0], Identity.generate(), roster(7), Policy()).join(header(7))
    assert caught.value.code == "identity"


def test_copied_keys():
    """The device's own, a peer's, or one key in both places: signed by a device in league with the aggregator."""
    adversary, honest, body = tampered()
    own, peer = body[SEVEN[0]][:64], body[SEVEN[1]][:64]
    fresh = pair()
    high_bit = bytes([*own[:31], own[31] | 0x80])
    for keys in (
        own,
        peer,
        own[:32] + fresh[32:],
        fresh[:32] + own[32:],
        own[32:] + fresh[32:],  # its mask key as a cipher key
        fresh[:32] + peer[:32],
        fresh[:32] * 2,
        high_bit + fresh[32:],  # the same point, another encoding
        fresh[:32] + high_bit,
    ):
        refused(adversary, {**body, SEVEN[6]: advert(adversary.federation, SEVEN[6], keys)}, "identity")
    adversary.finish(honest)


@pytest.mark.parametrize("place", ["cipher", "mask"])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_keys(point, place):
    """With such a key the shared secret would be known to everybody."""
    adversary, honest, body = tampered()
    fresh = KeyPair.generate().public
    keys = point + fresh if place == "cipher" else fresh + point
    refused(adversary, {**body, SEVEN[6]: advert(adversary.federation, SEVEN[6], keys)}, "identity")
    adversary.finish(honest)


@pytest.mark.parametrize("place", ["cipher", "mask"])
@pytest.mark.parametrize("point", LOW_ORDER[:4])
def test_one_device_with_a_low_order_key_does_not_end_the_round(point, place):
    """The honest aggregator leaves it out at once, and sums the others."""
    federation = Federation.of(7)
    devices, aggregator = federation.devices(), federation.aggregator()
    fresh = KeyPair.generate().public
    keys = point + fresh if place == "cipher" else fresh + point
    up = federation.begin(devices)
    with pytest.raises(SecAggError) as caught:
        aggregator.handle(SEVEN[6], forge(federation, Kind.ADVERTISE, keys, sender=SEVEN[6]))
    assert caught.value.code == "identity"
    for name in SEVEN[:6]:
        aggregator.handle(name, up[name])
    down = aggregator.advance()
    while aggregator.result is None:
        up = [(name, devices[name].handle(message)) for name, message in down]
        down = [sent for name, message in up for sent in aggregator.handle(name, message)]
    assert aggregator.result.survivors == SEVEN[:6]
    assert aggregator.result.total.tolist() == federation.sum_over(SEVEN[:6])[:-1]


def test_the_devices_own_entry():
    adversary, honest, body = tampered()
    for changed in (
        {name: entry for name, entry in body.items() if name != SEVEN[0]},
        {**body, SEVEN[0]: advert(adversary.federation, SEVEN[0], pair())},
        {**body, SEVEN[0]: body[SEVEN[1]]},
    ):
        refused(adversary, changed, "identity")
    adversary.finish(honest)


def test_too_few_or_strange_members():
    adversary, honest, body = tampered()
    federation = adversary.federation
    few = {name: body[name] for name in SEVEN[:4]}  # t = 5
    refused(adversary, few, "threshold")
    for stranger in (AGGREGATOR, "device-99", "", SEVEN[1] + " "):
        refused(adversary, {**few, stranger: body[SEVEN[1]]}, "consistency", "identity", "threshold")
    for malformed in (list(body.values()), {**body, SEVEN[1]: body[SEVEN[1]][:-1]}, {1: body[SEVEN[0]]}, None, b"", {}):
        refused(adversary, malformed, "malformed", "identity", "threshold")
    assert federation.header.threshold == 5
    adversary.finish(honest)


def test_keys_of_another_session():
    """Adverts of the round before, of another attempt, or under another header, with valid signatures of their time."""
    adversary, honest, body = tampered()
    for changes in ({"round": 2}, {"attempt": 2}, {"model_hash": b"other"}, {"threshold": 6, "min_cohort": 6}):
        entry = advert(adversary.federation, SEVEN[3], pair(), about=header(7, **changes))
        refused(adversary, {**body, SEVEN[3]: entry}, "signature")
    adversary.finish(honest)


def test_different_headers_for_different_devices():
    """One device was told of another session (a different model, a lower threshold): its keys fit nobody else's."""
    federation = Federation.of(7)
    aggregator = federation.aggregator()
    devices = federation.devices()
    up = federation.begin(devices)
    up[SEVEN[6]] = devices[SEVEN[6]].begin(header(7, round=4, model_hash=b"other"), federation.vectors[SEVEN[6]])
    with pytest.raises(SecAggError) as caught:
        aggregator.handle(SEVEN[6], up[SEVEN[6]])
    assert caught.value.code == "session"
    assert SEVEN[6] in aggregator.awaiting


# The sealed shares.


def deliveries(count=7):
    adversary = Adversary(Federation.of(count))
    honest = adversary.until(Kind.DELIVERIES)
    return adversary, honest, body_of(honest[names(count)[0]])


def refused_delivery(adversary, body, *codes):
    adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.DELIVERIES, body), *codes)


def test_sealed_shares_in_the_wrong_place():
    """From another sender, for another receiver, of another session, altered, or one sender's twice."""
    adversary, honest, body = deliveries()
    for_another = body_of(honest[SEVEN[1]])
    other = Adversary(Federation.of(7, round=2))
    earlier = body_of(other.until(Kind.DELIVERIES)[SEVEN[0]])
    flipped = bytes([*body[SEVEN[3]][:-1], body[SEVEN[3]][-1] ^ 1])
    for entry in (
        body[SEVEN[4]],
        for_another[SEVEN[3]],
        for_another[SEVEN[0]],  # its own, for another
        earlier[SEVEN[3]],
        flipped,
        bytes(len(flipped)),
    ):
        refused_delivery(adversary, {**body, SEVEN[3]: entry}, "signature")
    adversary.finish(honest)


def test_cross_round_ciphertexts_between_the_same_devices_and_keys():
    """Even if two sessions had the same channel keys, session, sender and receiver are bound into every share."""
    from fedmesh.secagg import shares

    channel, sessions = bytes(range(32)), (b"a" * 32, b"b" * 32)
    sealed = shares.seal_pair(bytes(66), channel, sessions[0], SEVEN[1], SEVEN[0])
    assert shares.open_pair(sealed, channel, sessions[0], SEVEN[1], SEVEN[0]) == bytes(66)
    for session, sender, receiver in (
        (sessions[1], SEVEN[1], SEVEN[0]),
        (sessions[0], SEVEN[0], SEVEN[1]),
        (sessions[0], SEVEN[2], SEVEN[0]),
        (sessions[0], SEVEN[1], SEVEN[2]),
    ):
        with pytest.raises(SecAggError) as caught:
            shares.open_pair(sealed, channel, session, sender, receiver)
        assert caught.value.code == "signature"


def test_deliveries_from_too_few_or_strangers():
    adversary, honest, body = deliveries()
    few = {name: body[name] for name in SEVEN[1:4]}  # with its own: 4 of the 5 that are needed
    refused_delivery(adversary, few, "threshold")
    for stranger in (AGGREGATOR, "device-99", ""):
        refused_delivery(adversary, {**few, stranger: body[SEVEN[1]]}, "consistency", "identity")
    refused_delivery(adversary, {**body, SEVEN[0]: body[SEVEN[1]]}, "shares")  # itself
    for malformed in ([], None, {**body, SEVEN[1]: body[SEVEN[1]][:-1]}, {**body, SEVEN[1]: ""}):
        refused_delivery(adversary, malformed, "malformed")
    adversary.finish(honest)


def test_shares_of_a_device_whose_keys_were_withheld():
    """Somebody who was left out of the keys message cannot be brought back by its shares."""
    adversary = Adversary(Federation.of(7))
    honest = adversary.until(Kind.KEYS)
    without = {name: entry for name, entry in body_of(honest[SEVEN[0]]).items() if name != SEVEN[6]}
    adversary.deliver({**honest, SEVEN[0]: forge(adversary.federation, Kind.KEYS, without)})
    sealed = {name: body_of(message)["sealed"] for name, message in adversary.up}
    body = {name: sealed[name][SEVEN[0]] for name in SEVEN[1:]}
    adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.DELIVERIES, body), "consistency")


def test_messages_of_the_wrong_step():
    """Each kind of message at each step where it is not awaited, honest or forged."""
    for step in (Kind.KEYS, Kind.DELIVERIES, Kind.SURVIVORS, Kind.QUORUM):
        adversary = Adversary(Federation.of(4))
        adversary.shares.add(b"?" * 33)
        honest = adversary.until(step)
        for kind in Kind:
            if kind is not step:
                message = forge(adversary.federation, kind, body_of(honest[FOUR[0]]))
                adversary.refuses(FOUR[0], message, "turn")
        adversary.finish(honest)


def test_another_party_takes_over():
    """From the first message on one aggregator is obeyed, though others are on the roster too."""
    adversary, honest, body = deliveries()
    message = forge(adversary.federation, Kind.DELIVERIES, body, sender=SEVEN[2])
    adversary.refuses(SEVEN[0], message, "identity")
    adversary.finish(honest)


@pytest.mark.parametrize("kind", [Kind.KEYS, Kind.DELIVERIES, Kind.SURVIVORS, Kind.QUORUM])
def test_messages_without_the_aggregators_signature(kind):
    """Altered in any part: body, sender, kind, session, signature; or signed by somebody else."""
    adversary = Adversary(Federation.of(4))
    adversary.shares.add(b"?" * 33)
    honest = adversary.until(kind)
    code, sid, sender, body, signature = wire.loads(honest[FOUR[0]], max_bytes=1 << 20)
    broken = bytes([*signature[:-1], signature[-1] ^ 1])
    for parts, codes in (
        ([code, sid, sender, body, broken], {"signature"}),
        ([code, sid, sender, body, bytes(64)], {"signature"}),
        ([code, sid, sender, body + b"\xf6", signature], {"signature"}),
        ([code, sid, FOUR[1], body, signature], {"signature", "identity"}),
        ([code, sid, "nobody", body, signature], {"identity"}),
        ([code, bytes(32), sender, body, signature], {"session"}),
        ([code + 1, sid, sender, body, signature], {"turn"}),
        ([99, sid, sender, body, signature], {"malformed"}),
        ([True, sid, sender, body, signature], {"malformed", "turn"}),
        ([code, sid, sender, body], {"malformed"}),
        ([code, sid, sender, body, signature, b""], {"malformed"}),
        ([code, sid, sender, body, signature[:-1]], {"malformed"}),
        ([code, sid[:-1], sender, body, signature], {"malformed"}),
        ([code, sid, sender, body.hex(), signature], {"malformed"}),
        ({}, {"malformed"}),
    ):
        adversary.refuses(FOUR[0], wire.dumps(parts), *codes)
    adversary.finish(honest)
