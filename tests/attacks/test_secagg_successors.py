"""Who goes on in the place of an aggregator, and breaks the rules; and an aggregator that hands over a lie."""

import itertools

import pytest
from secagg_adversary import Adversary, body_of, forge
from secagg_sessions import AGGREGATOR, Federation, header, identity, names, roster

from fedmesh import wire
from fedmesh.secagg import Aggregator, Handover, Participant, Policy, SecAggError
from fedmesh.secagg.messages import Kind, read
from fedmesh.secagg.session import binding, input_context, survivors_digest

SEVEN = names(7)
FIRST, SECOND = SEVEN[1], SEVEN[2]
MESH = Policy(successors=frozenset(SEVEN))


def federation(**options):
    return Federation.of(7, **{"policy": MESH, **options})


def signed(adversary):
    return {name: device.signed[1] for name, device in adversary.devices.items() if device.signed}


def taken(data):
    return Handover.from_bytes(data, roster(7), max_bytes=1 << 16)


def resumed(data, signatures, by=FIRST, of=AGGREGATOR):
    return Aggregator.resume(taken(data), identity(by), roster(7), of=of, signatures=signatures)


def at_quorum(**options):
    """All inputs but one are in, all have signed; the aggregator's last question is there, and not delivered."""
    adversary = Adversary(federation(**options))
    down = adversary.until(Kind.SURVIVORS, without=SEVEN[6:])
    handover = adversary.aggregator.handover()
    adversary.deliver(down)
    return adversary, adversary.next_down(), handover


def code_of(act, *arguments):
    with pytest.raises(SecAggError) as caught:
        act(*arguments)
    return caught.value.code


def collect(adversary, aggregator, down):
    """The devices' answers, handled by who asked them."""
    answers = {name: adversary.devices[name].handle(message) for name, message in down.items()}
    for name, answer in answers.items():
        aggregator.handle(name, answer)
    return answers


def is_right(adversary, aggregator):
    result = aggregator.result
    result.verify(adversary.federation.header, roster(7))
    return [*result.total.tolist(), result.weight] == adversary.federation.sum_over(SEVEN[:6])


def test_an_early_successor_and_a_living_aggregator_get_the_same_from_everybody():
    adversary, honest, handover = at_quorum()
    early = resumed(handover, signed(adversary))
    asked = dict(early.advance())
    half = SEVEN[:3]
    one = collect(adversary, adversary.aggregator, {name: honest[name] for name in half})
    two = collect(adversary, early, asked)
    rest = collect(adversary, adversary.aggregator, {name: honest[name] for name in SEVEN[3:6]})
    assert two == one | rest  # bit for bit: nobody learns more by asking first, last or twice
    assert is_right(adversary, early)
    assert is_right(adversary, adversary.aggregator)


def test_a_second_successor_goes_on_behind_the_first():
    adversary, _, handover = at_quorum()
    first = resumed(handover, signed(adversary))
    for name, message in first.advance()[:3]:
        adversary.devices[name].handle(message)
    assert first.handover() == handover  # what the session's aggregator signed, handed on
    second = resumed(first.handover(), signed(adversary), by=SECOND)
    collect(adversary, second, dict(second.advance()))
    assert is_right(adversary, second)
    assert second.result.aggregator == SECOND


def test_a_device_that_restarts_behind_its_answer_gives_it_again(tmp_path):
    adversary, honest, handover = at_quorum(folder=tmp_path)
    before = adversary.devices[SEVEN[0]].seal()
    first = adversary.devices[SEVEN[0]].handle(honest[SEVEN[0]])
    asked = dict(resumed(handover, signed(adversary)).advance())
    adversary.restart(SEVEN[0])
    assert adversary.devices[SEVEN[0]].handle(asked[SEVEN[0]]) == first
    adversary.put_back(SEVEN[0], before)
    assert code_of(adversary.devices[SEVEN[0]].handle, asked[SEVEN[0]]) == "replay"


def test_behind_its_answer_a_device_holds_nothing_that_it_did_not_reveal():
    adversary, honest, _ = at_quorum()
    device = adversary.devices[SEVEN[0]]
    held = {name: (pair[:33], pair[33:]) for name, pair in device._state.held.items()}
    device.handle(honest[SEVEN[0]])
    kept = wire.dumps(device._state.to_plain())
    assert device.finished
    for name, (seed, mask) in held.items():
        assert (seed in kept, mask in kept) == (name != SEVEN[6], name == SEVEN[6])


