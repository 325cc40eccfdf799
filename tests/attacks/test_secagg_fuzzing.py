"""Bytes that nobody sent on purpose, at every decoder of secure aggregation: SecAggError, little memory, and no change.

Mutations start from real messages of every kind, so that they get past the first checks; and bodies are replaced under
valid signatures, so that they get past the signature as well.
"""

import functools
import tracemalloc

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from secagg_adversary import Adversary, body_of, forge
from secagg_sessions import AGGREGATOR, Federation, header, identity, names, roster

from fedmesh import wire
from fedmesh.secagg import Participant, Roster, SecAggError, SessionHeader, decode_masked
from fedmesh.secagg.aggregator import STEPS
from fedmesh.secagg.messages import Kind

FOUR = names(4)
DOWN = (Kind.KEYS, Kind.DELIVERIES, Kind.SURVIVORS, Kind.QUORUM)
MUCH = 1 << 21

scalars = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | st.text(max_size=5)
plain = st.recursive(
    scalars | st.binary(max_size=40) | st.sampled_from([bytes(32), bytes(33), bytes(64), bytes(94), bytes(128), *FOUR]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from([*FOUR, AGGREGATOR, "seeds", "masks", "sealed", "bits"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=12,
)


@functools.cache
def session():
    """A whole session: every message that was sent, its devices before each step, and its aggregator's headers."""
    messages, sealed = {}, {}
    adversary = Adversary(Federation.of(4))
    up, down = adversary.up, adversary.next_down()
    for kind in DOWN:
        messages[Kind(kind - 1)], messages[kind] = up[0][1], down[FOUR[0]]
        sealed[kind] = adversary.devices[FOUR[0]].seal()
        adversary.deliver(down)
        up = adversary.up
        down = adversary.next_down() if adversary.aggregator.step != "unmask" else {}
    messages[Kind.REVEAL] = up[0][1]
    return messages, sealed


def device(kind):
    """Device 0 as it waits for a message of this kind; without a store, so that it is made quickly."""
    return Participant.unseal(FOUR[0], identity(FOUR[0]), roster(4), None, session()[1][kind])


@functools.cache
def aggregator_at(step):
    adversary = Adversary(Federation.of(4))
    while adversary.aggregator.step != step:
        adversary.deliver(adversary.next_down())
    return adversary.aggregator


def mutated(data, draw):
    """Some bytes changed, cut out, doubled, or put behind each other."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["change", "cut", "double", "end", "insert"])):
            case "change":
                data = data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :]
            case "cut":
                data = data[:place] + data[place + draw(st.integers(1, 40)) :]
            case "double":
                data = data[:place] + data[place:] * 2
            case "end":
                data = data[:place]
            case _:
                data = data[:place] + draw(st.binary(max_size=12)) + data[place:]
    return data


def refusal(act, *arguments):
    """The error, with a message of bounded length; None if there is none. Any error but SecAggError is let through."""
    try:
        act(*arguments)
    except SecAggError as error:
        return error if len(str(error)) < 1000 else pytest.fail(f"{len(str(error))} characters")
    return None


def decoders():
    """Everything that reads bytes of others: name -> (function, a valid example)."""
    from fedmesh.secagg.messages import read, ring_vector

    messages, sealed = session()
    made = header(4)
    raw = wire.loads(messages[Kind.MASKED], max_bytes=MUCH)[3]
    return {
        "header": (SessionHeader.from_bytes, made.to_bytes()),
        "roster": (Roster.from_bytes, roster(4).to_bytes()),
        "masked": (decode_masked, messages[Kind.MASKED]),
        "vector": (ring_vector, raw),
        "envelope": (functools.partial(read, max_bytes=MUCH), messages[Kind.KEYS]),
        "state": (
            lambda data: Participant.unseal(FOUR[0], identity(FOUR[0]), roster(4), None, data),
            sealed[Kind.KEYS],
        ),
    }


@pytest.mark.parametrize("which", ["header", "roster", "masked", "vector", "envelope", "state"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_bytes_at_every_decoder(which, data):
    decode, valid = decoders()[which]
    decode(valid)
    for garbage in (mutated(valid, data.draw), data.draw(st.binary(max_size=60)), wire.dumps(data.draw(plain))):
        refusal(decode, garbage)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_plain_data_in_the_fields_of_a_header(data):
    fields = wire.loads(header(4).to_bytes(), max_bytes=MUCH)
    for field in data.draw(st.sets(st.sampled_from(sorted(fields)), min_size=1, max_size=3)):
        fields[field] = data.draw(plain)
    try:
        made = SessionHeader.from_bytes(wire.dumps(fields))
    except SecAggError:
        return
    assert SessionHeader.from_bytes(made.to_bytes()).sid == made.sid
    refusal(Participant(FOUR[0], identity(FOUR[0]), roster(4)).join, made)


@pytest.mark.parametrize("kind", DOWN)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_mutated_messages_at_a_device(kind, data):
    """Refused, unchanged; the right message is then answered as ever."""
    participant = device(kind)
    right = session()[0][kind]
    for garbage in (mutated(right, data.draw), data.draw(st.binary(max_size=60))):
        if garbage == right:
            continue
        with pytest.raises(SecAggError) as caught:
            participant.handle(garbage)
        assert len(str(caught.value)) < 2000
    assert participant.handle(right) is not None


@pytest.mark.parametrize("kind", DOWN)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_body_under_a_valid_signature_at_a_device(kind, data):
    """The aggregator's own key signs it: what does not fit is refused, and nothing has changed."""
    federation, participant = Federation.of(4), device(kind)
    right = session()[0][kind]
    body = body_of(right)
    if isinstance(body, dict):
        for name in data.draw(st.sets(st.sampled_from([*FOUR, "x"]), max_size=2)):
            body[name] = data.draw(plain)
    for tampered in (body, data.draw(plain)):
        if tampered == body_of(right):
            continue
        if refusal(participant.handle, forge(federation, kind, tampered)) is None:
            # Some bodies are as good as the honest one: a set in another order, or fewer signatures or peers.
            assert set(tampered) <= {*body_of(right), *FOUR}
            return
    assert participant.handle(right) is not None


UP = dict(zip(STEPS, (Kind.ADVERTISE, Kind.SHARES, Kind.MASKED, Kind.SIGNATURE, Kind.REVEAL), strict=True))


@pytest.mark.parametrize("step", list(UP))
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_message_at_the_aggregator(step, data):
    """Mutated, or signed by a member with another body: refused, and the member is still awaited."""
    aggregator, kind = aggregator_at(step), UP[step]
    federation = Federation.of(4)
    body = data.draw(plain)
    real = session()[0][kind]
    if data.draw(st.booleans()) and isinstance(body_of(real), dict):
        changed = body_of(real)
        changed[data.draw(st.sampled_from(sorted(changed)))] = body
        body = changed
    assume(body != body_of(real))
    for message in (forge(federation, kind, body, sender=FOUR[1]), mutated(real, data.draw)):
        assert refusal(aggregator.handle, FOUR[1], message) is not None
        assert aggregator.awaiting == set(FOUR)


def test_little_memory_for_what_is_only_announced():
    """Lengths, counts and widths that are said and not there cost nothing."""
    messages, _ = session()
    envelope = wire.loads(messages[Kind.MASKED], max_bytes=MUCH)
    huge = [
        wire.dumps({"bits": 62, "length": 1 << 40, "packed": b"1234"}),
        wire.dumps({"bits": 2, "length": (1 << 62) + 1, "packed": b""}),
        b"\x9b" + b"\x7f" * 8,
        b"\xbb" + b"\x7f" * 8,
        b"\x5b" + b"\x7f" * 8,
        b"\xa1" * 5000,
    ]
    header_bytes = header(4).to_bytes()
    tracemalloc.start()
    try:
        for body in huge:
            for message in (wire.dumps([*envelope[:3], body, envelope[4]]), body):
                for read in (decode_masked, SessionHeader.from_bytes, Roster.from_bytes, device(Kind.KEYS).handle):
                    with pytest.raises(SecAggError):
                        read(message)
        with pytest.raises(SecAggError):
            SessionHeader.from_bytes(header_bytes + bytes(1 << 19))
        assert tracemalloc.get_traced_memory()[1] < MUCH
    finally:
        tracemalloc.stop()


def test_a_long_name_is_not_repeated_in_an_error():
    """What a stranger writes is cut before it gets into a message, a log or a report."""
    federation, long = Federation.of(4, length=1 << 17), "x" * 100_000
    messages, _ = session()
    code, sid, _, body, signature = wire.loads(messages[Kind.KEYS], max_bytes=MUCH)
    aggregator = federation.aggregator()
    for act in (
        lambda: device(Kind.KEYS).handle(wire.dumps([code, sid, long[:4000], body, signature])),
        lambda: aggregator.handle(long, federation.begin(federation.devices())[FOUR[0]]),
        lambda: device(Kind.KEYS).handle(forge(Federation.of(4), Kind.KEYS, {long[:4000]: bytes(128)})),
        lambda: SessionHeader.from_bytes(wire.dumps({"protocol": long})),
        lambda: Roster({long: bytes(32)}),
        lambda: roster(4).key(long),
    ):
        with pytest.raises(SecAggError) as caught:
            act()
        assert len(str(caught.value)) < 1000
