"""A header that asks for less than the device insists on, or an input that must not go into a sum: nothing is sent."""

import dataclasses
import math

import numpy as np
import pytest
from secagg_sessions import AGGREGATOR, Federation, header, identity, names, roster

from fedmesh.secagg import Participant, Policy, Ring, Roster, SecAggError, SessionHeader

SEVEN = names(7)
VECTOR = np.array([1, -2, 3])
NOISY = {"clip": 1.0, "noise_multiplier": 0.7, "noise_kind": "discrete gaussian"}


def device(policy=None, count=7, store_path=None):
    return Participant(names(count)[0], identity(names(count)[0]), roster(count), policy, store_path)


def refuses(made, *codes, policy=None, vector=VECTOR, weight=1, count=7):
    """Neither `begin` nor `join` gives a byte, and the device stays without a session."""
    participant = device(policy, count)
    with pytest.raises(SecAggError) as caught:
        participant.begin(made, vector, weight)
    assert caught.value.code in codes, caught.value
    assert participant.finished
    assert participant.seal() == b""
    return participant


def takes(made, policy=None, vector=VECTOR, weight=1, count=7):
    assert device(policy, count).begin(made, vector, weight)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_cohorts_under_the_floor(count):
    """Three devices of which the aggregator holds one: the sum minus its own is a sum of two."""
    made = header(7, cohort=SEVEN[:count], threshold=count, min_cohort=count)
    refuses(made, "policy")
    takes(header(7, cohort=SEVEN[:4], threshold=3, min_cohort=3))
    refuses(header(7, cohort=SEVEN[:4], threshold=3, min_cohort=3), "policy", policy=Policy(smallest_cohort=5))
    refuses(header(7), "policy", policy=Policy(largest_cohort=6))


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8, 9, 10, 31, 32, 33, 99, 100, 128])
def test_downgraded_thresholds(count):
    """2t > n + C with C = ceil(n/3) - 1: the least that is taken is floor(2n/3) + 1 (or one less, where that holds)."""
    colluders = math.ceil(count / 3) - 1
    for threshold in range(count + 1):
        made = header(count, threshold=threshold, min_cohort=count)
        if 2 * threshold > count + colluders:
            takes(made, count=count)
        else:
            refuses(made, "policy", "malformed", count=count)
    assert 2 * SessionHeader.threshold_for(count) > count + colluders
    refuses(header(count), "policy", policy=Policy(colluders=count - 1), count=count)


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 8},
        {"threshold": 0},
        {"threshold": -1},
        {"threshold": 5.0},
        {"threshold": True},
        {"min_cohort": 8},
        {"min_cohort": 4},  # below t
        {"min_cohort": 0},
        {"min_cohort": -1},
        {"cohort": (*SEVEN, SEVEN[0])},
        {"cohort": (*SEVEN[:6], SEVEN[0])},
        {"cohort": (*SEVEN, "")},
        {"cohort": (*SEVEN, "x" * 201)},
        {"cohort": (*SEVEN, 7)},
        {"cohort": ()},
        {"task": ""},
        {"task": None},
        {"task": "x" * 201},
        {"round": -1},
        {"round": 1.5},
        {"round": 1 << 63},
        {"attempt": -1},
        {"attempt": "1"},
        {"length": 0},
        {"length": -3},
        {"weight_cap": 0},
        {"layout_hash": None},
        {"layout_hash": 5},
        {"model_hash": bytes(65)},
        {"model_hash": None},  # without the scales
        {"deadline": "soon"},
        {"deadline": True},
    ],
)
def test_headers_that_are_none(changes):
    refuses(dataclasses.replace(header(7), **changes), "policy", "malformed", "identity")


@pytest.mark.parametrize("cohort", [SEVEN[1:], (*SEVEN[1:], "device-99"), (*SEVEN, "device-99")])
def test_cohorts_without_the_device_or_with_strangers(cohort):
    refuses(header(7, cohort=cohort, threshold=6, min_cohort=6), "identity")


def test_two_names_with_one_key_are_no_two_devices():
    """A Sybil needs a key of its own on the roster: one key under two names is refused where the roster is made."""
    with pytest.raises(SecAggError) as caught:
        Roster({**roster(7).keys, "device-07": roster(7).key(SEVEN[6])})
    assert caught.value.code == "identity"


@pytest.mark.parametrize("bits", range(2, 40))
def test_downgraded_rings(bits):
    """A ring that holds the values of the policy's width for every device at the largest weight, or nothing is sent."""
    policy, needed = Policy(value_bits=8), Ring.bits_for(7, 255, 8)
    made = header(7, weight_cap=255, ring_bits=bits)
    if bits >= needed:
        takes(made, policy)
    else:
        refuses(made, "ring", policy=policy)