@pytest.mark.parametrize("kind", [Kind.KEYS, Kind.DELIVERIES, Kind.SURVIVORS])
def test_a_successor_asks_for_nothing_but_the_shares(kind):
    adversary = Adversary(federation())
    adversary.shares.add(b"?" * 33)
    down = adversary.next_down() if kind is Kind.KEYS else adversary.until(kind)
    if kind is Kind.KEYS:
        adversary.deliver(down)
        down = adversary.next_down()
        kind = Kind.DELIVERIES
    message = forge(adversary.federation, kind, body_of(down[SEVEN[0]]), sender=FIRST)
    adversary.refuses(SEVEN[0], message, "identity")
    adversary.finish(down)


def test_a_successor_that_comes_before_a_set_is_signed_gets_nothing():
    adversary = Adversary(federation())
    down = adversary.until(Kind.SURVIVORS)
    context = input_context(binding(adversary.federation.header, roster(7)), b"model", b"scale")
    statement = survivors_digest(context, SEVEN)
    forged = {name: identity(name).sign(statement) for name in SEVEN}
    adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.QUORUM, forged, sender=FIRST), "turn")
    adversary.finish(down)


@pytest.mark.parametrize("policy", [Policy(), Policy(successors=frozenset({SECOND}))])
def test_who_may_not_succeed_gets_nothing(policy):
    adversary, honest, _ = at_quorum(policy=policy)
    message = forge(adversary.federation, Kind.QUORUM, body_of(honest[SEVEN[0]]), sender=FIRST)
    adversary.refuses(SEVEN[0], message, "identity")
    adversary.finish(honest)
    for name in SEVEN[:6]:
        device = adversary.devices[name]
        assert device.finished
        assert (device._state is None) == (not policy.successors)


def test_too_few_or_wrong_signatures_reveal_nothing_whoever_brings_them():
    adversary, honest, _ = at_quorum()
    right = body_of(honest[SEVEN[0]])
    some = dict(list(right.items())[:4])
    other = survivors_digest(b"other", SEVEN[:6])
    for body in (some, {**some, SEVEN[6]: bytes(64)}, {**some, FIRST: identity(FIRST).sign(other)},
                 {name: identity(name).sign(other) for name in SEVEN[:6]}):  # fmt: skip
        message = forge(adversary.federation, Kind.QUORUM, body, sender=FIRST)
        adversary.refuses(SEVEN[0], message, "consistency", "signature")
    adversary.finish(honest)


def test_messages_of_the_dead_replayed_change_nothing():
    adversary = Adversary(federation())
    recorded, down = [], adversary.next_down()
    while adversary.aggregator.step != "unmask":
        recorded.append(down[SEVEN[0]])
        adversary.deliver(down)
        handover = adversary.aggregator.handover() if adversary.aggregator.step == "sign" else b""
        down = adversary.next_down()
    successor = resumed(handover, signed(adversary))
    answers = collect(adversary, successor, dict(successor.advance()))
    device = adversary.devices[SEVEN[0]]
    for message in recorded:
        assert code_of(device.handle, message) == "turn"
    assert device.handle(down[SEVEN[0]]) == answers[SEVEN[0]]
    device.begin(header(7, round=4), adversary.federation.vectors[SEVEN[0]])
    assert code_of(device.handle, down[SEVEN[0]]) == "session"


