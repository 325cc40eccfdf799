"""Secure aggregation driven from outside, by nothing but the names that `fedmesh.secagg` promises.

What is inside has tests of its own; these are what an application that knows the interface only may rely on.
"""

import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest

from fedmesh.secagg import (
    Aggregator,
    Identity,
    Participant,
    Policy,
    Roster,
    SecAggError,
    SessionHeader,
    SumResult,
    decode_masked,
)

NAMES = tuple(f"device {number:03d}" for number in range(100))
IDENTITIES = {name: Identity.generate() for name in (*NAMES, "aggregator")}
ROSTER = Roster({name: identity.public for name, identity in IDENTITIES.items()})
STEPS = ("advertise", "share", "mask", "sign", "unmask")


def header(members=4, **changes):
    threshold = 2 * members // 3 + 1
    facts = {
        "task": "digits",
        "round": 1,
        "attempt": 1,
        "cohort": NAMES[:members],
        "threshold": threshold,
        "min_cohort": threshold,
        "ring_bits": 24,
        "length": 6,
        "weight_cap": 255,
        "layout_hash": b"l" * 32,
        "scale_hash": b"s" * 32,
        "model_hash": b"m" * 32,
        "privacy": "none",
        "deadline": 60.0,
    }
    return SessionHeader(**(facts | changes))


def device(name=NAMES[0], store_path=None):
    return Participant(name, IDENTITIES[name], ROSTER, Policy(), store_path=store_path)


def aggregator(made):
    return Aggregator(made, IDENTITIES["aggregator"], ROSTER)


def inputs(made, rng):
    """Vectors and weights that fill the ring to what it holds."""
    bound = (2 ** (made.ring_bits - 1) - 1) // (len(made.cohort) * made.weight_cap)
    vectors = {name: rng.integers(-bound, bound, made.length, endpoint=True) for name in made.cohort}
    return vectors, {name: int(rng.integers(1, made.weight_cap, endpoint=True)) for name in made.cohort}


def messages(made, vectors, weights, lost=None, sums=None):
    """Runs a session; yields what went up and came down in each step. `lost`: device -> the step it is silent from."""
    lost, devices, sums = lost or {}, {name: device(name) for name in made.cohort}, sums or aggregator(made)
    down = None
    for step in STEPS:
        up = []
        for name, message in down or [(name, b"") for name in made.cohort]:
            reply = (
                devices[name].handle(message)
                if down
                else devices[name].begin(made, vectors[name], weight=weights[name])
            )
            if name not in lost or STEPS.index(step) < STEPS.index(lost[name]):
                up.append((name, reply))
        down = [outgoing for name, message in up for outgoing in sums.handle(name, message)]
        if len(up) < len(made.cohort) and not down and sums.result is None:
            down = sums.advance()
        yield up, down


def run(made, vectors, weights, lost=None):
    sums = aggregator(made)
    for _ in messages(made, vectors, weights, lost, sums):
        pass
    return sums.result


def assert_right(result, made, vectors, weights):
    assert isinstance(result, SumResult)
    assert result.total.dtype == np.int64
    assert result.total.tolist() == sum(weights[n] * vectors[n] for n in result.survivors).tolist()
    assert result.weight == sum(weights[name] for name in result.survivors)
    assert result.sid == made.sid
    assert len(result.signatures) >= made.threshold


@pytest.mark.parametrize("members", [4, 7, 32])
@pytest.mark.parametrize("step", STEPS)
def test_losing_all_that_may_be_lost_at_one_step(members, step):
    made = header(members, ring_bits=30)
    vectors, weights = inputs(made, np.random.default_rng(members))
    gone = made.cohort[-(members - made.threshold) :]
    result = run(made, vectors, weights, dict.fromkeys(gone, step))
    assert_right(result, made, vectors, weights)
    heard_in_time = step in {"sign", "unmask"}
    assert result.survivors == (made.cohort if heard_in_time else made.cohort[: made.threshold])


@pytest.mark.parametrize("step", STEPS)
def test_losing_one_more_is_an_abort(step):
    made = header(7)
    vectors, weights = inputs(made, np.random.default_rng(1))
    with pytest.raises(SecAggError) as caught:
        run(made, vectors, weights, dict.fromkeys(made.cohort[:3], step))
    assert caught.value.code == "threshold"


def test_losses_at_every_step_of_a_hundred():
    made = header(100, ring_bits=31)
    vectors, weights = inputs(made, np.random.default_rng(100))
    gone = random.Random(100).sample(made.cohort, 33)
    result = run(made, vectors, weights, {name: STEPS[place % 5] for place, name in enumerate(gone)})
    assert_right(result, made, vectors, weights)


@pytest.mark.parametrize(("bits", "cap", "ring_bits"), [(8, 1, 15), (8, 255, 23), (16, 255, 31)])
def test_the_rings_of_the_design_take_the_extremes_of_a_hundred(bits, cap, ring_bits):
    made = header(100, ring_bits=ring_bits, weight_cap=cap)
    extremes = np.array([2 ** (bits - 1) - 1, -(2 ** (bits - 1)), 0] * 2)
    assert device().begin(made, extremes, weight=cap)


