"""Rounds, attempts and whole messages that are played again, to devices that restart and whose state is put back."""

import numpy as np
import pytest
from secagg_adversary import Adversary, body_of, forge
from secagg_sessions import Federation, header, identity, names

from fedmesh.secagg import Participant, SecAggError, decode_masked
from fedmesh.secagg.messages import Kind

FOUR = names(4)
VECTOR = np.array([1, -2, 3])


def device(federation, sealed=b""):
    name = FOUR[0]
    return Participant.unseal(
        name, identity(name), federation.roster, federation.policy, sealed, federation.store_path(name)
    )


def code_of(act, *arguments):
    with pytest.raises(SecAggError) as caught:
        act(*arguments)
    return caught.value.code


@pytest.mark.parametrize("restarted", [False, True])
def test_rounds_do_not_come_again(tmp_path, restarted):
    """After round 3 is signed no round up to it can begin, under no attempt and with no other header."""
    adversary = Adversary(Federation.of(4, folder=tmp_path))
    adversary.finish(adversary.until(Kind.QUORUM))
    for name in FOUR:
        if restarted:
            adversary.restart(name)
        for made in (
            header(4),
            header(4, attempt=2),
            header(4, attempt=1 << 40),
            header(4, round=2, attempt=9),
            header(4, round=0),
            header(4, model_hash=b"other"),
            header(4, cohort=FOUR[::-1]),
        ):
            assert code_of(adversary.devices[name].begin, made, VECTOR) == "replay"
            assert code_of(adversary.devices[name].join, made) == "replay"
        assert adversary.devices[name].begin(header(4, round=4), VECTOR)


def test_attempts_do_not_come_again(tmp_path):
    federation = Federation.of(4, folder=tmp_path)
    assert device(federation).begin(header(4, attempt=3), VECTOR)
    for attempt in (1, 2, 3):
        assert code_of(device(federation).begin, header(4, attempt=attempt), VECTOR) == "replay"
    assert device(federation).begin(header(4, attempt=4), VECTOR)


@pytest.mark.parametrize("round_number", [3, 4])
def test_a_session_that_was_given_up_is_not_gone_on_with(tmp_path, round_number):
    """A newer attempt, or a later round that was signed: an old state put back masks, signs and reveals nothing."""
    for kind in (Kind.DELIVERIES, Kind.SURVIVORS, Kind.QUORUM):
        if round_number == 3 and kind is Kind.QUORUM:
            continue  # once a set is signed no second attempt can begin, see below
        folder = tmp_path / kind.name
        folder.mkdir()
        adversary = Adversary(Federation.of(4, folder=folder))
        honest = adversary.until(kind)
        old = {name: device.seal() for name, device in adversary.devices.items()}
        newer = Adversary(Federation.of(4, folder=folder, round=round_number, attempt=2))
        newer.finish(newer.until(Kind.KEYS))
        for name in FOUR:
            adversary.put_back(name, old[name])
            adversary.refuses(name, honest[name], "replay")


def test_a_new_attempt_cannot_begin_once_a_set_is_signed(tmp_path):
    adversary = Adversary(Federation.of(4, folder=tmp_path))
    adversary.until(Kind.QUORUM)
    with pytest.raises(SecAggError) as caught:
        Adversary(Federation.of(4, folder=tmp_path, attempt=2))
    assert caught.value.code == "replay"


def test_a_second_masked_input_for_another_set_of_peers(tmp_path):
    """With y for two sets of sharers, their difference would be a pairwise mask: one leaves, whatever is put back."""
    adversary = Adversary(Federation.of(7, folder=tmp_path))
    honest = adversary.until(Kind.DELIVERIES)
    victim = names(7)[0]
    old = adversary.devices[victim].seal()
    body = body_of(honest[victim])
    fewer = {name: body[name] for name in names(7)[1:6]}
    adversary.deliver({victim: honest[victim]})
    for message in (forge(adversary.federation, Kind.DELIVERIES, fewer), honest[victim]):
        adversary.put_back(victim, old)
        adversary.refuses(victim, message, "replay")


def test_a_second_input_under_the_same_masks(tmp_path):
    """The state from before the input was supplied is put back, and another input supplied."""
    federation = Federation.of(4, folder=tmp_path, model_hash=None, scale_hash=None)
    hashes = {"model_hash": b"model", "scale_hash": b"scale"}
    aggregator, devices = federation.aggregator(), federation.devices()
    aggregator.bind(**hashes)
    up = [(name, device.join(federation.header)) for name, device in devices.items()]
    for _ in ("keys", "deliveries"):
        down = [sent for name, message in up for sent in aggregator.handle(name, message)]
        up = [(name, devices[name].handle(message)) for name, message in down]
    old = devices[FOUR[0]].seal()
    assert decode_masked(devices[FOUR[0]].supply(VECTOR, 1, **hashes)).shape == (4,)
    devices[FOUR[0]].close()
    assert code_of(lambda: device(federation, old).supply(VECTOR + 1, 1, **hashes)) == "replay"
    assert code_of(lambda: device(federation, old).supply(VECTOR, 1, model_hash=b"x", scale_hash=b"y")) == "replay"