def test_two_aggregators_with_two_sets_never_get_both_secrets_of_anybody():
    """The aggregator tells some that all survived and others that the first did not; two members sign both sets."""
    adversary = Adversary(federation())
    adversary.until(Kind.SURVIVORS)
    sealed = {name: adversary.devices[name].seal() for name in SEVEN[:5]}
    about = adversary.federation
    context = input_context(binding(about.header, about.roster), b"model", b"scale")
    sets = (SEVEN, SEVEN[1:])
    for split in itertools.product((0, 1), repeat=4):
        told = dict(zip(SEVEN[:5], (0, *split), strict=True))
        devices = {
            name: Participant.unseal(name, identity(name), roster(7), MESH, data) for name, data in sealed.items()
        }
        both = [{name: identity(name).sign(survivors_digest(context, one)) for name in SEVEN[5:]} for one in sets]
        for name, which in told.items():
            devices[name].handle(forge(about, Kind.SURVIVORS, list(sets[which])))
            both[which][name] = devices[name].signed[1]
        seeds, masks = set(SEVEN[5:]), set(SEVEN[5:])  # whose shares of the first device's secrets they have
        for name, device in devices.items():
            replies = set()
            for signatures, sender in itertools.product(both, (AGGREGATOR, FIRST)):
                try:
                    replies.add(device.handle(forge(about, Kind.QUORUM, signatures, sender=sender)))
                except SecAggError:
                    continue
            assert len(replies) <= 1
            for reply in replies:
                (seeds if SEVEN[0] in body_of(reply)["seeds"] else masks).add(name)
        assert min(len(seeds), len(masks)) < about.header.threshold
        assert seeds == set(SEVEN[5:]) or masks == set(SEVEN[5:])


def altered(data, by=AGGREGATOR, **changes):
    """The handover with other fields, signed anew; the sid of its header."""
    body = wire.loads(read(data, max_bytes=1 << 16).body, max_bytes=1 << 16)
    for name, change in changes.items():
        body[name] = change(body[name])
    return forge(federation(), Kind.HANDOVER, body, sender=by)


def without(name):
    return lambda items: {key: value for key, value in items.items() if key != name}


LIES = {
    "a survivor less": ({"commitments": without(SEVEN[0])}, "threshold"),
    "a survivor that sent nothing": ({"commitments": lambda held: {**held, SEVEN[6]: bytes(32)}}, "threshold"),
    "a stranger": ({"commitments": lambda held: {**held, "x": bytes(32)}}, "consistency"),
    "too few": ({"commitments": lambda held: dict(list(held.items())[:4])}, "threshold"),
    "another key": ({"keys": lambda held: {**held, SEVEN[6]: held[SEVEN[6]][:64] + bytes(64)}}, "signature"),
    "another session": ({"header": lambda _: header(7, round=9).to_bytes()}, "session"),
    "another model": ({"context": lambda _: bytes(32)}, "session"),
    "another length": ({"sum": lambda held: held + b"\0"}, "malformed"),
    "no map": ({"keys": lambda _: 5}, "malformed"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_aggregator_that_hands_over_what_cannot_be_is_found_out_before_anybody_is_asked(lie):
    adversary, honest, handover = at_quorum()
    changes, code = LIES[lie]
    assert code_of(resumed, altered(handover, **changes), signed(adversary)) == code
    adversary.finish(honest)


def test_a_holder_that_changes_a_handover_is_found_out():
    adversary, honest, handover = at_quorum()
    signatures = signed(adversary)
    wrong = {"sum": lambda packed: bytes([packed[0] ^ 1]) + packed[1:]}
    assert code_of(resumed, altered(handover, by=SECOND, **wrong), signatures) == "identity"
    assert code_of(resumed, handover, signatures, FIRST, SECOND) == "identity"
    for place in range(0, len(handover), 7):
        changed = handover[:place] + bytes([handover[place] ^ 1]) + handover[place + 1 :]
        with pytest.raises(SecAggError):
            resumed(changed, signatures)
    with pytest.raises(SecAggError):
        Handover.from_bytes(handover, roster(7), max_bytes=len(handover) - 1)
    adversary.finish(honest)


def test_wrong_commitments_end_in_an_abort():
    adversary, _, handover = at_quorum()
    lie = altered(handover, commitments=lambda held: {**held, SEVEN[0]: bytes(32)})
    successor = resumed(lie, signed(adversary))
    assert code_of(collect, adversary, successor, dict(successor.advance())) == "shares"
    assert (successor.step, successor.result) == ("aborted", None)


def test_known_limit_an_aggregator_that_hands_over_another_sum_is_believed():
    """As one that announces another result is: nobody can prove the sum. It has signed what it handed over."""
    adversary, _, handover = at_quorum()
    lie = altered(handover, sum=lambda packed: bytes([packed[0] ^ 1]) + packed[1:])
    successor = resumed(lie, signed(adversary))
    collect(adversary, successor, dict(successor.advance()))
    assert not is_right(adversary, successor)