@pytest.mark.parametrize("ring_bits", [10, 18, 62])
def test_extremes_are_summed_and_one_more_is_refused(ring_bits):
    made = header(4, ring_bits=ring_bits, weight_cap=7, length=2)
    bound = (2 ** (ring_bits - 1) - 1) // 28
    vectors = {name: np.array([bound, -bound]) for name in made.cohort}
    result = run(made, vectors, dict.fromkeys(made.cohort, 7))
    assert result.total.tolist() == [28 * bound, -28 * bound]
    for beyond in (bound + 1, -bound - 1):
        with pytest.raises(SecAggError):
            device().begin(made, np.array([0, beyond]), weight=1)


@pytest.mark.parametrize("number", [0, 1, 7])
def test_rounds_and_attempts_count_from_nought(number):
    made = header(round=number, attempt=number)
    vectors, weights = inputs(made, np.random.default_rng(number))
    assert_right(run(made, vectors, weights), made, vectors, weights)


def test_the_session_id_covers_every_field():
    changes = [
        {"task": "other"},
        {"round": 2},
        {"attempt": 2},
        {"cohort": NAMES[3::-1]},
        {"threshold": 4, "min_cohort": 4},
        {"min_cohort": 4},
        {"ring_bits": 25},
        {"length": 7},
        {"weight_cap": 254},
        {"layout_hash": b"x" * 32},
        {"scale_hash": b"x" * 32},
        {"model_hash": b"x" * 32},
        {"privacy": "some"},
        {"deadline": 61.0},
    ]
    ids = [header(**change).sid for change in changes]
    assert header().sid == header().sid
    assert len({header().sid, *ids}) == 1 + len(changes)
    assert all(len(sid) == 32 for sid in ids)


@pytest.mark.parametrize("members", [4, 7, 32, 100])
def test_thresholds_that_colluders_could_beat_are_refused(members):
    colluders = -(-members // 3) - 1
    for threshold in range(1, members + 1):
        made = header(members, threshold=threshold, min_cohort=members, ring_bits=31)
        if 2 * threshold > members + colluders:
            assert device().begin(made, np.zeros(6, np.int64))
        else:
            with pytest.raises(SecAggError):
                device().begin(made, np.zeros(6, np.int64))


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": NAMES[:3]},
        {"min_cohort": 2},
        {"ring_bits": 10},
        {"ring_bits": 64},
        {"cohort": NAMES[1:5]},
        {"cohort": (*NAMES[:3], "stranger")},
        {"cohort": (*NAMES[:3], NAMES[0])},
        {"weight_cap": 0},
        {"length": 0},
        {"length": -1},
        {"round": -1},
        {"attempt": -1},
    ],
    ids=str,
)
def test_headers_that_a_device_refuses(changes):
    with pytest.raises(SecAggError):
        device().begin(header(**changes), np.zeros(6, np.int64))


@pytest.mark.parametrize("weight", [0, 256, -1, 1.0, float("nan"), "1", None, 1 << 70])
def test_weights_that_a_device_refuses(weight):
    with pytest.raises(SecAggError):
        device().begin(header(), np.zeros(6, np.int64), weight)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(5, np.int64),
        np.zeros(7, np.int64),
        np.zeros((2, 3), np.int64),
        np.zeros(6),
        np.full(6, np.nan),
        np.full(6, -(2**63)),
        np.full(6, 2**63, np.uint64),
        None,
    ],
    ids=["short", "long", "table", "floats", "nan", "least", "greatest", "none"],
)
def test_inputs_that_a_device_refuses(vector):
    with pytest.raises(SecAggError):
        device().begin(header(), vector)


def test_who_is_not_who_the_roster_says_does_not_begin():
    nobody = Participant("nobody", Identity.generate(), ROSTER, Policy())
    other = Participant(NAMES[0], Identity.generate(), ROSTER, Policy())
    for participant in (nobody, other):
        with pytest.raises(SecAggError) as caught:
            participant.begin(header(cohort=(*NAMES[:4], "nobody")), np.zeros(6, np.int64))
        assert caught.value.code == "identity"


@pytest.mark.parametrize("kept", [False, True])
def test_rounds_that_were_begun_do_not_come_again(tmp_path, kept):
    path = tmp_path / "store" if kept else None
    first, zeros = device(store_path=path), np.zeros(6, np.int64)
    first.begin(header(round=5), zeros)
    for number in (5, 4, 0):
        with pytest.raises(SecAggError) as caught:
            (device(store_path=path) if kept else first).begin(header(round=number), zeros)
        assert caught.value.code == "replay"
    restarted = device(store_path=path) if kept else first
    assert restarted.begin(header(round=5, attempt=2), zeros)
    assert restarted.begin(header(round=6), zeros)
    assert restarted.begin(header(round=1, task="another"), zeros)