@pytest.mark.parametrize("bits", [-1, 0, 1, 63, 64, 128, True, 15.0, "15"])
def test_rings_that_are_none(bits):
    refuses(dataclasses.replace(header(7), ring_bits=bits), "ring", "malformed")


def test_limits_on_what_a_header_can_ask_for():
    refuses(header(7, length=11), "policy", policy=Policy(max_length=10), vector=np.zeros(11, np.int64))
    refuses(header(7, weight_cap=256), "policy", policy=Policy(max_weight_cap=255))
    refuses(header(7, ring_bits=33), "policy", policy=Policy(max_ring_bits=32))
    refuses(header(7, length=1 << 40), "policy")  # before anything of that size is made
    refuses(header(7, length=1 << 61), "policy")


@pytest.mark.parametrize(
    "privacy",
    [
        None,
        {},
        {"clip": 1.0},
        {"noise_multiplier": 0.7},
        {"clip": 1.0, "noise_multiplier": 0.69},
        {"clip": 1.0, "noise_multiplier": 0},
        {"clip": 1.0, "noise_multiplier": -0.7},
        {"clip": 1.01, "noise_multiplier": 0.7},
        {"clip": math.inf, "noise_multiplier": 0.7},
        {"clip": math.nan, "noise_multiplier": 0.7},
        {"clip": 1.0, "noise_multiplier": math.nan},
        {"clip": 1.0, "noise_multiplier": "0.7"},
        {"clip": 1.0, "noise_multiplier": True},
        {"clip": [1.0], "noise_multiplier": 0.7},
        [["clip", 1.0], ["noise_multiplier", 0.7]],
        "clip 1.0, noise_multiplier 0.7",
        0.7,
    ],
)
def test_downgraded_noise_and_clip(privacy):
    floor = Policy(min_noise_multiplier=0.7, max_clip=1.0)
    refuses(header(7, privacy=privacy), "policy", policy=floor)
    takes(header(7, privacy=NOISY), floor)
    takes(header(7, privacy={"clip": 0.5, "noise_multiplier": 2}), floor)


@pytest.mark.parametrize("privacy", [None, {}, {**NOISY, "clip": 2.0}, {**NOISY, "more": 1}, {"clip": 1.0}])
def test_other_privacy_facts_than_the_devices_task(privacy):
    refuses(header(7, privacy=privacy), "policy", policy=Policy(privacy=NOISY))
    takes(header(7, privacy=dict(reversed(NOISY.items()))), Policy(privacy=NOISY))


@pytest.mark.parametrize("which", ["layout_hash", "scale_hash", "model_hash"])
def test_another_model_than_the_device_trained_on(which):
    refuses(header(7, **{which: b"other"}), "policy", policy=Policy(**{which: b"mine"}))
    refuses(header(7, **{which: b""}), "policy", policy=Policy(**{which: b"mine"}))
    takes(header(7, **{which: b"mine"}), Policy(**{which: b"mine"}))


@pytest.mark.parametrize("which", ["scale_hash", "model_hash"])
def test_another_model_that_is_said_late(which):
    """The header leaves the model open, so the device says what its input belongs to, and its policy has a word."""
    participant = device(Policy(**{which: b"mine"}))
    participant.join(header(7, model_hash=None, scale_hash=None))
    given = {"model_hash": b"mine", "scale_hash": b"mine"}
    for wrong, code in (({**given, which: b"other"}, "policy"), ({**given, which: None}, "input"), ({}, "input")):
        with pytest.raises(SecAggError) as caught:
            participant.supply(VECTOR, 1, **wrong)
        assert caught.value.code == code
    assert participant.supply(VECTOR, 1, **given) is None
    with pytest.raises(SecAggError) as caught:
        participant.supply(VECTOR, 1, **given)
    assert caught.value.code == "turn"


def test_another_model_than_the_header_says():
    participant = device()
    participant.join(header(7))
    with pytest.raises(SecAggError) as caught:
        participant.supply(VECTOR, 1, model_hash=b"other")
    assert caught.value.code == "policy"


# The input.


def masked_beyond():
    """Elements that a mask hides from max() and min(), not from a multiplication."""
    return np.ma.masked_array(np.array([1, 1 << 40, -(1 << 40)]), mask=[False, True, True])


