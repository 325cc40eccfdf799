"""Secrets stay in the device that made them: in no repr, exception, log, pickle or file, and gone when used up."""

import copy
import gc
import logging
import pickle
import traceback

import numpy as np
import pytest
from secagg_adversary import Adversary, body_of, forge
from secagg_sessions import Federation, header, identity, names

from fedmesh.secagg import Participant, SecAggError
from fedmesh.secagg.agreement import KeyPair
from fedmesh.secagg.messages import Kind

FOUR = names(4)
KINDS = (Kind.KEYS, Kind.DELIVERIES, Kind.SURVIVORS, Kind.QUORUM)
LEFT = {  # what a device still holds when it waits for a message: nothing that no later step needs
    Kind.KEYS: {"cipher", "mask", "input"},
    Kind.DELIVERIES: {"mask", "seed", "adverts", "channels", "held", "input"},
    Kind.SURVIVORS: {"held"},
    Kind.QUORUM: {"held"},
}


def secrets_of(device):
    """Every secret in the device's state, by name."""
    state = device._state
    found = {"cipher": state.cipher, "mask": state.mask, "seed": state.seed}
    found |= {f"channel {name}": channel for name, channel in state.channels.items()}
    for name, pair in state.held.items():
        found |= {f"seed share {name}": pair[:33], f"mask share {name}": pair[33:]}
    return {name: secret for name, secret in found.items() if secret}


def forms(secret):
    """As somebody would print it."""
    return [
        secret.hex(),
        secret.hex().upper(),
        repr(secret)[2:-1],
        str(int.from_bytes(secret, "big")),
        str(list(secret)),
    ]


def at(kind, **options):
    adversary = Adversary(Federation.of(4, **options))
    return adversary, adversary.until(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_a_later_step_needs_is_kept(kind):
    adversary, _ = at(kind)
    for device in adversary.devices.values():
        state = device._state
        fields = {"cipher", "mask", "seed", "adverts", "channels", "held", "input"}
        held = {name for name in fields if getattr(state, name) is not None and len(getattr(state, name))}
        assert held == LEFT[kind]


def test_nothing_is_left_after_the_last_step():
    adversary, honest = at(Kind.QUORUM)
    adversary.finish(honest)
    for device in adversary.devices.values():
        assert device.finished
        assert device._state is None
        assert device._last == (b"", None)
        assert device.seal() == b""


def test_no_object_of_a_finished_device_holds_a_secret():
    """Every byte string and array that can be reached from it, by the garbage collector's own account."""
    adversary, honest = at(Kind.KEYS)
    known, inputs = set(), {tuple(vector.tolist()) for vector in adversary.federation.vectors.values()}
    while adversary.aggregator.result is None:
        for device in adversary.devices.values():
            known |= set(secrets_of(device).values())
        adversary.deliver(honest)
        for device in adversary.devices.values():
            known |= set(secrets_of(device).values()) if device._state else set()
        honest = adversary.next_down()
    assert len(known) > 4 * 10
    for device in adversary.devices.values():
        for item in reachable(device):
            assert not (isinstance(item, bytes) and any(secret in item for secret in known))
            assert not (isinstance(item, np.ndarray) and tuple(item[:3].tolist()) in inputs)


def reachable(start):
    """All objects that are referred to from an object, but for modules, types and functions."""
    seen, queue = {}, [start]
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, type | type(logging) | type(reachable)):
            continue
        seen[id(item)] = item
        queue += gc.get_referents(item)
    return seen.values()


@pytest.mark.parametrize("kind", KINDS)
def test_reprs_tell_nothing(kind):
    adversary, honest = at(kind)
    for device in adversary.devices.values():
        objects = (device, device._state, device._store, device._identity, adversary.aggregator, device._roster)
        texts = "".join(f"{item!r}{item!s}{item:}" for item in objects)
        for name, secret in secrets_of(device).items():
            assert not any(form in texts for form in forms(secret)), name
        assert "-2" not in texts  # of the inputs
        assert not any(form in texts for form in forms(device._identity.private_bytes()))
    adversary.finish(honest)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_and_logs_tell_nothing(kind, caplog):
    """Through every refusal of a step: message, arguments, causes, notes and the log at its loudest."""
    caplog.set_level(0)
    adversary, honest = at(kind)
    device = adversary.devices[FOUR[0]]
    secrets = {**secrets_of(device), "identity": device._identity.private_bytes()}
    texts = []
    body = body_of(honest[FOUR[0]])
    tampered = [
        None,
        {},
        [],
        list(FOUR[:3]),
        {name: bytes(94) for name in FOUR[1:]},
        {name: bytes(64) for name in FOUR},
    ]
    if isinstance(body, dict):
        tampered += [{**body, name: bytes(len(item))} for name, item in body.items()]
    for wrong in (b"", honest[FOUR[1]][:-1], *(forge(adversary.federation, kind, item) for item in tampered)):
        try:
            device.handle(wrong)
        except SecAggError as error:
            texts.append("".join(traceback.format_exception(error)) + repr(error.args) + repr(vars(error)))
    for act in (lambda: device.supply(np.arange(3)), lambda: device.begin(header(4), np.arange(3)), device.__reduce__):
        with pytest.raises((SecAggError, TypeError)) as caught:
            act()
        texts.append("".join(traceback.format_exception(caught.value)))
    assert len(texts) > 5
    everything = "".join(texts) + caplog.text
    for name, secret in secrets.items():
        assert not any(form in everything for form in forms(secret)), name


