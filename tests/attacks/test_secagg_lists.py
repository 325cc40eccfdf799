"""An aggregator that lies about who survived, or asks twice: shares are never revealed for it.

Every attack is played against real devices with the real aggregator's key; then the session goes on honestly, and the
sum has to be right: a message that is refused changes nothing.
"""

import itertools
import shutil

import pytest
from secagg_adversary import Adversary, body_of, forge
from secagg_sessions import AGGREGATOR, Federation, identity, names

from fedmesh.secagg import SecAggError
from fedmesh.secagg.messages import Kind
from fedmesh.secagg.session import binding, input_context, survivors_digest

FOUR, SEVEN = names(4), names(7)


def at(kind, count=7, **options):
    """An adversary with the honest messages of `kind` in its hands."""
    adversary = Adversary(Federation.of(count, **options))
    return adversary, adversary.until(kind)


def signed(adversary, survivors, signers):
    """Signatures over a set, from devices in league with the aggregator (or whose keys it has)."""
    header, roster = adversary.federation.header, adversary.federation.roster
    context = input_context(binding(header, roster), header.model_hash, header.scale_hash)
    return {name: identity(name).sign(survivors_digest(context, survivors)) for name in signers}


@pytest.mark.parametrize(
    ("survivors", "code"),
    [
        ([], "consistency"),
        (SEVEN[1:], "consistency"),  # without the device that is asked
        (SEVEN[:4], "threshold"),  # t = 5
        ([*SEVEN, SEVEN[0]], "consistency"),  # a device twice
        ([*SEVEN[:4], SEVEN[0], SEVEN[0]], "consistency"),  # twice, to look like enough
        ([*SEVEN, "device-99"], "consistency"),  # a stranger
        ([*SEVEN, AGGREGATOR], "consistency"),
        ([*SEVEN, ""], "consistency"),
        (dict.fromkeys(SEVEN, b""), "malformed"),
        ([[name] for name in SEVEN], "malformed"),
        ([1, 2, 3], "malformed"),
        (None, "malformed"),
        (b"".join(name.encode() for name in SEVEN), "malformed"),
    ],
)
def test_sets_of_survivors_that_are_none(survivors, code):
    adversary, honest = at(Kind.SURVIVORS)
    body = list(survivors) if isinstance(survivors, tuple) else survivors
    adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.SURVIVORS, body), code)
    adversary.finish(honest)


def test_a_survivor_that_had_dropped_before_the_masks():
    """Its shares were not delivered, so its seed is not theirs to reveal."""
    adversary = Adversary(Federation.of(7))
    adversary.deliver(adversary.until(Kind.DELIVERIES, without=(SEVEN[6],)))
    honest = adversary.next_down()
    adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.SURVIVORS, list(SEVEN)), "consistency")
    adversary.finish(honest)


@pytest.mark.parametrize("restarted", [False, True])
def test_two_sets_overlapping_in_all_but_a_victim(tmp_path, restarted):
    """The classical attack: the victim survives in one list, is dropped in the other, and both its secrets come out."""
    adversary, honest = at(Kind.SURVIVORS, folder=tmp_path)
    without = forge(adversary.federation, Kind.SURVIVORS, list(SEVEN[:6]))
    adversary.deliver(honest)
    for name in SEVEN[:6]:
        if restarted:
            adversary.restart(name)
        adversary.refuses(name, without, "turn", "consistency")
    adversary.finish(adversary.next_down())


def test_a_second_set_after_an_old_state_was_put_back(tmp_path):
    """The Context is the platform's: put back to before the signature, the store still knows what was signed."""
    adversary, honest = at(Kind.SURVIVORS, folder=tmp_path)
    old = {name: device.seal() for name, device in adversary.devices.items()}
    adversary.deliver(honest)
    up = adversary.up
    for name in SEVEN[:6]:
        adversary.put_back(name, old[name])
        adversary.refuses(name, forge(adversary.federation, Kind.SURVIVORS, list(SEVEN[:6])), "consistency")
        again = adversary.devices[name].handle(honest[name])  # the same set gets the same signature
        assert body_of(again) == body_of(dict(up)[name])
    adversary.up = up
    adversary.finish(adversary.next_down())