@pytest.mark.parametrize(
    "vector",
    [
        np.array([1.0, 2.0, 3.0]),
        np.array([1.0, np.nan, 3.0]),
        np.array([1.0, np.inf, 3.0]),
        np.array([1, 2, 3], np.float32),
        np.array([1, 2, 3], complex),
        np.array([True, False, True]),
        np.array([1, 2, None], object),
        np.array(["1", "2", "3"]),
        np.array([1, 2, 3], "m8[s]"),
        [1, 2, 3],
        (np.array([0, 2]), np.array([1, 3])),  # a sparse support: places and values
        {0: 1, 2: 3},
        b"123",
        None,
        masked_beyond(),
        np.ma.masked_array(np.array([1, 2, 3]), mask=[True, False, True]),  # a sparse support, too
    ],
    ids=lambda value: type(value).__name__ + (str(value.dtype) if isinstance(value, np.ndarray) else ""),
)
def test_inputs_that_are_no_dense_whole_numbers(vector):
    refuses(header(7), "input", vector=vector)


@pytest.mark.parametrize(
    "vector",
    [np.arange(2), np.arange(4), np.arange(0), np.arange(3).reshape(1, 3), np.arange(3).reshape(3, 1), np.array(3)],
    ids=lambda vector: str(vector.shape),
)
def test_inputs_of_the_wrong_length(vector):
    refuses(header(7), "input", vector=vector)


@pytest.mark.parametrize("cap", [1, 2, 255])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64, ">i8"])
def test_inputs_that_could_overflow_the_ring(cap, dtype):
    made = header(7, weight_cap=cap)
    bound = made.ring.largest_value(7, cap)
    assert 7 * cap * bound < 1 << (made.ring_bits - 1)
    takes(made, vector=np.array([bound, 0, bound], dtype), weight=cap)
    refuses(made, "ring", vector=np.array([bound + 1, 0, 0], dtype))
    if np.dtype(dtype).kind == "i":
        takes(made, vector=np.array([-bound, 0, bound], dtype), weight=cap)
        refuses(made, "ring", vector=np.array([0, 0, -bound - 1], dtype))
    refuses(made, "ring", vector=np.array([0, 0, np.iinfo(dtype).max], dtype))
    refuses(made, "ring", vector=np.array([np.iinfo(dtype).min, 0, np.iinfo(dtype).max], dtype))


@pytest.mark.parametrize("weight", [0, -1, 256, 1 << 70, 1.0, 1.5, math.nan, True, "1", None, np.float64(1)])
def test_weights_beyond_the_cap(weight):
    refuses(header(7, weight_cap=255), "weight", weight=weight)


@pytest.mark.parametrize("weight", [np.uint8(255), np.int8(3), np.int64(255), np.uint64(255)])
def test_weights_of_any_width(weight):
    for bits in (20, 31, 33, 62):
        takes(header(7, weight_cap=255, ring_bits=bits), weight=weight)


def test_an_input_that_is_changed_afterwards_was_taken_as_it_was():
    federation = Federation.of(4)
    devices, aggregator = federation.devices(), federation.aggregator()
    vectors = {name: vector.copy() for name, vector in federation.vectors.items()}
    up = [(name, device.begin(federation.header, vectors[name])) for name, device in devices.items()]
    for vector in vectors.values():
        vector[:] = 1 << 40
    while aggregator.result is None:
        down = [sent for name, message in up for sent in aggregator.handle(name, message)]
        up = [(name, devices[name].handle(message)) for name, message in down]
    assert aggregator.result.total.tolist() == federation.sum_over(names(4))[:-1]


def test_a_refused_header_does_not_use_the_round_up(tmp_path):
    participant = device(store_path=tmp_path / "store")
    for _ in range(3):
        with pytest.raises(SecAggError):
            participant.begin(header(7, threshold=4), VECTOR)
        with pytest.raises(SecAggError):
            participant.begin(header(7), VECTOR * 1.0)
    assert participant.begin(header(7), VECTOR)


@pytest.mark.parametrize(("pinned", "taken"), [(AGGREGATOR, True), (SEVEN[1], False), ("nobody", False), (None, True)])
def test_a_device_that_knows_its_aggregator_hears_nobody_else(pinned, taken):
    """Everybody on the roster has a key that verifies; one device's policy says whose sessions it is in."""
    federation = Federation.of(4)
    devices, aggregator = federation.devices(), federation.aggregator()
    first = federation.header.cohort[0]
    devices[first] = Participant(first, identity(first), federation.roster, Policy(aggregator=pinned))
    up = federation.begin(devices)
    down = dict(sent for name, message in up.items() for sent in aggregator.handle(name, message))
    if taken:
        assert devices[first].handle(down[first])
    else:
        with pytest.raises(SecAggError, match="should have") as caught:
            devices[first].handle(down[first])
        assert caught.value.code == "identity"