def test_values_that_overflow_are_not_named():
    """An error about an input says what its bound is, not what the input was."""
    federation = Federation.of(4)
    vector = np.array([123_456_789_123, 1, 1])
    with pytest.raises(SecAggError) as caught:
        federation.device(FOUR[0]).begin(federation.header, vector)
    assert "123456789123" not in str(caught.value)
    assert "123_456_789_123" not in str(caught.value)


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_secrets_are_not_pickled_or_copied(duplicate):
    adversary, _ = at(Kind.DELIVERIES)
    device = adversary.devices[FOUR[0]]
    for item in (device, device._state, device._identity, KeyPair.generate()):
        with pytest.raises(TypeError):
            duplicate(item)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sealed_state_says_nothing_to_others(kind):
    """No secret, no input, no name of a peer in it; no other device opens it, and no altered one is opened."""
    adversary, _ = at(kind)
    federation = adversary.federation
    device = adversary.devices[FOUR[0]]
    sealed = device.seal()
    assert sealed != device.seal()  # a fresh nonce each time
    for secret in secrets_of(device).values():
        assert secret not in sealed
    assert not any(name.encode() in sealed for name in FOUR)
    for data in (sealed[:-1], sealed + b"\x00", sealed[:20] + bytes([sealed[20] ^ 1]) + sealed[21:], b"x"):
        with pytest.raises(SecAggError) as caught:
            Participant.unseal(FOUR[0], identity(FOUR[0]), federation.roster, None, data)
        assert caught.value.code == "signature"
    for whose in FOUR[:2]:
        with pytest.raises(SecAggError) as caught:
            Participant.unseal(FOUR[1], identity(whose), federation.roster, None, sealed)
        assert caught.value.code in {"signature", "identity"}


def test_the_store_holds_no_secret(tmp_path):
    """Nor the journal beside it: what is in there could be published."""
    adversary, honest = at(Kind.KEYS, folder=tmp_path)
    known = set()
    while adversary.aggregator.result is None:
        for device in adversary.devices.values():
            known |= set(secrets_of(device).values()) if device._state else set()
        adversary.deliver(honest)
        honest = adversary.next_down()
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert not any(secret in data for secret in known)
        assert not any(identity(name).private_bytes() in data for name in FOUR)


def test_a_new_session_drops_the_old_ones_secrets():
    adversary, _ = at(Kind.DELIVERIES)
    device = adversary.devices[FOUR[0]]
    old = set(secrets_of(device).values())
    device.begin(header(4, attempt=2), np.arange(3))
    for item in reachable(device):
        assert not (isinstance(item, bytes) and any(secret in item for secret in old))


def test_closing_drops_them_too():
    adversary, _ = at(Kind.SURVIVORS)
    device = adversary.devices[FOUR[0]]
    old = set(secrets_of(device).values())
    device.close()
    device.close()
    assert device.finished
    for item in reachable(device):
        assert not (isinstance(item, bytes) and any(secret in item for secret in old))


def test_the_aggregator_drops_its_shares_at_the_end():
    """The sum stays, what unmasked it does not; nor after a round that was given up."""
    adversary, honest = at(Kind.QUORUM)
    adversary.deliver(honest)
    shares = {share for _, message in adversary.up for share in body_of(message)["seeds"].values()}
    adversary.finish(adversary.next_down())
    for item in reachable(adversary.aggregator):
        assert not (isinstance(item, bytes) and any(share in item for share in shares))
    adversary, honest = at(Kind.QUORUM)
    adversary.deliver(honest)
    shares = {share for _, message in adversary.up for share in body_of(message)["seeds"].values()}
    for name, message in adversary.up[:2]:
        adversary.aggregator.handle(name, message)
    with pytest.raises(SecAggError):
        adversary.aggregator.advance()
    for item in reachable(adversary.aggregator):
        assert not (isinstance(item, bytes) and any(share in item for share in shares))
