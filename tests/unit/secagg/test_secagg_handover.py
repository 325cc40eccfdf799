"""What an aggregator hands over, as bytes."""

import contextlib
import hashlib

import numpy as np
import pytest
from secagg_adversary import Adversary
from secagg_sessions import AGGREGATOR, Federation, header, identity, names, roster

from fedmesh.secagg import Handover, SecAggError
from fedmesh.secagg.agreement import KeyPair
from fedmesh.secagg.handover import sign_handover
from fedmesh.secagg.messages import Kind, largest, read, sign_envelope
from fedmesh.secagg.session import binding, input_context

FOUR = names(4)


def fixed():
    made = header(4)
    session = binding(made, roster(4))
    keys = {}
    for place, name in enumerate(FOUR):
        public = b"".join(KeyPair.from_private(bytes([2 * place + part] * 32)).public for part in (1, 2))
        message = sign_envelope(
            Kind.ADVERTISE, public, session=session, sid=made.sid, sender=name, identity=identity(name)
        )
        keys[name] = public + read(message, max_bytes=1 << 12).signature
    return sign_handover(
        made, context=input_context(session, b"model", b"scale"), keys=keys,
        commitments={name: name.encode().ljust(32, b".") for name in FOUR[:3]},
        total=np.arange(4, dtype=made.ring.dtype), aggregator=AGGREGATOR, identity=identity(AGGREGATOR),
        roster=roster(4),
    )  # fmt: skip


def test_golden_bytes():
    data = fixed()
    assert len(data) == 1118
    assert hashlib.sha256(data).hexdigest() == "7d68c65b2d6f349558b158696a647297cc95d4a305b1c4c16c128bbee588b425"


def test_it_is_read_as_it_was_signed():
    data = fixed()
    handover = Handover.from_bytes(data, roster(4), max_bytes=len(data))
    assert (handover.header, handover.aggregator, handover.raw) == (header(4), AGGREGATOR, data)
    assert (handover.sharers, handover.survivors) == (FOUR, FOUR[:3])
    assert handover.total.tolist() == [0, 1, 2, 3]
    assert len(data) < largest(Kind.HANDOVER, header(4))


def test_there_is_one_behind_the_inputs_and_before_the_sum():
    adversary = Adversary(Federation.of(4))
    down, found = adversary.next_down(), {}
    while adversary.aggregator.step != "done":
        step = adversary.aggregator.step
        with contextlib.suppress(SecAggError):
            found[step] = adversary.aggregator.handover()
        adversary.deliver(down)
        down = adversary.next_down()
    with pytest.raises(SecAggError):
        adversary.aggregator.handover()
    assert list(found) == ["sign", "unmask"]
    assert found["sign"] == found["unmask"]