@pytest.mark.parametrize("changes", [{"round": 4}, {"round": 3, "attempt": 2}])
def test_no_message_of_one_session_counts_in_another(tmp_path, changes):
    """Every message of a whole session, at every step of a session with the same devices."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    old = Adversary(Federation.of(4, folder=tmp_path / "a"))
    recorded, down = [], old.until(Kind.KEYS)
    while old.aggregator.result is None:
        recorded += [down[FOUR[0]], *(message for _, message in old.up)]
        old.deliver(down)
        recorded += [message for _, message in old.up]
        down = old.next_down()
    adversary = Adversary(Federation.of(4, folder=tmp_path / "b", **changes))
    adversary.shares.add(b"?" * 33)
    down = adversary.next_down()
    while adversary.aggregator.result is None:
        for message in recorded:
            adversary.refuses(FOUR[0], message, "session")
            with pytest.raises(SecAggError) as caught:
                adversary.aggregator.handle(FOUR[0], message)
            assert caught.value.code == "session"
        adversary.deliver(down)
        down = adversary.next_down()
    adversary.finish({})


def test_a_repeated_message_gets_the_same_answer(tmp_path):
    """Not new shares, not another mask, not another signature; and after the shares have left, nothing."""
    adversary = Adversary(Federation.of(4, folder=tmp_path))
    down = adversary.until(Kind.KEYS)
    while adversary.aggregator.result is None:
        adversary.deliver(down)
        for name, message in adversary.up:
            if adversary.devices[name].finished:
                assert code_of(adversary.devices[name].handle, down[name]) == "turn"
            else:
                assert adversary.devices[name].handle(down[name]) == message
        down = adversary.next_down()


def test_masks_of_two_attempts_have_nothing_in_common(tmp_path):
    """The same input, round and devices: what the aggregator sees differs as two random vectors do."""
    seen = []
    for attempt in (1, 2):
        adversary = Adversary(Federation.of(4, folder=tmp_path, attempt=attempt, length=4000))
        adversary.deliver(adversary.until(Kind.DELIVERIES))
        seen.append(decode_masked(dict(adversary.up)[FOUR[0]]).astype(np.int64))
    ring = 1 << header(4).ring_bits
    differences = (seen[1] - seen[0]) % ring
    counts, _ = np.histogram(differences, bins=16, range=(0, ring))
    expected = len(differences) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 60  # 15 degrees of freedom: less than one in a million
    assert (differences == 0).sum() < 40


def test_without_a_store_path_the_device_remembers_while_it_lives():
    adversary = Adversary(Federation.of(4))
    adversary.finish(adversary.until(Kind.KEYS))
    for name in FOUR:
        assert code_of(adversary.devices[name].begin, header(4, attempt=2), VECTOR) == "replay"


@pytest.mark.parametrize("kind", [Kind.KEYS, Kind.DELIVERIES, Kind.SURVIVORS, Kind.QUORUM])
def test_without_a_store_path_a_sealed_state_still_goes_on(kind):
    """At each step; what was signed is in the state, so it is not signed a second time for another set."""
    adversary = Adversary(Federation.of(4))
    adversary.shares.add(b"?" * 33)
    honest = adversary.until(kind)
    for name in FOUR:
        adversary.restart(name)
    if kind is Kind.QUORUM:
        for name in FOUR[:3]:
            adversary.refuses(name, forge(adversary.federation, Kind.SURVIVORS, list(FOUR[:3])), "turn", "consistency")
    adversary.finish(honest)


@pytest.mark.parametrize("kind", [Kind.KEYS, Kind.DELIVERIES, Kind.SURVIVORS])
def test_the_next_round_is_prepared_while_one_goes_on(tmp_path, kind):
    """Two sessions of each device over one store, the way a run overlaps them: both come to their sums."""
    this = Adversary(Federation.of(4, folder=tmp_path))
    down = this.until(kind)
    following = Adversary(Federation.of(4, folder=tmp_path, round=4))
    prepared = following.until(Kind.DELIVERIES)
    this.finish(down)
    following.finish(prepared)


def test_a_round_is_over_once_the_next_is_signed(tmp_path):
    """Even its reveal: of two rounds that were begun, the later one's signature ends the earlier one."""
    this = Adversary(Federation.of(4, folder=tmp_path))
    honest = this.until(Kind.QUORUM)
    following = Adversary(Federation.of(4, folder=tmp_path, round=4))
    following.finish(following.until(Kind.KEYS))
    for name in FOUR:
        this.refuses(name, honest[name], "replay")
