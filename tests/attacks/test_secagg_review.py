"""Defects that a review found, each played against the real state machines."""

import numpy as np
import pytest
from secagg_sessions import AGGREGATOR, Federation, header, identity, names, roster

from fedmesh import wire
from fedmesh.secagg import Aggregator, SecAggError, decode_masked
from fedmesh.secagg.messages import Kind, sign_envelope
from fedmesh.secagg.session import binding

FOUR = names(4)
VECTOR = np.array([1, -2, 3])
"""Bodies whose elements take no bytes: of -1 values of fewer than eight bits the packing wanted none either."""
NOTHING = [{"bits": bits, "length": length, "packed": b""} for bits, length in ((2, -1), (3, -1), (7, -7), (16, 0))]


def masked(made, body):
    return sign_envelope(
        Kind.MASKED, body, session=binding(made, roster(4)), sid=made.sid, sender=FOUR[0], identity=identity(FOUR[0])
    )


@pytest.mark.parametrize("body", [*NOTHING, {"bits": 16, "length": True, "packed": b"\0\0"}], ids=str)
def test_a_masked_input_of_no_elements(body):
    """A device sends it, signed and in turn; the aggregator refuses it and goes on without the device."""
    federation = Federation.of(4)
    aggregator, devices = federation.aggregator(), federation.devices()
    message = masked(federation.header, body)
    with pytest.raises(SecAggError):
        decode_masked(message)
    up = list(federation.begin(devices).items())
    for _ in ("advertise", "share"):
        down = [outgoing for name, sent in up for outgoing in aggregator.handle(name, sent)]
        up = [(name, devices[name].handle(sent)) for name, sent in down]
    with pytest.raises(SecAggError):
        aggregator.handle(FOUR[0], message)
    assert aggregator.awaiting == set(FOUR)
    for name, sent in up[1:]:
        aggregator.handle(name, sent)
    assert aggregator.advance()


@pytest.mark.parametrize("message", [None, 5, "text", [], bytearray(b"x")], ids=repr)
def test_what_is_no_bytes_is_refused_by_a_device(message):
    federation = Federation.of(4)
    devices = federation.devices()
    federation.begin(devices)
    with pytest.raises(SecAggError) as caught:
        devices[FOUR[0]].handle(message)
    assert caught.value.code == "malformed"


def test_a_round_below_one_that_was_begun_is_not_opened(tmp_path):
    """An aggregator keeps round 3 from a device, lets it begin 4, and then wants its input for 3 as well."""
    federation = Federation.of(4, folder=tmp_path)
    victim = federation.device(FOUR[0])
    victim.begin(header(4, round=4), VECTOR)
    for device in (victim, federation.device(FOUR[0])):
        for number in (3, 0):
            with pytest.raises(SecAggError) as caught:
                device.begin(header(4, round=number, attempt=9), VECTOR)
            assert caught.value.code == "replay"


def test_keys_for_the_next_round_do_not_stand_in_the_way_of_another_attempt(tmp_path):
    device = Federation.of(4, folder=tmp_path).device(FOUR[0])
    device.begin(header(4, round=3), VECTOR)
    device.join(header(4, round=4))
    assert device.begin(header(4, round=3, attempt=2), VECTOR)


@pytest.mark.parametrize("length", [1 << 48, (1 << 62) - 1])
def test_a_sum_that_no_memory_holds(length):
    with pytest.raises(SecAggError, match="no room"):
        Aggregator(header(4, length=length), identity(AGGREGATOR), roster(4))


def test_maps_with_a_name_twice_are_not_read():
    """Two readers of one body never see two different sets: a repeated key is no key."""
    with pytest.raises(SecAggError):
        decode_masked(wire.dumps([5, bytes(32), "a", b"\xa2\x64bits\x02\x64bits\x03", bytes(64)]))