@pytest.mark.parametrize("split", range(16))
def test_two_halves_are_shown_different_sets(split):
    """Equivocation with C = 2 colluders, who sign and reveal whatever helps: both secrets of the victim never come out.

    Every way of showing the four other honest devices the set with the victim, or the one without it.
    """
    adversary, _ = at(Kind.SURVIVORS)
    colluders, honest, victim = SEVEN[:2], SEVEN[2:], SEVEN[6]
    sets = {name: SEVEN[:6] if split >> place & 1 else SEVEN for place, name in enumerate(honest)}
    signatures = {shown: signed(adversary, shown, colluders) for shown in (SEVEN, SEVEN[:6])}
    for name in honest:
        answer = adversary.devices[name].handle(forge(adversary.federation, Kind.SURVIVORS, list(sets[name])))
        signatures[sets[name]][name] = body_of(answer)["signature"]
    assert min(map(len, signatures.values())) < 5
    revealed = {"seeds": len(colluders), "masks": len(colluders)}  # shares of the victim that the aggregator has
    for name, quorum in itertools.product(honest, signatures.values()):
        message = forge(adversary.federation, Kind.QUORUM, quorum)
        if len(quorum) < 5 or quorum is not signatures[sets[name]]:
            adversary.refuses(name, message, "consistency", "signature", "turn")
        else:
            body = body_of(adversary.devices[name].handle(message))
            revealed["seeds"] += victim in body["seeds"]
            revealed["masks"] += victim in body["masks"]
    assert min(revealed.values()) < 5


@pytest.mark.parametrize("signers", [SEVEN[:4], (), SEVEN[1:5]])
def test_fewer_signatures_than_the_threshold(signers):
    adversary, honest = at(Kind.QUORUM)
    body = {name: signature for name, signature in body_of(honest[SEVEN[0]]).items() if name in signers}
    assert len(body) < 5
    adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.QUORUM, body), "consistency")
    adversary.finish(honest)


def test_signatures_that_are_not_over_this_set():
    """Of another set, another session, another device, a dropped one, a stranger, the aggregator, or altered."""
    adversary = Adversary(Federation.of(7))
    adversary.deliver(adversary.until(Kind.SURVIVORS, without=(SEVEN[6],)))  # device-06 dropped out
    honest = adversary.next_down()
    survivors = SEVEN[:6]
    right = body_of(honest[SEVEN[0]])
    spoilt = max(right)
    four = {name: right[name] for name in sorted(right)[:4]}
    other = Adversary(Federation.of(7, round=4))
    for body in (
        {**right, spoilt: signed(adversary, SEVEN, [spoilt])[spoilt]},
        {**right, spoilt: signed(adversary, survivors[::-1], [spoilt])[spoilt]},
        {**right, spoilt: signed(other, survivors, [spoilt])[spoilt]},
        {**right, spoilt: right[min(right)]},
        {**right, spoilt: bytes(64)},
        {**right, spoilt: right[spoilt][:-1] + bytes([right[spoilt][-1] ^ 1])},
        {**four, SEVEN[6]: signed(adversary, survivors, [SEVEN[6]])[SEVEN[6]]},
        {**four, AGGREGATOR: signed(adversary, survivors, [AGGREGATOR])[AGGREGATOR]},
        {**four, "device-99": right[spoilt]},
    ):
        adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.QUORUM, body), "signature", "consistency")
    for body in ({**right, spoilt: b"short"}, list(right.values()), {**right, 5: right[spoilt]}, {}, None):
        message = forge(adversary.federation, Kind.QUORUM, body)
        adversary.refuses(SEVEN[0], message, "malformed", "consistency")
    adversary.finish(honest)