CHILD = """
import os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from test_secagg_public_api import Identity, Participant, Policy, Roster, header
identity = Identity.from_private(bytes.fromhex(sys.argv[3]))
keys = dict(pair.split("=") for pair in sys.argv[4:])
roster = Roster({name: bytes.fromhex(key) for name, key in keys.items()})
Participant(header().cohort[0], identity, roster, Policy(), sys.argv[2]).begin(header(round=9), np.zeros(6, np.int64))
print("begun", flush=True)
sys.stdin.read()
"""


def test_a_killed_device_remembers_its_rounds(tmp_path):
    store, folder = tmp_path / "store", os.path.dirname(__file__)  # noqa: PTH120
    private = IDENTITIES[NAMES[0]].private_bytes().hex()
    keys = [f"{name}={ROSTER.key(name).hex()}" for name in NAMES[:4]]
    command = [sys.executable, "-c", CHILD, folder, str(store), private, *keys]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGKILL)
    for number in (9, 8):
        with pytest.raises(SecAggError):
            device(store_path=store).begin(header(round=number), np.zeros(6, np.int64))
    assert device(store_path=store).begin(header(round=10), np.zeros(6, np.int64))


def test_only_a_masked_input_is_decoded():
    made = header(length=20_000, ring_bits=23)
    vectors, weights = inputs(made, np.random.default_rng(5))
    for step, (up, down) in enumerate(messages(made, vectors, weights)):
        for _, message in down if STEPS[step] == "mask" else up + down:
            with pytest.raises(SecAggError):
                decode_masked(message)
        if STEPS[step] == "mask":
            for name, message in up:
                assert_masked(decode_masked(message), vectors[name], made)
                assert len(message) * 8 <= 1.02 * made.ring_bits * made.length
    for noise in (b"", b"\0", b"x" * 1_000_000, None, 5, "text"):
        with pytest.raises(SecAggError):
            decode_masked(noise)


def assert_masked(ring, vector, made):
    """Nothing of the input shows: low and high bytes are uniform (chi-square with 255 degrees, 6 deviations)."""
    assert ring.dtype == np.uint64
    assert ring.max() < 2**made.ring_bits
    assert len(ring) == made.length + 1  # the weight is the last
    assert np.mean(ring[:-1] == vector.astype(np.uint64) % 2**made.ring_bits) < 0.01
    for shift in (0, made.ring_bits - 8):
        counts = np.bincount((ring >> np.uint64(shift)).astype(np.uint8), minlength=256)
        expected = len(ring) / 256
        assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 6 * np.sqrt(2 * 255)


def test_two_rounds_of_one_input_are_masked_differently():
    made = header(length=1000)
    vectors, weights = inputs(made, np.random.default_rng(6))
    sent = [list(messages(header(length=1000, round=number), vectors, weights))[2][0] for number in (1, 2)]
    for (_, first), (_, second) in zip(*sent, strict=True):
        assert np.mean(decode_masked(first) == decode_masked(second)) < 0.01


def test_messages_of_one_round_do_nothing_in_another():
    vectors, weights = inputs(header(), np.random.default_rng(7))
    old = list(messages(header(), vectors, weights))
    made = header(round=2)
    devices, sums = {name: device(name) for name in made.cohort}, aggregator(made)
    up = [(name, devices[name].begin(made, vectors[name], weights[name])) for name in made.cohort]
    while up:
        for sent, received in old:
            for name, message in sent:
                with pytest.raises(SecAggError):
                    sums.handle(name, message)
            for name, message in received:
                with pytest.raises(SecAggError):
                    devices[name].handle(message)
        down = [outgoing for name, message in up for outgoing in sums.handle(name, message)]
        up = [(name, devices[name].handle(message)) for name, message in down]
    assert_right(sums.result, made, vectors, weights)


def test_an_aggregator_that_tells_two_stories_gets_no_shares():
    """Two aggregators with one identity; one of them is not shown the last device's masked input."""
    made = header(7)
    vectors, weights = inputs(made, np.random.default_rng(8))
    devices = {name: device(name) for name in made.cohort}
    honest, other = aggregator(made), aggregator(made)
    up = [(name, devices[name].begin(made, vectors[name], weights[name])) for name in made.cohort]
    for _ in ("advertise", "share"):
        down = [outgoing for name, message in up for outgoing in honest.handle(name, message)]
        for name, message in up:
            other.handle(name, message)
        up = [(name, devices[name].handle(message)) for name, message in down]
    all_seven = dict(outgoing for name, message in up for outgoing in honest.handle(name, message))
    for name, message in up[:-1]:
        other.handle(name, message)
    only_six = dict(other.advance())
    told = {name: all_seven if place < 3 else only_six for place, name in enumerate(made.cohort[:-1])}
    signed = [(name, devices[name].handle(message[name])) for name, message in told.items()]
    for sums in (honest, other):
        refusals = 0
        for name, message in signed:
            try:
                assert sums.handle(name, message) == []
            except SecAggError:
                refusals += 1
        assert refusals == 3
        with pytest.raises(SecAggError):
            sums.advance()
    for name, told_before in told.items():
        with pytest.raises(SecAggError):
            devices[name].handle((only_six if told_before is all_seven else all_seven)[name])
