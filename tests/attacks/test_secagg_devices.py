"""Devices that lie to an honest aggregator in any other way than about shares: the right sum, or a typed abort.

What they can always do is put a false vector of the right form into the sum: that is poisoning, and nothing sees it.
"""

import tracemalloc

import numpy as np
import pytest
from secagg_adversary import Adversary, body_of, forge
from secagg_liars import LIAR, SEVEN, before, goes_on_without_the_liar, heard, lie
from secagg_sessions import AGGREGATOR, Federation, identity

from fedmesh import wire
from fedmesh.secagg import Aggregator, Ring, Roster, SecAggError
from fedmesh.secagg.messages import Kind, masked_body

UP = (Kind.ADVERTISE, Kind.SHARES, Kind.MASKED, Kind.SIGNATURE)


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
