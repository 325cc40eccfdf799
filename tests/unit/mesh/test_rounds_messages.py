import contextlib
import random

import pytest
from round_sessions import digest
from round_worlds import charter

from fedmesh.errors import DecodeError
from fedmesh.mesh.rounds import Certificate, Result
from fedmesh.mesh.rounds.messages import (
    MAX_CERTIFICATES,
    MAX_CONTROL_BYTES,
    Ask,
    Certificates,
    Handover,
    HandoverKept,
    HandoverWanted,
    Readiness,
    SetSignature,
    Status,
    Step,
    Vote,
    Wanted,
    decode,
    encode,
    page,
)
from fedmesh.mesh.rounds.voting import Phase, Proof
from fedmesh.wire import dumps, loads

RUN = charter(4).hash


def result(names=("m0", "m1", "m2", "m3")):
    return Result(RUN, 1, 0, RUN, tuple(sorted(names)), digest("c"), digest("m"), digest("s"), {"epsilon": 0.5})


def everything(names=("m0", "m1", "m2", "m3")):
    signatures = dict.fromkeys(names, bytes(64))
    proof = Proof(Phase.PREPARE, 2, result(names), signatures)
    return [
        Status(1, 3, RUN, Readiness.READY, proof, SetSignature(0, digest("set"), bytes(64)), (0, 2)),
        Status(1, 0, RUN, Readiness.OUT),
        Step(1, 2, True, b"data"),
        Handover(1, 2, b"sum"),
        HandoverKept(1, 2),
        HandoverWanted(1, 2),
        Ask(Phase.PREPARE, 3, result(names), proof, signatures),
        Ask(Phase.COMMIT, 2, result(names), None, {}),
        Vote(1, Phase.CERTIFY, 2, digest("r"), bytes(64)),
        Certificates((Certificate(result(names), signatures),)),
        Wanted(1),
    ]


def test_every_message_is_read_as_it_was_written():
    for message in [*everything(), *(Status(1, 0, RUN, readiness) for readiness in Readiness)]:
        assert decode(encode(message, RUN), RUN, max_bytes=1 << 16) == message


def test_golden_bytes():
    assert (
        digest(*[encode(message, RUN) for message in everything()]).hex()
        == "73bed5024c56b7656ec84c078c21c4b9ad09b5f5fcf2b605a8815af7f824e254"
    )


def test_of_128_members_with_the_longest_names_all_but_the_long_ones_fit_into_a_frame():
    names = [f"{number:03}{'x' * 60}" for number in range(128)]
    for message in everything(names):
        data = encode(message, RUN)
        assert len(data) <= MAX_CONTROL_BYTES, type(message)
        assert decode(data, RUN, max_bytes=1 << 16) == message
    many = page([Certificate(result(names), dict.fromkeys(names, bytes(64)))] * MAX_CERTIFICATES)
    assert 1 <= len(many.certificates) < MAX_CERTIFICATES
    assert len(encode(many, RUN)) <= MAX_CONTROL_BYTES


def test_of_another_run_or_version_or_too_long():
    data = encode(Wanted(1), RUN)
    with pytest.raises(DecodeError, match="of this run"):
        decode(data, digest("run"), max_bytes=1 << 16)
    content = loads(data, max_bytes=1 << 16)
    for wrong in ([2, *content[1:]], [1, 99, *content[2:]], [1, True, *content[2:]], content[:-1], [*content, 0]):
        with pytest.raises(DecodeError):
            decode(dumps(wrong), RUN, max_bytes=1 << 16)
    long = encode(Step(1, 0, True, bytes(MAX_CONTROL_BYTES)), RUN)
    assert decode(long, RUN, max_bytes=1 << 20).data == bytes(MAX_CONTROL_BYTES)
    with pytest.raises(DecodeError, match="the limit is"):
        decode(long, RUN, max_bytes=1 << 10)
    with pytest.raises(DecodeError):
        decode(dumps([1, 3, RUN, 1, 0, bytes(MAX_CONTROL_BYTES)]), RUN, max_bytes=1 << 20)


def test_garbage_is_refused_and_nothing_else():
    rng = random.Random(4)
    for message in everything():
        data = bytearray(encode(message, RUN))
        for _ in range(200):
            wrong = bytearray(data)
            for _ in range(rng.randint(1, 3)):
                wrong[rng.randrange(len(wrong))] = rng.randrange(256)
            end = rng.choice([len(wrong), rng.randrange(len(wrong))])
            with contextlib.suppress(DecodeError):
                decode(bytes(wrong[:end]), RUN, max_bytes=1 << 16)