def test_one_signature_is_not_counted_twice():
    """Four signatures under five spellings of a name, or in a body that repeats a key."""
    adversary, honest = at(Kind.QUORUM)
    right = body_of(honest[SEVEN[0]])
    four = {name: right[name] for name in sorted(right)[:4]}
    for spelling in (SEVEN[0] + " ", SEVEN[0].upper(), SEVEN[0] + "\x00"):
        body = {**four, spelling: right[SEVEN[0]]}
        adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.QUORUM, body), "consistency")
    adversary.finish(honest)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_second_unmask_request(tmp_path, restarted):
    """The same quorum again, or another one: the shares left once, and the device has none any more."""
    adversary, honest = at(Kind.QUORUM, folder=tmp_path)
    adversary.deliver(honest)
    reveals = len(adversary.seen)
    for name in SEVEN:
        if restarted:
            adversary.restart(name)
        assert adversary.devices[name].finished
        assert adversary.devices[name].seal() == b""
        with pytest.raises(SecAggError):
            adversary.devices[name].handle(honest[name])
    assert len(adversary.seen) == reveals
    adversary.finish(adversary.next_down())


def test_a_second_unmask_request_after_an_old_state_was_put_back(tmp_path):
    """A snapshot from before the reveal, put back together with all the messages: the store knows that shares left."""
    adversary, honest = at(Kind.QUORUM, folder=tmp_path)
    old = {name: device.seal() for name, device in adversary.devices.items()}
    adversary.deliver(honest)
    up, adversary.seen = adversary.up, []
    for name in SEVEN:
        adversary.put_back(name, old[name])
        adversary.refuses(name, honest[name], "replay")
        other = {signer: body_of(honest[name])[signer] for signer in sorted(body_of(honest[name]))}
        adversary.refuses(name, forge(adversary.federation, Kind.QUORUM, other), "replay")
    adversary.up = up
    adversary.finish(adversary.next_down())


def test_a_quorum_before_the_set_is_known():
    """A device that has signed nothing reveals nothing, whoever signed what."""
    adversary, honest = at(Kind.SURVIVORS)
    for survivors in (SEVEN, SEVEN[:5]):
        body = signed(adversary, survivors, survivors[:5])
        adversary.refuses(SEVEN[0], forge(adversary.federation, Kind.QUORUM, body), "turn")
    adversary.finish(honest)


def test_a_set_for_which_the_colluders_have_signed_alone():
    """The victim signed the whole cohort; the others' quorum for a set without it does not make it reveal."""
    adversary, honest = at(Kind.SURVIVORS)
    adversary.deliver(honest)
    body = signed(adversary, SEVEN[:6], SEVEN[:5])
    for name in SEVEN:
        adversary.refuses(name, forge(adversary.federation, Kind.QUORUM, body), "signature", "consistency")
    adversary.finish(adversary.next_down())


@pytest.mark.parametrize("count", [4, 7])
def test_a_device_never_reveals_both_secrets_of_a_peer(count):
    """Whatever subset survives: one share for each device that shared, of one kind, and its own seed's among them."""
    members = names(count)
    for lost in itertools.chain.from_iterable(itertools.combinations(members, k) for k in range(count // 3 + 1)):
        adversary = Adversary(Federation.of(count))
        adversary.deliver(adversary.until(Kind.SURVIVORS, without=lost))
        if count - len(lost) < adversary.federation.header.threshold:
            continue
        down = adversary.next_down()
        adversary.deliver(down)
        for name, message in adversary.up:
            revealed = body_of(message)
            assert revealed["seeds"].keys() == set(members) - set(lost)
            assert revealed["masks"].keys() == set(lost)
            assert name in revealed["seeds"]
        adversary.finish(adversary.next_down())


def test_the_store_is_lost_between_two_steps(tmp_path):
    """Without its memory a device neither signs nor reveals: it fails closed."""
    for kind in (Kind.SURVIVORS, Kind.QUORUM):
        folder = tmp_path / kind.name
        folder.mkdir()
        adversary, honest = at(kind, count=4, folder=folder)
        sealed = adversary.devices[FOUR[0]].seal()
        adversary.devices[FOUR[0]].close()
        shutil.rmtree(folder)
        folder.mkdir()
        adversary.put_back(FOUR[0], sealed)
        adversary.refuses(FOUR[0], honest[FOUR[0]], "session", "store", "replay")


def test_the_store_goes_away_while_the_device_runs(tmp_path):
    adversary, honest = at(Kind.QUORUM, count=4, folder=tmp_path)
    path = adversary.federation.store_path(FOUR[0])
    kept = path.rename(path.with_name("kept"))
    adversary.refuses(FOUR[0], honest[FOUR[0]], "store")
    kept.rename(path)
    adversary.finish(honest)
